import { type AttrValue, type Attrs, elements, type TensorType } from "../graph/types.ts";
import { DTYPE_BYTES, type DType } from "../base/dtype.ts";
import { fromFloat32 } from "../base/float16.ts";
import {
  ATTRIBUTE_TYPE,
  type AttributeProto,
  type StringStringEntryProto,
  type TensorProto,
  type ValueInfoProto,
} from "./messages.ts";

/** ONNX's numbers of the element types (`TensorProto.DataType`). */
export const ONNX_DTYPE: Readonly<Record<DType, number>> = {
  f32: 1,
  u8: 2,
  i8: 3,
  i32: 6,
  i64: 7,
  bool: 9,
  f16: 10,
  u32: 12,
  u64: 13,
  bf16: 16,
};

const DTYPES: ReadonlyMap<number, DType> = new Map(Object.entries(ONNX_DTYPE).map(([name, number]) => [number, name as DType]));

/** The element type of an ONNX number. */
export function dtypeOf(number: number): DType | undefined {
  return DTYPES.get(number);
}

/** Attributes that ONNX declares as floating point; a number under any other name is an integer. */
const FLOAT_ATTRS: ReadonlySet<string> = new Set([
  "alpha",
  "beta",
  "epsilon",
  "scale",
  "downScale",
  "probability",
  "softcap",
  "limit",
]);

/**
 * Attributes of the graph types that ONNX takes as constant 1-D i64 inputs behind the node's own inputs: the shape of
 * a `Reshape` is static here.
 */
export const CONSTANT_INPUTS: Readonly<Record<string, readonly string[]>> = { Reshape: ["shape"] };

/** Attributes in the order of their names, so that equal nodes have equal bytes. */
export function encodeAttributes(op: string, attrs: Attrs, skip: readonly string[] = []): AttributeProto[] {
  return Object.entries(attrs)
    .filter(([name]) => !skip.includes(name))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => encodeAttribute(op, name, value));
}

function encodeAttribute(op: string, name: string, value: AttrValue): AttributeProto {
  const int = (number: number): number => {
    if (Number.isSafeInteger(number)) return number;
    throw new Error(`${op}: attribute ${name} = ${number} is not an integer; only ${[...FLOAT_ATTRS].join(", ")} are floats`);
  };
  // The element type of a Cast is a number in ONNX.
  if (name === "to" && typeof value === "string" && value in ONNX_DTYPE) value = ONNX_DTYPE[value as DType];
  if (typeof value === "string") return { name, type: ATTRIBUTE_TYPE.STRING, s: value };
  if (typeof value === "number") {
    return FLOAT_ATTRS.has(name)
      ? { name, type: ATTRIBUTE_TYPE.FLOAT, f: value }
      : { name, type: ATTRIBUTE_TYPE.INT, i: int(value) };
  }
  return FLOAT_ATTRS.has(name)
    ? { name, type: ATTRIBUTE_TYPE.FLOATS, floats: value }
    : { name, type: ATTRIBUTE_TYPE.INTS, ints: value.map(int) };
}

export function encodeValueInfo(
  name: string,
  type: TensorType,
  docString = "",
  metadata: Readonly<Record<string, string>> = {},
): ValueInfoProto {
  return {
    name,
    type: { tensorType: { elemType: ONNX_DTYPE[type.dtype], shape: { dim: type.shape.map((dimValue) => ({ dimValue })) } } },
    ...(docString && { docString }),
    metadataProps: encodeMetadata(metadata),
  };
}

export function encodeMetadata(entries: Readonly<Record<string, string>>): StringStringEntryProto[] {
  return Object.entries(entries).map(([key, value]) => ({ key, value }));
}

/** A constant tensor as raw little-endian bytes. */
export function encodeTensor(name: string, type: TensorType, data: readonly (number | bigint)[]): TensorProto {
  const count = elements(type.shape);
  if (data.length !== count) {
    throw new Error(`constant ${name}: expected ${count} numbers for shape [${type.shape.join(", ")}], got ${data.length}`);
  }
  const size = DTYPE_BYTES[type.dtype];
  const rawData = new Uint8Array(count * size);
  const view = new DataView(rawData.buffer);
  data.forEach((value, i) => setElement(view, i * size, type.dtype, value));
  return { name, dims: type.shape, dataType: ONNX_DTYPE[type.dtype], rawData };
}

function setElement(view: DataView, at: number, dtype: DType, value: number | bigint): void {
  switch (dtype) {
    case "f32":
      return view.setFloat32(at, Number(value), true);
    case "f16":
      return view.setFloat16(at, Number(value), true);
    case "bf16":
      return new Uint8Array(view.buffer).set(fromFloat32(Float32Array.of(Number(value)), dtype), at);
    case "i32":
      return view.setInt32(at, Number(value), true);
    case "u32":
      return view.setUint32(at, Number(value), true);
    case "i64":
      return view.setBigInt64(at, BigInt(value), true);
    case "u64":
      return view.setBigUint64(at, BigInt(value), true);
    case "i8":
      return view.setInt8(at, Number(value));
    case "u8":
    case "bool":
      return view.setUint8(at, Number(value));
  }
}
