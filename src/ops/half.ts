import type { DType, FloatType } from "../graph/types.ts";

/** The number by which a kernel command says how floats lie in memory (assembly/half.ts). */
export const HALF_CODE: Readonly<Record<FloatType, number>> = { f32: 0, bf16: 1, f16: 2 };

export function isFloat(dtype: DType): dtype is FloatType {
  return dtype in HALF_CODE;
}
