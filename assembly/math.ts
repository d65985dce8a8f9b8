/** Vector functions on four f32 lanes. */

// @ts-ignore: decorator
@inline
function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/**
 * exp(x), relative error < 2e-7 on [-87, 88]; below it returns about 1e-38 (never 0), above it the value at 88.
 * Cephes' reduction: x = n ln 2 + r, |r| <= ln 2 / 2, exp(x) = 2^n p(r).
 */
// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  x = f32x4.pmax(splat(-87.3), f32x4.pmin(splat(88.3), x));
  const n = f32x4.nearest(f32x4.mul(x, splat(1.4426950408889634)));
  let r = f32x4.sub(x, f32x4.mul(n, splat(0.693359375)));
  r = f32x4.sub(r, f32x4.mul(n, splat(-2.12194440e-4)));
  let p = splat(1.9875691500e-4);
  p = f32x4.add(f32x4.mul(p, r), splat(1.3981999507e-3));
  p = f32x4.add(f32x4.mul(p, r), splat(8.3334519073e-3));
  p = f32x4.add(f32x4.mul(p, r), splat(4.1665795894e-2));
  p = f32x4.add(f32x4.mul(p, r), splat(1.6666665459e-1));
  p = f32x4.add(f32x4.mul(p, r), splat(5.0000001201e-1));
  p = f32x4.add(f32x4.add(f32x4.mul(f32x4.mul(p, r), r), r), splat(1));
  // 2^n: the exponent field. A multiplication, because constant vector shifts are slow under JavaScriptCore.
  const power = i32x4.mul(i32x4.add(i32x4.relaxed_trunc_f32x4_s(n), i32x4.splat(127)), i32x4.splat(1 << 23));
  return f32x4.mul(p, power);
}

/** 1 / (1 + exp(-x)). */
// @ts-ignore: decorator
@inline
export function sigmoid4(x: v128): v128 {
  return f32x4.div(splat(1), f32x4.add(splat(1), exp4(f32x4.neg(x))));
}

/** Sum of the four lanes, in a fixed order. */
// @ts-ignore: decorator
@inline
export function sum4(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}
