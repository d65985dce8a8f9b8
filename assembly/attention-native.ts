/**
 * Attention whose products and exponentials a native library computes. A *tile* is a few tokens with all query heads
 * that share a key head: rows [token][head of the group], so Q, K, V are plain matrices once the heads are apart. Token t sees the keys
 * starts[t]..t of its own example, or, where there are ends, starts[t]..ends[t] - 1.
 *
 * A task is a tile of one key head. Tasks are handed out by a counter, the longest first; who computes a task does not
 * matter to its result.
 */
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { NO_ADDEND, product, sessionOf, unary } from "./native";
import { softCap, softCapOf } from "./soft-cap";

/** A probability below may have lost bits, or be 0. */
const LEAST_PROBABILITY: f32 = 1e-30;

/**
 * `NativeAttention`: pointers q [tokens, heads * dim], k and v [tokens, kvHeads * dim], starts i32[tokens], out like q, lse
 * [tokens, heads], scratch (64 bytes, then f32[2][kvHeads][tokens][dim]), ends i32[tokens]; out, lse and ends may be null; scalars phase, tokens, heads, kvHeads, dim,
 * scale, tokens of a tile, the sessions (two words each) of A B^T, softmax and A B, and the soft cap of the scores (0: none). Phase 0 takes the heads of K and V apart,
 * phase 1 computes.
 */
export function nativeAttention(): void {
  const tokens = int(1), heads = int(2), kvHeads = int(3), dim = int(4), most = int(6);
  const counter = pointer(6);
  const keys = counter + 64;
  const values = keys + (<usize>(kvHeads * tokens * dim) << 2);
  if (int(0) == 0) {
    if (threadIndex == 0) store<i32>(counter, 0);
    splitHeads(pointer(1), tokens, kvHeads, dim, keys);
    splitHeads(pointer(2), tokens, kvHeads, dim, values);
    return;
  }
  const tiles = (tokens + most - 1) / most;
  while (true) {
    const task = atomic.add<i32>(counter, 1);
    if (task >= tiles * kvHeads) return;
    const token = (tiles - 1 - task / kvHeads) * most;
    const skipped = <usize>(task % kvHeads * tokens * dim) << 2;
    attendTile(task % kvHeads, token, min(most, tokens - token), heads / kvHeads, keys + skipped, values + skipped);
  }
}

/** out[heads][tokens][dim] = x[tokens][heads * dim], this thread's part. */
export function splitHeads(x: usize, tokens: i32, heads: i32, dim: i32, out: usize): void {
  const bytes = <usize>dim << 2;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    for (let head = 0; head < heads; head++) memory.copy(out + <usize>(head * tokens + t) * bytes, x + <usize>(t * heads + head) * bytes, bytes);
  }
}

/** x[tokens][heads * dim] = from[heads][tokens][dim], this thread's part. */
export function joinHeads(from: usize, tokens: i32, heads: i32, dim: i32, x: usize): void {
  const bytes = <usize>dim << 2;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    for (let head = 0; head < heads; head++) memory.copy(x + <usize>(t * heads + head) * bytes, from + <usize>(head * tokens + t) * bytes, bytes);
  }
}

/** First key that a token sees; itself at least. */
// @ts-ignore: decorator
@inline
export function firstKey(starts: usize, token: i32): i32 {
  return max(0, min(token, load<i32>(starts + (<usize>token << 2))));
}

/** The key behind the last one that a token sees; its own is seen at least. */
// @ts-ignore: decorator
@inline
function endKey(ends: usize, token: i32, tokens: i32): i32 {
  return ends ? max(token + 1, min(tokens, load<i32>(ends + (<usize>token << 2)))) : token + 1;
}

/** The key behind the last one that any of the tokens sees. */
export function greatestEnd(ends: usize, token: i32, count: i32, tokens: i32): i32 {
  let greatest = token + count;
  if (ends) {
    for (let t = token; t < token + count; t++) greatest = max(greatest, endKey(ends, t, tokens));
  }
  return greatest;
}

/** First key that any of the tokens sees. */
export function leastKey(starts: usize, token: i32, count: i32): i32 {
  let least = token;
  for (let t = token; t < token + count; t++) least = min(least, firstKey(starts, t));
  return least;
}

/** out[count][width] = factor * x[count][width], x with rows of `stride` bytes; width a multiple of 2. */
export function gatherRows(x: usize, stride: usize, count: i32, width: i32, factor: f32, out: usize): void {
  const scale = f32x4.splat(factor);
  for (let row = 0; row < count; row++) {
    let i = 0;
    for (; i + 4 <= width; i += 4) v128.store(out + (<usize>i << 2), f32x4.mul(scale, v128.load(x + (<usize>i << 2))));
    if (i < width) v128.store64_lane(out + (<usize>i << 2), f32x4.mul(scale, v128.load64_zero(x + (<usize>i << 2))), 0);
    x += stride;
    out += <usize>width << 2;
  }
}

