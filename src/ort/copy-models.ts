import type { DType } from "../base/dtype.ts";
import { encodeTensor, ONNX_DTYPE } from "../onnx/encode.ts";
import { ATTRIBUTE_TYPE, encodeModel, type NodeProto, type ValueInfoProto } from "../onnx/messages.ts";

/** Old enough that each provider has a kernel for these operators. */
const OPSET = 13;
const IR_VERSION = 7;

/** y [n] = x [n], bytes. */
export function copyModel(): Uint8Array {
  return model("copy", { opType: "Identity", input: ["x"], output: ["y"] }, "u8");
}

/** y [n] = 2 x [n], f16: runs where a device computes in it. */
export function halfModel(): Uint8Array {
  return model("half", { opType: "Add", input: ["x", "x"], output: ["y"] }, "f16", "f16");
}

/** y = as many zero bytes as x, i64 [1], says. */
export function zeroModel(): Uint8Array {
  const value = { name: "value", type: ATTRIBUTE_TYPE.TENSOR, t: encodeTensor("", { dtype: "u8", shape: [1] }, [0]) };
  return model("zero", { opType: "ConstantOfShape", input: ["x"], output: ["y"], attribute: [value] }, "i64");
}

function model(name: string, node: NodeProto, input: DType, output: DType = "u8"): Uint8Array {
  const vector = (name: string, dtype: DType): ValueInfoProto => ({
    name,
    type: { tensorType: { elemType: ONNX_DTYPE[dtype], shape: { dim: [{ dimParam: `${name}_length` }] } } },
  });
  return encodeModel({
    irVersion: IR_VERSION,
    producerName: "remat",
    opsetImport: [{ domain: "", version: OPSET }],
    graph: { name, node: [node], input: [vector("x", input)], output: [vector("y", output)] },
  });
}
