/**
 * Optimizers that keep one momentum: Lion, SGD, and the elementwise parts of Muon. Everything is f32; outputs may be the
 * inputs.
 */
import { float, int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { complement4, decay4, hyper4, lerp4 } from "./optimizer-lanes";

/** Elements that are handed out as one: a cache line. */
const UNIT: i32 = 16;

/** lr (or -lr) where c is not 0. */
// @ts-ignore: decorator
@inline
function signed4(c: v128, rate: v128): v128 {
  const sign = v128.and(c, f32x4.splat(-0.0));
  return v128.and(f32x4.ne(c, f32x4.splat(0)), v128.xor(sign, rate));
}

/**
 * Command Lion: p, grad, m [n], hyper [5], p', m' [n]; n. hyper = [lr, beta1, beta2, weight decay, gradient scale]. With
 * g = grad * scale:
 *
 *     p' = p (1 - lr decay) - lr sign(beta1 m + (1 - beta1) g)
 *     m' = beta2 m + (1 - beta2) g
 */
export function lionCommand(): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  let p = pointer(0) + at;
  let grad = pointer(1) + at;
  let m = pointer(2) + at;
  const hyper = pointer(3);
  let newP = pointer(4) + at;
  let newM = pointer(5) + at;
  const rate = hyper4(hyper, 0);
  const keep1 = hyper4(hyper, 4);
  const take1 = complement4(hyper, 4);
  const keep2 = hyper4(hyper, 8);
  const take2 = complement4(hyper, 8);
  const decay = decay4(hyper, 12);
  const scale = hyper4(hyper, 16);
  for (let i = n >> 2; i > 0; i--) {
    const g = f32x4.mul(v128.load(grad), scale);
    const old = v128.load(m);
    const step = signed4(lerp4(old, keep1, g, take1), rate);
    v128.store(newP, f32x4.sub(f32x4.mul(v128.load(p), decay), step));
    v128.store(newM, lerp4(old, keep2, g, take2));
    p += 16;
    grad += 16;
    m += 16;
    newP += 16;
    newM += 16;
  }
  const rest = n & 3;
  if (rest) {
    const g = f32x4.mul(loadSome(grad, rest), scale);
    const old = loadSome(m, rest);
    const step = signed4(lerp4(old, keep1, g, take1), rate);
    storeSome(newP, f32x4.sub(f32x4.mul(loadSome(p, rest), decay), step), rest);
    storeSome(newM, lerp4(old, keep2, g, take2), rest);
  }
}

/**
 * Command Sgd: p, grad, b [n], hyper [6], p', b' [n]; n. hyper = [lr, momentum, weight decay, gradient scale, share of the
 * gradient, share of the buffer]. With g = grad * scale + decay * p:
 *
 *     b' = momentum b + g
 *     p' = p - lr (shareG g + shareB b')
 */
export function sgdCommand(): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  let p = pointer(0) + at;
  let grad = pointer(1) + at;
  let b = pointer(2) + at;
  const hyper = pointer(3);
  let newP = pointer(4) + at;
  let newB = pointer(5) + at;
  const rate = hyper4(hyper, 0);
  const momentum = hyper4(hyper, 4);
  const decay = hyper4(hyper, 8);
  const scale = hyper4(hyper, 12);
  const shareG = hyper4(hyper, 16);
  const shareB = hyper4(hyper, 20);
  for (let i = n >> 2; i > 0; i--) {
    const old = v128.load(p);
    const g = lerp4(v128.load(grad), scale, old, decay);
    const next = f32x4.add(f32x4.mul(v128.load(b), momentum), g);
    v128.store(newP, f32x4.sub(old, f32x4.mul(rate, lerp4(g, shareG, next, shareB))));
    v128.store(newB, next);
    p += 16;
    grad += 16;
    b += 16;
    newP += 16;
    newB += 16;
  }
  const rest = n & 3;
  if (rest) {
    const old = loadSome(p, rest);
    const g = lerp4(loadSome(grad, rest), scale, old, decay);
    const next = f32x4.add(f32x4.mul(loadSome(b, rest), momentum), g);
    storeSome(newP, f32x4.sub(old, f32x4.mul(rate, lerp4(g, shareG, next, shareB))), rest);
    storeSome(newB, next, rest);
  }
}

/**
 * Command MuonMomentum: grad, b [n], hyper [5], direction, b' [n]; n. hyper = [lr, momentum, weight decay, gradient scale,
 * share]. With g = grad * scale:
 *
 *     b' = momentum b + (1 - momentum) g
 *     direction = (1 - share) g + share b'
 */
export function muonMomentumCommand(): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  let grad = pointer(0) + at;
  let b = pointer(1) + at;
  const hyper = pointer(2);
  let direction = pointer(3) + at;
  let newB = pointer(4) + at;
  const keep = hyper4(hyper, 4);
  const take = complement4(hyper, 4);
  const scale = hyper4(hyper, 12);
  const shareB = hyper4(hyper, 16);
  const shareG = complement4(hyper, 16);
  for (let i = n >> 2; i > 0; i--) {
    const g = f32x4.mul(v128.load(grad), scale);
    const next = lerp4(v128.load(b), keep, g, take);
    v128.store(direction, lerp4(g, shareG, next, shareB));
    v128.store(newB, next);
    grad += 16;
    b += 16;
    direction += 16;
    newB += 16;
  }
  const rest = n & 3;
  if (rest) {
    const g = f32x4.mul(loadSome(grad, rest), scale);
    const next = lerp4(loadSome(b, rest), keep, g, take);
    storeSome(direction, lerp4(g, shareG, next, shareB), rest);
    storeSome(newB, next, rest);
  }
}

/** Command UnitNorm: x [n], its sum of squares [1], y [n]; n, least norm. y = x / max(sqrt(squares), least). */
export function unitNormCommand(): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  let x = pointer(0) + ((<usize>start) << 2);
  let y = pointer(2) + ((<usize>start) << 2);
  const norm = f32x4.splat(max(sqrt<f32>(load<f32>(pointer(1))), float(1)));
  for (let i = n >> 2; i > 0; i--) {
    v128.store(y, f32x4.div(v128.load(x), norm));
    x += 16;
    y += 16;
  }
  const rest = n & 3;
  if (rest) storeSome(y, f32x4.div(loadSome(x, rest), norm), rest);
}

/** Command MuonStep: p, y [n], hyper [5], p' [n]; n, scale. p' = p (1 - lr decay) - lr scale y. */
export function muonStepCommand(): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  let p = pointer(0) + at;
  let y = pointer(1) + at;
  const hyper = pointer(2);
  let newP = pointer(3) + at;
  const decay = decay4(hyper, 8);
  const rate = f32x4.splat(<f32>(<f64>load<f32>(hyper) * <f64>float(1)));
  for (let i = n >> 2; i > 0; i--) {
    v128.store(newP, f32x4.sub(f32x4.mul(v128.load(p), decay), f32x4.mul(rate, v128.load(y))));
    p += 16;
    y += 16;
    newP += 16;
  }
  const rest = n & 3;
  if (rest) storeSome(newP, f32x4.sub(f32x4.mul(loadSome(p, rest), decay), f32x4.mul(rate, loadSome(y, rest))), rest);
}
