/** Vector functions on four f32 lanes. NaN comes out as NaN. No result is subnormal: those cost a hundred cycles each. */

// @ts-ignore: decorator
@inline
function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/**
 * exp(x), relative error < 1.5e-7 on [-87.33, 88.37]; 0 below (where the result would be subnormal), infinity above.
 * Cephes' reduction: x = n ln 2 + r, |r| <= ln 2 / 2, exp(x) = 2^n p(r).
 */
// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  const tiny = f32x4.lt(x, splat(-87.33));
  // pmin(a, b) is b < a ? b : a, so a NaN stays. At 88.8, n is 128 and the exponent field reads infinity.
  x = f32x4.pmin(x, splat(88.8));
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
  return v128.andnot(f32x4.mul(p, power), tiny);
}

/** 1 / (1 + exp(-x)), relative error < 3e-7 for x >= -87.33; 0 for x < -88.37. */
// @ts-ignore: decorator
@inline
export function sigmoid4(x: v128): v128 {
  return f32x4.div(splat(1), f32x4.add(splat(1), exp4(f32x4.neg(x))));
}

/**
 * Phi(x), the distribution function of the standard normal, given e = exp(-x^2 / 2): absolute error < 1.5e-7, and
 * relative to Phi for x < 0. With a = |x|, t = 1 / (1 + 0.38 a / sqrt 2): Phi(-a) = e t q(t), where q is a minimax
 * polynomial of degree 8 for erfc(z) exp(z^2) / (2 t) in z = a / sqrt 2 (fitted for this file, relative error 3.1e-8).
 */
// @ts-ignore: decorator
@inline
export function normal4(x: v128, e: v128): v128 {
  const t = f32x4.div(splat(1), f32x4.add(splat(1), f32x4.mul(f32x4.abs(x), splat(0.268700576850888))));
  let q = splat(0.02889416180551052);
  q = f32x4.add(f32x4.mul(q, t), splat(-0.12849788367748260));
  q = f32x4.add(f32x4.mul(q, t), splat(0.1769371777772903));
  q = f32x4.add(f32x4.mul(q, t), splat(-0.0755584314465523));
  q = f32x4.add(f32x4.mul(q, t), splat(0.11181753873825073));
  q = f32x4.add(f32x4.mul(q, t), splat(0.07052477449178696));
  q = f32x4.add(f32x4.mul(q, t), splat(0.1016874536871910));
  q = f32x4.add(f32x4.mul(q, t), splat(0.1069912463426590));
  q = f32x4.add(f32x4.mul(q, t), splat(0.10720395296812057));
  const tail = f32x4.mul(f32x4.mul(q, t), e);
  return v128.bitselect(tail, f32x4.sub(splat(1), tail), f32x4.lt(x, splat(0)));
}

/** Sum of the four lanes, in a fixed order. */
// @ts-ignore: decorator
@inline
export function sum4(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}
