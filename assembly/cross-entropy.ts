/**
 * Softmax and cross entropy on a chunk of logits, and what lets rows without a label cost nothing: the list of rows that
 * have one. Commands for a chunk work on the entries [first, first + chunk) of that list, as far as there are any.
 */
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { storeSome } from "./lanes";
import { exp4, sum4 } from "./math";
import { Opcode } from "./opcodes";
import { capSlope4, capSlopeOf, softCap } from "./soft-cap";

/** The label of a token that does not count. */
export const IGNORED: i32 = -100;

/** Elements of which one maximum is taken: their exponentials are summed in f32, the sums of blocks in f64. */
const BLOCK: i32 = 1024;

/**
 * A logit so far below the greatest has a probability of 0 (instead of at most 1e-26): products of smaller numbers become
 * subnormal, and those cost a hundred cycles each.
 */
const NEGLIGIBLE: f32 = -60;

/** Up to three floats, behind them -infinity, whose exponential is 0. */
// @ts-ignore: decorator
@inline
function loadEnd(at: usize, count: i32): v128 {
  let x = v128.load32_lane(at, f32x4.splat(-f32.POSITIVE_INFINITY), 0);
  if (count > 1) x = v128.load32_lane(at, x, 1, 4);
  if (count > 2) x = v128.load32_lane(at, x, 2, 8);
  return x;
}

/** pmax(a, b) is a < b ? b : a: a NaN in `x` is passed over here and comes back in the sum of exponentials. */
function maximum(x: usize, n: i32, start: f32): f32 {
  let m0 = f32x4.splat(start), m1 = m0;
  const end = x + (<usize>n << 2);
  for (; x + 32 <= end; x += 32) {
    m0 = f32x4.pmax(m0, v128.load(x));
    m1 = f32x4.pmax(m1, v128.load(x, 16));
  }
  for (; x + 16 <= end; x += 16) m0 = f32x4.pmax(m0, v128.load(x));
  if (x < end) m0 = f32x4.pmax(m0, loadEnd(x, <i32>((end - x) >> 2)));
  m0 = f32x4.pmax(m0, m1);
  const a = max(f32x4.extract_lane(m0, 0), f32x4.extract_lane(m0, 1));
  return max(a, max(f32x4.extract_lane(m0, 2), f32x4.extract_lane(m0, 3)));
}

/** Sum of exp(x - top). */
function sumExp(x: usize, n: i32, top: f32): f32 {
  const shift = f32x4.splat(top);
  let s0 = f32x4.splat(0), s1 = s0;
  const end = x + (<usize>n << 2);
  for (; x + 32 <= end; x += 32) {
    s0 = f32x4.add(s0, exp4(f32x4.sub(v128.load(x), shift)));
    s1 = f32x4.add(s1, exp4(f32x4.sub(v128.load(x, 16), shift)));
  }
  for (; x + 16 <= end; x += 16) s0 = f32x4.add(s0, exp4(f32x4.sub(v128.load(x), shift)));
  if (x < end) s0 = f32x4.add(s0, exp4(f32x4.sub(loadEnd(x, <i32>((end - x) >> 2)), shift)));
  return sum4(f32x4.add(s0, s1));
}

/** x = factor softmax(x), given the maximum and the sum of exp(x - top); with a cap, times its derivative at x. */
function writeSoftmax(x: usize, n: i32, top: f32, factor: f32, cap: f32): void {
  const shift = f32x4.splat(top), scale = f32x4.splat(factor), inverse = f32x4.splat(1 / cap), capped = cap != 0;
  const end = x + (<usize>n << 2);
  for (; x + 16 <= end; x += 16) v128.store(x, probability4(v128.load(x), shift, scale, inverse, capped));
  if (x < end) {
    const rest = <i32>((end - x) >> 2);
    storeSome(x, probability4(loadEnd(x, rest), shift, scale, inverse, capped), rest);
  }
}

// @ts-ignore: decorator
@inline
function probability4(x: v128, shift: v128, scale: v128, inverse: v128, capped: bool): v128 {
  const d = f32x4.sub(x, shift);
  let p = f32x4.mul(exp4(d), scale);
  if (capped) p = f32x4.mul(p, capSlope4(x, inverse));
  return v128.andnot(p, f32x4.lt(d, f32x4.splat(NEGLIGIBLE)));
}

/** Tells whether one of a row's labels counts. */
function hasLabel(labels: usize, each: i32): bool {
  for (let l = 0; l < each; l++) if (load<i32>(labels + (<usize>l << 2)) != IGNORED) return true;
  return false;
}

