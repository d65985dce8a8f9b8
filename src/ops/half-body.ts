import type { FloatType } from "../base/dtype.ts";
import type { BodyBuilder } from "./types.ts";

/** In a body that computes in a half type: what needs the range or the mantissa of f32 (sums, exponentials) is widened for it. */
export function widen(body: BodyBuilder, x: string, dtype: FloatType): string {
  return dtype === "f32" ? x : body.op("Cast", [x], { to: "f32" });
}

/** The way back, in front of a product of matrices: rounded to nearest. */
export function narrow(body: BodyBuilder, x: string, dtype: FloatType): string {
  return dtype === "f32" ? x : body.op("Cast", [x], { to: dtype });
}
