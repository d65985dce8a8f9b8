/**
 * Causal attention of new tokens to a cache of keys and values that also takes in theirs: decoding. Many tokens go
 * through the tiles of attention.ts, which gives the bits that one pass over the whole sequence gives; a few are
 * attended one by one, because a tile would compute eight of them whatever their number.
 */
import { attention } from "./attention";
import { exp2, LOG2_E, LOWEST } from "./attention-pack";
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { softCap, softCapOf } from "./soft-cap";

/** From this many tokens on, tiles pay. */
const FEW_TOKENS: i32 = 5;

/**
 * `CachedAttention`: pointers q [tokens, heads * dim], k and v [tokens, kvHeads * dim], old key and value cache
 * [size, kvHeads * dim], starts i32[tokens], position i32[1], out like q, new key and value cache (may be the old ones),
 * scratch (64 bytes); scalars phase, tokens, heads, kvHeads, dim, size, scale, soft cap of the scores (0: none). Token i is at position + i, where it sees
 * starts[i]..position + i. Phase 0 writes the caches, phase 1 attends.
 */
export function cachedAttention(): void {
  const tokens = int(1), heads = int(2), kvHeads = int(3), dim = int(4), size = int(5);
  // A position outside would write outside.
  const position = max(0, min(load<i32>(pointer(6)), size - tokens));
  if (int(0) == 0) {
    if (threadIndex == 0) store<i32>(pointer(10), 0);
    const rowBytes = <usize>(kvHeads * dim) << 2;
    writeCache(pointer(1), pointer(3), pointer(8), position, tokens, size, rowBytes);
    writeCache(pointer(2), pointer(4), pointer(9), position, tokens, size, rowBytes);
    return;
  }
  const q = pointer(0), keys = pointer(8), values = pointer(9), starts = pointer(5), out = pointer(7);
  if (tokens >= FEW_TOKENS) {
    // Queries are counted from the start of the cache.
    const before = <usize>position * <usize>(heads * dim) << 2;
    attention(
      q - before, keys, values, starts - (<usize>position << 2), out - before, 0, pointer(10),
      position, position + tokens, heads, kvHeads, dim, float(6), float(7),
    );
    return;
  }
  const group = heads / kvHeads;
  const stride = <usize>(kvHeads * dim) << 2;
  const end = partEnd(tokens * heads, 1);
  for (let unit = partStart(tokens * heads, 1); unit < end; unit++) {
    const token = unit / heads, head = unit % heads;
    const last = position + token;
    const first = max(0, min(last, load<i32>(starts + (<usize>token << 2))));
    const offset = <usize>first * stride + (<usize>(head / group * dim) << 2);
    const row = <usize>(unit * dim) << 2;
    attendRow(q + row, keys + offset, values + offset, out + row, stride, last + 1 - first, dim, float(6) * LOG2_E, float(7) * LOG2_E);
  }
}

/** Rows of `k` to rows position.. of `to`, all others from `from` (nothing to do where that is `to`). */
function writeCache(k: usize, from: usize, to: usize, position: i32, tokens: i32, size: i32, rowBytes: usize): void {
  const begin = partStart(size, 1), end = partEnd(size, 1);
  for (let row = begin; row < end; row++) {
    const at = <usize>row * rowBytes;
    if (row >= position && row < position + tokens) memory.copy(to + at, k + <usize>(row - position) * rowBytes, rowBytes);
    else if (from != to) memory.copy(to + at, from + at, rowBytes);
  }
}

/** One query and head against `count` keys, `stride` bytes apart; `scale` gives scores in units of ln 2, in which `cap` is. */
function attendRow(
  q: usize, k: usize, v: usize, out: usize, stride: usize, count: i32, dim: i32, scale: f32, cap: f32,
): void {
  const scores = threadScratch;
  let greatest = LOWEST;
  let key = k;
  for (let i = 0; i < count; i++) {
    const score = scale * dot(q, key, dim);
    store<f32>(scores + (<usize>i << 2), score);
    // False for a NaN, which spreads by the exponential.
    if (score > greatest) greatest = score;
    key += stride;
  }
  if (cap != 0) {
    // The cap keeps the order.
    softCap(scores, scores, count, cap);
    greatest = softCapOf(greatest, cap);
  }
  const shift = f32x4.splat(greatest);
  let sums = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const at = scores + (<usize>i << 2);
    const p = exp2(f32x4.sub(v128.load(at), shift));
    v128.store(at, p);
    sums = f32x4.add(sums, p);
  }
  let sum = sum4(sums);
  for (; i < count; i++) {
    const at = scores + (<usize>i << 2);
    const p = f32x4.extract_lane(exp2(f32x4.sub(v128.load32_splat(at), shift)), 0);
    store<f32>(at, p);
    sum += p;
  }
  const inverse = f32x4.splat(1 / sum);
  let d = 0;
  for (; d + 16 <= dim; d += 16) {
    let a = f32x4.splat(0), b = f32x4.splat(0), c = f32x4.splat(0), e = f32x4.splat(0);
    let from = v + (<usize>d << 2);
    for (let i = 0; i < count; i++) {
      const p = v128.load32_splat(scores + (<usize>i << 2));
      a = f32x4.add(a, f32x4.mul(p, v128.load(from)));
      b = f32x4.add(b, f32x4.mul(p, v128.load(from, 16)));
      c = f32x4.add(c, f32x4.mul(p, v128.load(from, 32)));
      e = f32x4.add(e, f32x4.mul(p, v128.load(from, 48)));
      from += stride;
    }
    const to = out + (<usize>d << 2);
    v128.store(to, f32x4.mul(a, inverse)), v128.store(to, f32x4.mul(b, inverse), 16);
    v128.store(to, f32x4.mul(c, inverse), 32), v128.store(to, f32x4.mul(e, inverse), 48);
  }
  for (; d < dim; d += 4) {
    const left = dim - d;
    let a = f32x4.splat(0);
    let from = v + (<usize>d << 2);
    for (let i = 0; i < count; i++) {
      const x = left >= 4 ? v128.load(from) : loadSome(from, left);
      a = f32x4.add(a, f32x4.mul(v128.load32_splat(scores + (<usize>i << 2)), x));
      from += stride;
    }
    const to = out + (<usize>d << 2);
    const result = f32x4.mul(a, inverse);
    if (left >= 4) v128.store(to, result);
    else storeSome(to, result, left);
  }
}

// @ts-ignore: decorator
@inline
function dot(a: usize, b: usize, dim: i32): f32 {
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0);
  let d = 0;
  for (; d + 8 <= dim; d += 8) {
    const at = <usize>d << 2;
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a + at), v128.load(b + at)));
    s1 = f32x4.add(s1, f32x4.mul(v128.load(a + at, 16), v128.load(b + at, 16)));
  }
  if (d + 4 <= dim) {
    const at = <usize>d << 2;
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a + at), v128.load(b + at)));
    d += 4;
  }
  if (d < dim) {
    const at = <usize>d << 2;
    s1 = f32x4.add(s1, f32x4.mul(loadSome(a + at, dim - d), loadSome(b + at, dim - d)));
  }
  return sum4(f32x4.add(s0, s1));
}
