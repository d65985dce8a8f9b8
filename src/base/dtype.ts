/** Element types. The numbers that ONNX has for element types are in `onnx/`, sizes in bytes are here. */
export type DType = "f32" | "bf16" | "f16" | "i32" | "i64" | "u32" | "u64" | "i8" | "u8" | "bool";

/** Bytes of an element. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = {
  f32: 4,
  bf16: 2,
  f16: 2,
  i32: 4,
  i64: 8,
  u32: 4,
  u64: 8,
  i8: 1,
  u8: 1,
  bool: 1,
};

/** The dtypes a floating-point weight may have in memory; activations and gradients are `f32`. */
export type FloatType = "f32" | "bf16" | "f16";
