/**
 * Causal attention of new tokens to a cache of keys and values that also takes in theirs: decoding. Many tokens go
 * through the tiles of attention.ts, which gives the bits that one pass over the whole sequence gives; a few are
 * attended one by one, because a tile would compute eight of them whatever their number.
 */
import { attention } from "./attention";
import { exp2, LOG2_E, LOWEST } from "./attention-pack";
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { F32 } from "./half";
import { sum4 } from "./math";
import { softCap, softCapOf } from "./soft-cap";

// @ts-ignore: decorator
@external("matrix", "gemm")
declare function gemm(
  a: usize, aType: i32, lda: i32, transA: bool, b: usize, bType: i32, ldb: i32, transB: bool, c: usize, ldc: i32, out: usize, ldo: i32,
  m: i32, n: i32, k: i32, alpha: f32, index: i32, count: i32, scratch: usize, scales: usize,
): void;

// @ts-ignore: decorator
@external("matrix", "weightedSum")
declare function weightedSum(p: usize, count: i32, v: usize, dim: i32, factor: f32, out: usize): void;

/** From this many tokens on, tiles pay. */
const FEW_TOKENS: i32 = 5;

/**
 * `CachedAttention`: pointers q [tokens, heads * dim], k and v [tokens, kvHeads * dim], old key and value cache
 * [texts * kvHeads, size, dim], starts i32[tokens], position i32[1] or i32[tokens], out like q, new key and value cache (may be the old
 * ones), scratch (64 bytes), lse [tokens, heads] or null; scalars phase, tokens, heads, kvHeads, dim, size, scale, soft cap of the scores (0: none), texts. Of one text
 * token i is at position + i, of as many texts as tokens it is at position[i] of text i; there it sees what lies from starts[i] on. Phase 0
 * writes the caches, phase 1 attends.
 */
export function cachedAttention(): void {
  const tokens = int(1), heads = int(2), kvHeads = int(3), dim = int(4), size = int(5), texts = int(8);
  const positions = pointer(6);
  const perText = tokens / texts;
  if (int(0) == 0) {
    if (threadIndex == 0) store<i32>(pointer(10), 0);
    const end = partEnd(texts * kvHeads, 1);
    for (let slab = partStart(texts * kvHeads, 1); slab < end; slab++) {
      const text = slab / kvHeads;
      const position = positionOf(positions, text, size, perText);
      const row = <usize>(text * perText * kvHeads + slab % kvHeads) * <usize>dim << 2;
      writeSlab(pointer(1) + row, pointer(3), pointer(8), slab, position, perText, kvHeads, size, dim);
      writeSlab(pointer(2) + row, pointer(4), pointer(9), slab, position, perText, kvHeads, size, dim);
    }
    return;
  }
  const q = pointer(0), keys = pointer(8), values = pointer(9), starts = pointer(5), out = pointer(7);
  const stride = <usize>dim << 2;
  const slabBytes = <usize>size * stride;
  if (perText >= FEW_TOKENS) {
    const position = positionOf(positions, 0, size, perText);
    // Queries are counted from the start of the cache.
    const before = <usize>position * <usize>(heads * dim) << 2;
    attention(
      q - before, keys, values, stride, slabBytes, starts - (<usize>position << 2), 0, out - before,
      pointer(11) ? pointer(11) - (<usize>(position * heads) << 2) : 0, pointer(10),
      position, position + tokens, heads, kvHeads, dim, float(6), float(7),
    );
    return;
  }
  const group = heads / kvHeads;
  const end = partEnd(tokens * heads, 1);
  for (let unit = partStart(tokens * heads, 1); unit < end; unit++) {
    const token = unit / heads, head = unit % heads;
    const text = token / perText;
    const last = positionOf(positions, text, size, perText) + token % perText;
    const first = max(0, min(last, load<i32>(starts + (<usize>token << 2))));
    const offset = <usize>(text * kvHeads + head / group) * slabBytes + <usize>first * stride;
    const row = <usize>(unit * dim) << 2;
    const lse = attendRow(q + row, keys + offset, values + offset, out + row, last + 1 - first, dim, float(6) * LOG2_E, float(7) * LOG2_E);
    if (pointer(11)) store<f32>(pointer(11) + (<usize>unit << 2), lse);
  }
}

/** Where the first of the `tokens` new tokens of a text is. A position outside would write outside. */
// @ts-ignore: decorator
@inline
function positionOf(positions: usize, text: i32, size: i32, tokens: i32): i32 {
  return max(0, min(load<i32>(positions + (<usize>text << 2)), size - tokens));
}

/** One head of the rows k, `kvHeads` heads apart, to position.. of a slab [size, dim] of `to`, what else is there from `from` (nothing to do where that is `to`). */
function writeSlab(k: usize, from: usize, to: usize, slab: i32, position: i32, tokens: i32, kvHeads: i32, size: i32, dim: i32): void {
  const bytes = <usize>dim << 2;
  const at = <usize>slab * <usize>size * bytes;
  if (from != to) memory.copy(to + at, from + at, <usize>size * bytes);
  for (let i = 0; i < tokens; i++) {
    memory.copy(to + at + <usize>(position + i) * bytes, k + <usize>(i * kvHeads) * bytes, bytes);
  }
}

/** One query and head against `count` keys; `scale` gives scores in units of ln 2, in which `cap` is. Returns the log sum exp. */
function attendRow(q: usize, k: usize, v: usize, out: usize, count: i32, dim: i32, scale: f32, cap: f32): f32 {
  const scores = threadScratch;
  // A product of one row in f32 takes no scratch.
  gemm(q, F32, dim, false, k, F32, dim, true, 0, 0, scores, count, 1, count, dim, scale, 0, 1, 0, 0);
  let greatest = greatestOf(scores, count);
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
  weightedSum(scores, count, v, dim, 1 / sum, out);
  return greatest / LOG2_E + Mathf.log(sum);
}

/** A NaN is not seen here; it spreads by the exponential. */
function greatestOf(scores: usize, count: i32): f32 {
  let greatest = f32x4.splat(LOWEST);
  let i = 0;
  // pmax(a, b) is a < b ? b : a.
  for (; i + 4 <= count; i += 4) greatest = f32x4.pmax(greatest, v128.load(scores + (<usize>i << 2)));
  for (; i < count; i++) greatest = f32x4.pmax(greatest, v128.load32_splat(scores + (<usize>i << 2)));
  greatest = f32x4.pmax(greatest, v128.shuffle<f32>(greatest, greatest, 2, 3, 0, 1));
  greatest = f32x4.pmax(greatest, v128.shuffle<f32>(greatest, greatest, 1, 0, 3, 2));
  return f32x4.extract_lane(greatest, 0);
}
