/**
 * Four elements of an update at a time, and the constants of a command from its hyperparameters `hyper`, computed in f64 and rounded once: the
 * optimizers' kernels share these formulas. `at` is a hyperparameter's offset in bytes; the learning rate stands first.
 */

/** A hyperparameter. */
// @ts-ignore: decorator
@inline
export function hyper4(hyper: usize, at: usize): v128 {
  return f32x4.splat(load<f32>(hyper + at));
}

/** 1 - a hyperparameter. */
// @ts-ignore: decorator
@inline
export function complement4(hyper: usize, at: usize): v128 {
  return f32x4.splat(<f32>(1 - <f64>load<f32>(hyper + at)));
}

/** 1 - lr decay, what decoupled decay leaves of a parameter. */
// @ts-ignore: decorator
@inline
export function decay4(hyper: usize, at: usize): v128 {
  return f32x4.splat(<f32>(1 - <f64>load<f32>(hyper) * <f64>load<f32>(hyper + at)));
}

/** AdamW's lr / (1 - beta1^t). */
// @ts-ignore: decorator
@inline
export function adamRate4(hyper: usize): v128 {
  return f32x4.splat(<f32>(<f64>load<f32>(hyper) / <f64>load<f32>(hyper, 20)));
}

/** AdamW's sqrt(1 - beta2^t). */
// @ts-ignore: decorator
@inline
export function adamCorrection4(hyper: usize): v128 {
  return f32x4.splat(<f32>sqrt<f64>(<f64>load<f32>(hyper, 24)));
}

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