/**
 * Writes -log softmax(x)[label] of a row x[n] for each of its labels, 0 for one that does not count; with `dloss`,
 * x = sum (softmax(x) - onehot(label)) scale dloss, with the scales of the labels or, if `step` is 0, one scale. With a soft cap, both are of
 * cap tanh(x / cap) instead of x, and the gradient is that of x. Maximum and sum are
 * computed in one pass over memory (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867). A label outside [0, n) gives NaN.
 */
function crossEntropyRow(
  x: usize, n: i32, labels: usize, each: i32, scales: usize, step: i32, dloss: usize, cap: f32, losses: usize,
): void {
  let top: f32 = -f32.POSITIVE_INFINITY;
  let sum: f64 = 0;
  for (let j = 0; j < n; j += BLOCK) {
    const block = x + (<usize>j << 2);
    const length = min(BLOCK, n - j);
    if (cap != 0) softCap(block, block, length, cap);
    const higher = maximum(block, length, top);
    if (higher > top) {
      sum *= <f64>f32x4.extract_lane(exp4(f32x4.splat(top - higher)), 0);
      top = higher;
    }
    sum += <f64>sumExp(block, length, top);
  }
  // What is taken from x at each label, in the thread's scratch.
  let factor: f32 = 0;
  for (let l = 0; l < each; l++) {
    const place = <usize>l << 2;
    const label = load<i32>(labels + place);
    const known = <u32>label < <u32>n;
    const at = x + (<usize>label << 2);
    const loss = known ? <f32>(Math.log(sum) - (<f64>load<f32>(at) - <f64>top)) : f32.NaN;
    store<f32>(losses + place, label == IGNORED ? 0 : loss);
    if (!dloss || label == IGNORED) continue;
    const own = load<f32>(scales + (<usize>(l * step) << 2)) * load<f32>(dloss);
    const slope: f32 = known && cap != 0 ? capSlopeOf(load<f32>(at), cap) : 1;
    store<f32>(threadScratch + place, own * slope);
    factor += own;
  }
  if (!dloss) return;
  writeSoftmax(x, n, top, <f32>(<f64>factor / sum), cap);
  for (let l = 0; l < each; l++) {
    const place = <usize>l << 2;
    const label = load<i32>(labels + place);
    if (<u32>label >= <u32>n) continue;
    const at = x + (<usize>label << 2);
    store<f32>(at, load<f32>(at) - load<f32>(threadScratch + place));
  }
}

/** How many of the entries [first, first + chunk) the list has. */
// @ts-ignore: decorator
@inline
function entries(count: usize, first: i32, chunk: i32): i32 {
  return max(0, min(chunk, load<i32>(count) - first));
}

/**
 * CrossEntropy. Operands: logits [chunk, V], labels i32[T, L], rows i32[T], count, scale, dloss [1] or null, losses [T, L].
 * Scalars: first, chunk, V, soft cap of the logits (0: none), step of scale: 0 for a scale [1], 1 for a scale [T, L]; L.
 * losses[first + i] = cross entropy of entry first + i by each of its labels; with dloss, its logits become the sum of (softmax - onehot) scale dloss, times
 * the derivative of the cap.
 */
function crossEntropy(): void {
  const logits = pointer(0), labels = pointer(1), rows = pointer(2), scale = pointer(4), dloss = pointer(5), losses = pointer(6);
  const first = int(0), vocabulary = int(2), step = int(4), each = int(5);
  const n = entries(pointer(3), first, int(1));
  const end = partEnd(n, 1);
  for (let i = partStart(n, 1); i < end; i++) {
    const place = <usize>(load<i32>(rows + (<usize>(first + i) << 2)) * each) << 2;
    const x = logits + <usize>i * (<usize>vocabulary << 2);
    const out = losses + (<usize>((first + i) * each) << 2);
    crossEntropyRow(x, vocabulary, labels + place, each, scale + place * <usize>step, step, dloss, float(3), out);
  }
}

/** Tells whether a value of x[n] is greater than `limit`, or (`orEqual`) as great. */
function anyAbove(x: usize, n: i32, limit: f32, orEqual: bool): bool {
  const all = f32x4.splat(limit);
  const end = x + (<usize>n << 2);
  for (; x + 16 <= end; x += 16) {
    const values = v128.load(x);
    if (v128.any_true(orEqual ? f32x4.ge(values, all) : f32x4.gt(values, all))) return true;
  }
  for (; x < end; x += 4) {
    const value = load<f32>(x);
    if (orEqual ? value >= limit : value > limit) return true;
  }
  return false;
}

/**
 * Hits. Operands: logits [chunk, V], labels i32[T, L], rows i32[T], count, hits i32[T]. Scalars: first, chunk, V, L.
 * hits[first + i] = 1 where the first label of entry first + i has the first of its greatest logits, else 0 (also where that is NaN).
 */
