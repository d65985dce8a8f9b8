import { describe, expect, test } from "bun:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { ONNX_DTYPE } from "../../src/onnx/encode.ts";
import {
  AttributeProto_AttributeType as AttributeType,
  ModelProtoSchema,
  TensorProto_DataType as DataType,
} from "../../src/onnx/gen/onnx_pb.ts";
import { ATTRIBUTE_TYPE, encodeModel, type ModelProto } from "../../src/onnx/messages.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { opGraph } from "../support/ops.ts";
import { SAMPLES } from "./samples.ts";

/** A value in every field; texts of all lengths of UTF-8, and long enough for lengths of two bytes. */
const MODEL: ModelProto = {
  irVersion: 11,
  producerName: "remat",
  docString: "ünï → 𝕏".repeat(40),
  opsetImport: [{ domain: "", version: 23 }],
  metadataProps: [{ key: "a", value: "" }],
  graph: {
    name: "graph",
    node: [
      {
        input: ["x", "", "y"],
        output: ["z"],
        name: "node",
        opType: "Op",
        domain: "remat",
        overload: "2",
        attribute: [
          { name: "float", type: ATTRIBUTE_TYPE.FLOAT, f: -0.5 },
          { name: "int", type: ATTRIBUTE_TYPE.INT, i: -Number.MAX_SAFE_INTEGER },
          { name: "string", type: ATTRIBUTE_TYPE.STRING, s: "é" },
          { name: "floats", type: ATTRIBUTE_TYPE.FLOATS, floats: [0, Infinity, 2 ** -140] },
          { name: "ints", type: ATTRIBUTE_TYPE.INTS, ints: [0, -1, 127, 128, 2 ** 31, 2 ** 32, Number.MAX_SAFE_INTEGER] },
          {
            name: "tensor",
            type: ATTRIBUTE_TYPE.TENSOR,
            t: { name: "t", dims: [2, 0, 300], dataType: ONNX_DTYPE.u8, rawData: Uint8Array.from({ length: 200 }, (_, i) => i) },
          },
        ],
        metadataProps: [{ key: "k", value: "v" }],
      },
    ],
    initializer: [{ name: "constant", dims: [], dataType: ONNX_DTYPE.i64, rawData: new Uint8Array(8) }],
    input: [
      {
        name: "x",
        docString: "an input",
        metadataProps: [{ key: "remat.role", value: "param" }],
        type: { tensorType: { elemType: ONNX_DTYPE.bf16, shape: { dim: [{ dimValue: 3 }, { dimParam: "n" }] } } },
      },
    ],
    output: [],
    valueInfo: [{ name: "z", type: { tensorType: { elemType: ONNX_DTYPE.f32, shape: { dim: [] } } } }],
  },
  functions: [
    {
      name: "Op",
      overload: "2",
      domain: "remat",
      input: ["input0"],
      output: ["output0"],
      attribute: ["int"],
      node: [{ opType: "Identity", input: ["input0"], output: ["output0"] }],
      docString: "a function",
      opsetImport: [{ domain: "", version: 23 }],
    },
  ],
};

/** A message as its fields that are set: the generated code has empty lists too, integers as bigints and a `oneof` as case and value. */
function plain(message: unknown): unknown {
  if (typeof message === "bigint") return Number(message);
  if (Array.isArray(message)) return message.map(plain);
  if (typeof message !== "object" || message === null || message instanceof Uint8Array) return message;
  const fields = Object.entries(message as Record<string, unknown>).flatMap(([name, value]): [string, unknown][] => {
    if (name === "$typeName" || (Array.isArray(value) && value.length === 0)) return [];
    if (name === "s") return [[name, Buffer.from(value as string | Uint8Array).toString()]];
    const oneof = value as { readonly case?: string; readonly value?: unknown };
    return oneof.case === undefined ? [[name, plain(value)]] : [[oneof.case, plain(oneof.value)]];
  });
  return Object.fromEntries(fields);
}

describe("the messages of an ONNX file", () => {
  test("every field is read by the generated code as what it was written as", () => {
    expect(plain(fromBinary(ModelProtoSchema, encodeModel(MODEL)))).toEqual(plain(MODEL));
  });

  test("bytes are those that the generated code writes: fields in order, each value of a list with its tag", () => {
    const names = (Object.keys(OPS) as OpName[]).filter((name) => SAMPLES[name].length > 0);
    const models = names.map((name) => {
      const { attrs, inputs } = SAMPLES[name][0]!;
      const { builder, outputs } = opGraph({ op: opOf({ op: name }), inputs, attrs });
      for (const output of outputs) builder.output({ name: output, role: "boundary" });
      return writeModel(builder.build());
    });
    for (const bytes of [encodeModel(MODEL), ...models]) {
      const again = toBinary(ModelProtoSchema, fromBinary(ModelProtoSchema, bytes));
      expect(Buffer.from(again).equals(bytes)).toBe(true);
    }
  });

  test("numbers of types are ONNX's", () => {
    const { FLOAT, UINT8, INT8, INT32, INT64, BOOL, FLOAT16, UINT32, UINT64, BFLOAT16 } = DataType;
    expect(ONNX_DTYPE).toEqual({
      f32: FLOAT,
      u8: UINT8,
      i8: INT8,
      i32: INT32,
      i64: INT64,
      bool: BOOL,
      f16: FLOAT16,
      u32: UINT32,
      u64: UINT64,
      bf16: BFLOAT16,
    });
    for (const [name, number] of Object.entries(ATTRIBUTE_TYPE)) expect(AttributeType[number]).toBe(name);
  });
});
