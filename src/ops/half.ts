import type { TensorType } from "../graph/types.ts";
import type { DType, FloatType } from "../base/dtype.ts";

/** The number by which a kernel command says how floats lie in memory (assembly/half.ts). */
export const HALF_CODE: Readonly<Record<FloatType, number>> = { f32: 0, bf16: 1, f16: 2 };

export function isFloat(dtype: DType): dtype is FloatType {
  return dtype in HALF_CODE;
}

/** Tells whether all are floats of one type: f32, or the half type that a runtime computes in. */
export function areFloats(...types: readonly (TensorType | null | undefined)[]): boolean {
  const [first] = types;
  return !!first && isFloat(first.dtype) && types.every((type) => type?.dtype === first.dtype);
}
