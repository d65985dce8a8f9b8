import { create, toBinary } from "@bufbuild/protobuf";
import { encodeTensor } from "../onnx/encode.ts";
import {
  AttributeProtoSchema,
  AttributeProto_AttributeType as AttributeType,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  TensorProto_DataType as DataType,
  ValueInfoProtoSchema,
} from "../onnx/gen/onnx_pb.ts";

/** Old enough that each provider has a kernel for these operators. */
const OPSET = 13n;
const IR_VERSION = 7n;

/** y [n] = x [n], bytes. */
export function copyModel(): Uint8Array {
  const node = create(NodeProtoSchema, { opType: "Identity", input: ["x"], output: ["y"] });
  return model("copy", node, DataType.UINT8);
}

/** y = as many zero bytes as x, i64 [1], says. */
export function zeroModel(): Uint8Array {
  const value = create(AttributeProtoSchema, {
    name: "value",
    type: AttributeType.TENSOR,
    t: encodeTensor("", { dtype: "u8", shape: [1] }, [0]),
  });
  const node = create(NodeProtoSchema, { opType: "ConstantOfShape", input: ["x"], output: ["y"], attribute: [value] });
  return model("zero", node, DataType.INT64);
}

function model(name: string, node: NodeProto, input: DataType): Uint8Array {
  const vector = (name: string, elemType: DataType) =>
    create(ValueInfoProtoSchema, {
      name,
      type: {
        value: {
          case: "tensorType",
          value: { elemType, shape: { dim: [{ value: { case: "dimParam", value: `${name}_length` } }] } },
        },
      },
    });
  return toBinary(
    ModelProtoSchema,
    create(ModelProtoSchema, {
      irVersion: IR_VERSION,
      producerName: "remat",
      opsetImport: [{ domain: "", version: OPSET }],
      graph: { name, node: [node], input: [vector("x", input)], output: [vector("y", DataType.UINT8)] },
    }),
  );
}
