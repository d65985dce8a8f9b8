import type { ProductShape } from "../ops/types.ts";

/** As ONNX_OPSET and IR_VERSION in src/onnx, which would load a whole protobuf library for this one node. */
const OPSET = 23;
const IR_VERSION = 11;

/** The bytes of an ONNX model of one `Gemm` of any sizes: inputs A, B and (with an addend) C, output Y, f32. */
export function gemmModel({
  transA,
  transB,
  addend,
  alpha,
}: Pick<ProductShape, "transA" | "transB" | "addend" | "alpha">): Uint8Array {
  const inputs = addend === "none" ? ["A", "B"] : ["A", "B", "C"];
  // AttributeProto: name 1, f 2 or i 3, type 20 (FLOAT 1, INT 2).
  const floatAttribute = (name: string, value: number) => message(5, text(1, name), float(2, value), int(20, 1));
  const intAttribute = (name: string, value: boolean) => message(5, text(1, name), int(3, Number(value)), int(20, 2));
  // NodeProto: inputs 1, outputs 2, op_type 4, attributes 5.
  const node = message(
    1,
    ...inputs.map((name) => text(1, name)),
    text(2, "Y"),
    text(4, "Gemm"),
    floatAttribute("alpha", alpha),
    intAttribute("transA", transA),
    intAttribute("transB", transB),
  );
  const graph = message(
    7,
    node,
    text(2, "gemm"),
    ...inputs.map((name) => valueInfo(11, name, name === "C" && addend === "row" ? 1 : 2)),
    valueInfo(12, "Y", 2),
  );
  return Uint8Array.from([...int(1, IR_VERSION), ...graph, ...message(8, int(2, OPSET))]);
}

/** ValueInfoProto: name 1, type 2 { tensor_type 1 { elem_type 1, shape 2 { dim 1 { dim_param 2 } } } }. */
function valueInfo(field: number, name: string, rank: number): number[] {
  const dims = Array.from({ length: rank }, (_, axis) => message(1, text(2, `${name}${axis}`)));
  return message(field, text(1, name), message(2, message(1, int(1, 1), message(2, ...dims))));
}

// The wire format, https://protobuf.dev/programming-guides/encoding/: (field << 3 | type), then the value.
function int(field: number, value: number): number[] {
  return [...varint(field << 3), ...varint(value)];
}

function float(field: number, value: number): number[] {
  return [...varint((field << 3) | 5), ...new Uint8Array(Float32Array.of(value).buffer)];
}

function message(field: number, ...parts: readonly number[][]): number[] {
  const body = parts.flat();
  return [...varint((field << 3) | 2), ...varint(body.length), ...body];
}

function text(field: number, value: string): number[] {
  return message(field, [...new TextEncoder().encode(value)]);
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >> 7)];
}
