/** Four elements of an update at a time; the optimizers' kernels share these formulas. */

/** keep * state + take * x. */
// @ts-ignore: decorator
@inline
export function lerp4(state: v128, keep: v128, x: v128, take: v128): v128 {
  return f32x4.add(f32x4.mul(state, keep), f32x4.mul(x, take));
}

/** Adam's step with decoupled decay: p decay - rate m / (sqrt(v) / correction + epsilon). */
// @ts-ignore: decorator
@inline
export function step4(p: v128, m: v128, v: v128, decay: v128, rate: v128, correction: v128, epsilon: v128): v128 {
  const root = f32x4.add(f32x4.div(f32x4.sqrt(v), correction), epsilon);
  return f32x4.sub(f32x4.mul(p, decay), f32x4.div(f32x4.mul(rate, m), root));
}
