/** Vector functions on four f32 lanes. NaN comes out as NaN. No result is subnormal: those cost a hundred cycles each. */

// @ts-ignore: decorator
@inline
function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/** x / ln 2 rounded to an integer n, as a number with n + 127 in its low bits: the exponent field of 2^n. */
// @ts-ignore: decorator
@inline
function shifted(x: v128): v128 {
  // Adding 1.5 * 2^23 rounds to an integer.
  return f32x4.add(f32x4.mul(x, splat(1.4426950408889634)), splat(12582912 + 127));
}

/** 2^n */
// @ts-ignore: decorator
@inline
function powerOf(t: v128): v128 {
  // Shifts the exponent into place. A multiplication, because constant vector shifts are slow under JavaScriptCore.
  return i32x4.mul(t, i32x4.splat(1 << 23));
}

/**
 * exp(r) - 1 = r + r^2 q(r) of r = x - n ln 2, |r| <= ln 2 / 2 (ln 2 in two parts, after Cody and Waite), where q is a
 * minimax polynomial of degree 4 (fitted for this file, relative error of exp 3.6e-9).
 */
// @ts-ignore: decorator
@inline
function seriesOf(x: v128, t: v128): v128 {
  const n = f32x4.sub(t, splat(12582912 + 127));
  const r = f32x4.sub(f32x4.sub(x, f32x4.mul(n, splat(0.693359375))), f32x4.mul(n, splat(-2.12194440e-4)));
  let q = f32x4.add(f32x4.mul(splat(0.0013814539415761828), r), splat(0.00836874544620514));
  q = f32x4.add(f32x4.mul(q, r), splat(0.04166838899254799));
  q = f32x4.add(f32x4.mul(q, r), splat(0.1666652113199234));
  q = f32x4.add(f32x4.mul(q, r), splat(0.4999999403953552));
  return f32x4.add(f32x4.mul(q, f32x4.mul(r, r)), r);
}

/** exp(x) = 2^n (1 + s) on [-87.33, 88.37], infinity up to 88.8; nonsense outside, NaN for NaN. */
// @ts-ignore: decorator
@inline
function expCore(x: v128): v128 {
  const t = shifted(x);
  return f32x4.mul(f32x4.add(seriesOf(x, t), splat(1)), powerOf(t));
}

/**
 * tanh(x), relative error < 4e-7. With y = -2 |x| and e = exp(y) - 1 = 2^n s + (2^n - 1), which keeps the bits of a small x:
 * tanh |x| = -e / (2 + e).
 */
// @ts-ignore: decorator
@inline
export function tanh4(x: v128): v128 {
  // Beyond 20 it is 1. pmax(a, b) is a < b ? b : a, so a NaN stays.
  const y = f32x4.pmax(f32x4.mul(f32x4.abs(x), splat(-2)), splat(-40));
  const t = shifted(y);
  const power = powerOf(t);
  const e = f32x4.add(f32x4.mul(power, seriesOf(y, t)), f32x4.sub(power, splat(1)));
  const size = f32x4.div(f32x4.neg(e), f32x4.add(splat(2), e));
  return v128.bitselect(x, size, i32x4.splat(0x80000000));
}

/**
 * exp(x), relative error < 1e-7 on [-87.33, 88.37]; 0 below (where the result would be subnormal), infinity above.
 */
// @ts-ignore: decorator
@inline
export function exp4(x: v128): v128 {
  // pmin(a, b) is b < a ? b : a, so a NaN stays.
  return v128.andnot(expCore(f32x4.pmin(x, splat(88.8))), f32x4.lt(x, splat(-87.33)));
}

/** exp(x) for x <= 0, as `exp4`. */
// @ts-ignore: decorator
@inline
export function decay4(x: v128): v128 {
  return v128.andnot(expCore(x), f32x4.lt(x, splat(-87.33)));
}

/** 1 / (1 + exp(-x)), relative error < 2.5e-7; 0 for x < -88.37. */
// @ts-ignore: decorator
@inline
export function sigmoid4(x: v128): v128 {
  const e = expCore(f32x4.pmax(f32x4.pmin(f32x4.neg(x), splat(88.8)), splat(-87.3)));
  return f32x4.div(splat(1), f32x4.add(splat(1), e));
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