/** x[count][width] = factor * from[count][width], x with rows of `stride` bytes; width a multiple of 2. */
export function scatterRows(from: usize, count: i32, width: i32, factor: f32, x: usize, stride: usize): void {
  const scale = f32x4.splat(factor);
  for (let row = 0; row < count; row++) {
    let i = 0;
    for (; i + 4 <= width; i += 4) v128.store(x + (<usize>i << 2), f32x4.mul(scale, v128.load(from + (<usize>i << 2))));
    if (i < width) v128.store64_lane(x + (<usize>i << 2), f32x4.mul(scale, v128.load64_zero(from + (<usize>i << 2))), 0);
    x += stride;
    from += <usize>width << 2;
  }
}

function fill(x: usize, count: i32, value: f32): void {
  const vector = f32x4.splat(value);
  const end = x + (<usize>max(count, 0) << 2);
  for (; x + 16 <= end; x += 16) v128.store(x, vector);
  for (; x < end; x += 4) store<f32>(x, value);
}

/** Sets scores[count][group][end - first] of the keys first..end - 1 that a token does not see. */
export function fillUnseen(
  scores: usize, starts: usize, ends: usize, tokens: i32, token: i32, count: i32, group: i32, first: i32, end: i32, value: f32,
): void {
  const rowBytes = <usize>(end - first) << 2;
  for (let t = token; t < token + count; t++) {
    const before = min(firstKey(starts, t), end) - first;
    const behind = max(endKey(ends, t, tokens), first);
    for (let head = 0; head < group; head++) {
      fill(scores, before, value);
      fill(scores + (<usize>(behind - first) << 2), end - behind, value);
      scores += rowBytes;
    }
  }
}

/** The tokens token..token + count - 1 of one key head, whose keys and values are [tokens][dim]. */
function attendTile(kvHead: i32, token: i32, count: i32, group: i32, keys: usize, values: usize): void {
  const starts = pointer(3), ends = pointer(7), out = pointer(4), lse = pointer(5);
  const tokens = int(1), heads = int(2), dim = int(4);
  const rows = count * group;
  const first = leastKey(starts, token, count);
  const end = greatestEnd(ends, token, count, tokens);
  const n = end - first;
  const width = group * dim;
  const stride = <usize>(heads * dim) << 2;
  const from = <usize>token * stride + (<usize>(kvHead * width) << 2);

  const queries = threadScratch;
  const results = queries + (<usize>(rows * dim) << 2);
  const own = results + (<usize>(rows * dim) << 2);
  const scores = (own + (<usize>rows << 2) + 63) & ~63;

  gatherRows(pointer(0) + from, stride, count, width, float(5), queries);
  product(sessionOf(int(7), int(8)), queries, keys + (<usize>(first * dim) << 2), 0, scores, rows, n, dim, false, true, NO_ADDEND);
  const cap = float(13);
  if (cap != 0) softCap(scores, scores, rows * n, cap);
  fillUnseen(scores, starts, ends, tokens, token, count, group, first, end, -f32.POSITIVE_INFINITY);
  const rowBytes = <usize>n << 2;
  // A token's score of itself, before the softmax overwrites it.
  for (let row = 0; row < rows; row++) {
    store<f32>(own + (<usize>row << 2), load<f32>(scores + <usize>row * rowBytes + (<usize>(token - first + row / group) << 2)));
  }
  unary(sessionOf(int(9), int(10)), scores, scores, rows, n);
  // Instead of numbers next to 0, with which products are slow.
  fillUnseen(scores, starts, ends, tokens, token, count, group, first, end, 0);
  if (out) {
    product(sessionOf(int(11), int(12)), scores, values + (<usize>(first * dim) << 2), 0, results, rows, dim, n, false, false, NO_ADDEND);
    scatterRows(results, count, width, 1, out + from, stride);
  }
  if (!lse) return;
  // P = exp(S - lse), so one S with its P gives lse.
  for (let row = 0; row < rows; row++) {
    const at = scores + <usize>row * rowBytes;
    let p = load<f32>(at + (<usize>(token - first + row / group) << 2));
    let s = load<f32>(own + (<usize>row << 2));
    if (!(p >= LEAST_PROBABILITY)) {
      const best = indexOfGreatest(at, n);
      p = load<f32>(at + (<usize>best << 2));
      s = dot(queries + (<usize>(row * dim) << 2), keys + (<usize>((first + best) * dim) << 2), dim);
      if (cap != 0) s = softCapOf(s, cap);
    }
    store<f32>(lse + (<usize>((token + row / group) * heads + kvHead * group + row % group) << 2), s - Mathf.log(p));
  }
}

function indexOfGreatest(x: usize, n: i32): i32 {
  let best = 0;
  for (let i = 1; i < n; i++) {
    if (load<f32>(x + (<usize>i << 2)) > load<f32>(x + (<usize>best << 2))) best = i;
  }
  return best;
}

/** Sum of x[i] y[i]; n even. */
export function dot(x: usize, y: usize, n: i32): f32 {
  let sum = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4) sum = f32x4.add(sum, f32x4.mul(v128.load(x + (<usize>i << 2)), v128.load(y + (<usize>i << 2))));
  if (i < n) sum = f32x4.add(sum, f32x4.mul(v128.load64_zero(x + (<usize>i << 2)), v128.load64_zero(y + (<usize>i << 2))));
  return f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1) + (f32x4.extract_lane(sum, 2) + f32x4.extract_lane(sum, 3));
}