function hits(): void {
  const logits = pointer(0), labels = pointer(1), rows = pointer(2), to = pointer(4);
  const first = int(0), vocabulary = int(2);
  const n = entries(pointer(3), first, int(1));
  const end = partEnd(n, 1);
  for (let i = partStart(n, 1); i < end; i++) {
    const entry = <usize>(first + i) << 2;
    const label = load<i32>(labels + (<usize>(load<i32>(rows + entry) * int(3)) << 2));
    const x = logits + <usize>i * (<usize>vocabulary << 2);
    const known = <u32>label < <u32>vocabulary;
    const at = x + (<usize>label << 2);
    const own = known ? load<f32>(at) : f32.NaN;
    const hit = own == own && !anyAbove(x, label, own, true) && !anyAbove(at + 4, vocabulary - label - 1, own, false);
    store<i32>(to + entry, <i32>hit);
  }
}

/** HitSum: correct[0] = sum hits[0, count). Operands: hits i32[T], count, correct i32[1]. */
function hitSum(): void {
  if (threadIndex != 0) return;
  const from = pointer(0);
  const count = load<i32>(pointer(1));
  let sum = 0;
  for (let i = 0; i < count; i++) sum += load<i32>(from + (<usize>i << 2));
  store<i32>(pointer(2), sum);
}

/** LabelledRows. Operands: labels i32[T, L], rows i32[T], count i32[1]. Scalars: T, L. The rows with a label, in order, and how many. */
function labelledRows(): void {
  if (threadIndex != 0) return;
  const labels = pointer(0), rows = pointer(1);
  const tokens = int(0), each = int(1);
  let count = 0;
  for (let t = 0; t < tokens; t++) {
    if (!hasLabel(labels + (<usize>(t * each) << 2), each)) continue;
    store<i32>(rows + (<usize>count << 2), t);
    count++;
  }
  store<i32>(pointer(2), count);
}

/**
 * GatherRows: to[i] = from[rows[first + i]], from [T, columns], to [chunk, columns]; ScatterRows: the other way round.
 * Operands: from, rows, count, to. Scalars: first, chunk, columns.
 */
function moveRows(scatter: bool): void {
  const from = pointer(0), rows = pointer(1), to = pointer(3);
  const first = int(0);
  const bytes = <usize>int(2) << 2;
  const n = entries(pointer(2), first, int(1));
  const end = partEnd(n, 1);
  for (let i = partStart(n, 1); i < end; i++) {
    const near = bytes * <usize>i;
    const far = bytes * <usize>load<i32>(rows + (<usize>(first + i) << 2));
    memory.copy(to + (scatter ? far : near), from + (scatter ? near : far), bytes);
  }
}

/** ClearRows: x[t] = 0 where token t has no label. Operands: labels i32[T, L], x [T, columns]. Scalars: T, columns, L. */
function clearRows(): void {
  const labels = pointer(0), x = pointer(1);
  const tokens = int(0), each = int(2);
  const bytes = <usize>int(1) << 2;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    if (!hasLabel(labels + (<usize>(t * each) << 2), each)) memory.fill(x + bytes * <usize>t, 0, bytes);
  }
}

/**
 * LossSum: loss[0] = the sum of scale times losses[0, count), in order, in f64. Operands: losses [T, L], rows i32[T], count, scale, loss.
 * Scalars: step of scale, L.
 */
function lossSum(): void {
  if (threadIndex != 0) return;
  const losses = pointer(0), rows = pointer(1), scale = pointer(3);
  const each = int(1);
  const count = load<i32>(pointer(2)) * each;
  let sum: f64 = 0;
  if (int(0) == 0) {
    for (let i = 0; i < count; i++) sum += <f64>load<f32>(losses + (<usize>i << 2));
    sum *= <f64>load<f32>(scale);
  } else {
    for (let i = 0; i < count; i++) {
      const place = load<i32>(rows + (<usize>(i / each) << 2)) * each + i % each;
      sum += <f64>load<f32>(losses + (<usize>i << 2)) * <f64>load<f32>(scale + (<usize>place << 2));
    }
  }
  store<f32>(pointer(4), <f32>sum);
}

export function crossEntropyCommand(opcode: u32): void {
  switch (opcode) {
    case Opcode.CrossEntropy: crossEntropy(); break;
    case Opcode.LabelledRows: labelledRows(); break;
    case Opcode.GatherRows: moveRows(false); break;
    case Opcode.ScatterRows: moveRows(true); break;
    case Opcode.ClearRows: clearRows(); break;
    case Opcode.LossSum: lossSum(); break;
    case Opcode.Hits: hits(); break;
    case Opcode.HitSum: hitSum(); break;
    default: unreachable();
  }
}
