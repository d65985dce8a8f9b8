/** Soft capping (Gemma 2, arXiv 2408.00118): z = cap tanh(x / cap), whose derivative is 1 - (z / cap)^2. */
import { loadSome, storeSome } from "./lanes";
import { tanh4 } from "./math";

/** `inverse` is 1 / cap. */
// @ts-ignore: decorator
@inline
export function softCap4(x: v128, cap: v128, inverse: v128): v128 {
  return f32x4.mul(cap, tanh4(f32x4.mul(x, inverse)));
}

/** The derivative where the result is `z`; 0 where that is -infinity, which stands for what is masked. */
// @ts-ignore: decorator
@inline
export function capSlope4(z: v128, inverse: v128): v128 {
  // pmax(a, b) is a < b ? b : a: a NaN stays.
  const t = f32x4.pmax(f32x4.mul(z, inverse), f32x4.splat(-1));
  return f32x4.sub(f32x4.splat(1), f32x4.mul(t, t));
}

/** y[n] = cap tanh(x[n] / cap); y may be x. */
export function softCap(x: usize, y: usize, n: i32, cap: f32): void {
  const factor = f32x4.splat(cap), inverse = f32x4.splat(1 / cap);
  const end = y + ((<usize>n & ~3) << 2);
  for (; y < end; x += 16, y += 16) v128.store(y, softCap4(v128.load(x), factor, inverse));
  if (n & 3) storeSome(y, softCap4(loadSome(x, n & 3), factor, inverse), n & 3);
}

/** The soft cap of one number. */
export function softCapOf(x: f32, cap: f32): f32 {
  return f32x4.extract_lane(softCap4(f32x4.splat(x), f32x4.splat(cap), f32x4.splat(1 / cap)), 0);
}

export function capSlopeOf(z: f32, cap: f32): f32 {
  return f32x4.extract_lane(capSlope4(f32x4.splat(z), f32x4.splat(1 / cap)), 0);
}
