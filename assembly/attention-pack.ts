/**
 * The parts that forward and backward attention share: the packing of rows of one head, which keys a tile of queries sees, and
 * the exponential. A *panel* is 8 queries side by side in two vectors, at a multiple of 8.
 */
import { loadSome } from "./lanes";
import { softCap } from "./soft-cap";

/** Queries of a panel. */
export const PANEL: i32 = 8;
/** Keys in front of one another in a packed operand. */
export const KEY_ROWS: i32 = 6;
/** Ranges of keys are widened to multiples of this: whole groups of 6 keys, and of the products' 4 steps. */
export const KEY_UNIT: i32 = 12;

export const LOG2_E: f32 = 1.4426950408889634;
/** Stands for a maximum over nothing: finite, so that differences to it are never NaN. */
export const LOWEST: f32 = -1e30;

// @ts-ignore: decorator
@inline
function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/**
 * 2^x for x <= 1, relative error < 2e-7; 0 for x < -125, NaN for NaN. x = n + r, |r| <= 1/2; 2^r = 1 + r q(r) with a
 * minimax q of degree 4 (fitted for this file); n is added to the exponent field. Adding 1.5 * 2^23 rounds x to the
 * integer n and leaves it in the low bits.
 */
// @ts-ignore: decorator
@inline
export function exp2(x: v128): v128 {
  const shifted = f32x4.add(x, splat(12582912));
  const r = f32x4.sub(x, f32x4.sub(shifted, splat(12582912)));
  let p = splat(0.001326472731307149);
  p = f32x4.add(f32x4.mul(p, r), splat(0.009671512991189957));
  p = f32x4.add(f32x4.mul(p, r), splat(0.05550733581185341));
  p = f32x4.add(f32x4.mul(p, r), splat(0.24022242426872253));
  p = f32x4.add(f32x4.mul(p, r), splat(0.6931470036506653));
  p = f32x4.add(f32x4.mul(p, r), splat(1));
  const power = i32x4.add(p, i32x4.mul(shifted, i32x4.splat(1 << 23)));
  return v128.andnot(power, f32x4.lt(x, splat(-125)));
}

/** Interleaves: [a0 b0 a1 b1]. */
// @ts-ignore: decorator
@inline
function low(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
}

/** [a2 b2 a3 b3] */
// @ts-ignore: decorator
@inline
function high(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
}

/** Transposes 4x4: row i of `a, b, c, d` goes to `out + i * stride`, as a column. */
// @ts-ignore: decorator
@inline
function storeTransposed(a: v128, b: v128, c: v128, d: v128, out: usize, stride: usize): void {
  const ac0 = low(a, c), ac1 = high(a, c), bd0 = low(b, d), bd1 = high(b, d);
  v128.store(out, low(ac0, bd0));
  v128.store(out + stride, high(ac0, bd0));
  v128.store(out + 2 * stride, low(ac1, bd1));
  v128.store(out + 3 * stride, high(ac1, bd1));
}

/** out[dim rounded up to 4][8] = factor * x[rows][dim] transposed; rows (of `stride` bytes) beyond `rows` are 0. */
export function packColumns(x: usize, stride: usize, rows: i32, dim: i32, factor: f32, out: usize): void {
  const scale = splat(factor);
  const zero = splat(0);
  for (let half = 0; half < PANEL; half += 4) {
    const have = rows - half;
    const x0 = x + <usize>half * stride;
    for (let d = 0; d < dim; d += 4) {
      const left = dim - d;
      const at = x0 + (<usize>d << 2);
      let a = zero, b = zero, c = zero, e = zero;
      if (left >= 4) {
        if (have > 0) a = v128.load(at);
        if (have > 1) b = v128.load(at + stride);
        if (have > 2) c = v128.load(at + 2 * stride);
        if (have > 3) e = v128.load(at + 3 * stride);
      } else {
        if (have > 0) a = loadSome(at, left);
        if (have > 1) b = loadSome(at + stride, left);
        if (have > 2) c = loadSome(at + 2 * stride, left);
        if (have > 3) e = loadSome(at + 3 * stride, left);
      }
      const to = out + (<usize>d << 5) + (<usize>half << 2);
      storeTransposed(f32x4.mul(a, scale), f32x4.mul(b, scale), f32x4.mul(c, scale), f32x4.mul(e, scale), to, 32);
    }
  }
}

/** out[dim / 8 rounded up][rows of `length`][8] = factor * x[rows][dim]; what lies beyond rows and dim is 0. */
export function packRows(x: usize, stride: usize, rows: i32, length: i32, dim: i32, factor: f32, out: usize): void {
  const scale = splat(factor);
  const zero = splat(0);
  for (let d = 0; d < dim; d += 4) {
    const left = dim - d;
    let from = x + (<usize>d << 2);
    let to = out + <usize>(d >> 3) * <usize>length * 32 + (<usize>(d & 4) << 2);
    for (let row = 0; row < length; row++) {
      const value = row >= rows ? zero : left >= 4 ? v128.load(from) : loadSome(from, left);
      v128.store(to, f32x4.mul(value, scale));
      // The last panel may have no second half.
      if (left <= 4 && (d & 4) == 0) v128.store(to, zero, 16);
      from += stride;
      to += 32;
    }
  }
}

/** out[dim rounded up to 4][6] = splats of x[keys][dim] transposed, for up to 6 keys; the others are 0. */
export function splatKeys(x: usize, stride: usize, keys: i32, dim: i32, out: usize): void {
  const depth = (dim + 3) & ~3;
  for (let i = 0; i < KEY_ROWS; i++) {
    let from = x + <usize>i * stride;
    let to = out + (<usize>i << 4);
    const have = i < keys ? dim : 0;
    for (let d = 0; d < have; d++) {
      v128.store(to, v128.load32_splat(from));
      from += 4;
      to += KEY_ROWS * 16;
    }
    for (let d = have; d < depth; d++) {
      v128.store(to, splat(0));
      to += KEY_ROWS * 16;
    }
  }
}

/** Rows of a transposed operand: `dim` features in groups of 6 or fewer, as equal as possible. */
// @ts-ignore: decorator
@inline
export function featureGroups(dim: i32): i32 {
  return (dim + 5) / 6;
}

/** First feature of a group. */
// @ts-ignore: decorator
@inline
export function groupStart(group: i32, groups: i32, dim: i32): i32 {
  return group * (dim / groups) + min(group, dim % groups);
}

/** Bytes of a group of `length` keys: [length][6] splats. */
// @ts-ignore: decorator
@inline
export function groupBytes(length: i32): usize {
  return <usize>length * (KEY_ROWS * 16);
}

/**
 * For each group of features: out[length][6] = splats of x[keys][features], rows [first, end): of `keys` rows there are,
 * the others are 0.
 */
export function splatFeatures(x: usize, stride: usize, first: i32, keys: i32, end: i32, length: i32, dim: i32, out: usize): void {
  const groups = featureGroups(dim);
  for (let group = 0; group < groups; group++) {
    const start = groupStart(group, groups, dim);
    const rows = groupStart(group + 1, groups, dim) - start;
    let from = x + <usize>first * stride + (<usize>start << 2);
    let to = out + <usize>group * groupBytes(length) + groupBytes(first);
    for (let key = first; key < keys; key++) {
      for (let i = 0; i < rows; i++) v128.store(to + (<usize>i << 4), v128.load32_splat(from + (<usize>i << 2)));
      from += stride;
      to += KEY_ROWS * 16;
    }
    memory.fill(to, 0, groupBytes(end - keys));
  }
}

/** Bytes of a panel's record: see `describePanel`. */
export const PANEL_BYTES: usize = 128;

/** First key that a query sees. A token sees itself at least. */
// @ts-ignore: decorator
@inline
function firstKey(starts: usize, token: i32): i32 {
  return max(0, min(token, load<i32>(starts + (<usize>token << 2))));
}

/** Last key that a query sees: itself, or, with `ends`, the one in front of its end. A token sees itself at least. */
// @ts-ignore: decorator
@inline
function lastKey(ends: usize, token: i32, tokens: i32): i32 {
  if (!ends) return token;
  const last = min(token, tokens - 1);
  return max(last, min(tokens, load<i32>(ends + (<usize>last << 2))) - 1);
}

/**
 * Which keys the 8 queries from `token` on see; `ends` may be null. Record of i32: [least first key, end, greatest first key, least last
 * key], at byte 32 the first key of each query, at byte 64 the last. Queries beyond `tokens` see what the last token sees, or more.
 */
export function describePanel(starts: usize, ends: usize, token: i32, tokens: i32, record: usize): void {
  let leastFirst = i32.MAX_VALUE, leastLast = i32.MAX_VALUE;
  let greatestFirst = 0, greatestLast = 0;
  for (let lane = 0; lane < PANEL; lane++) {
    const first = firstKey(starts, min(token + lane, tokens - 1));
    const last = lastKey(ends, token + lane, tokens);
    leastFirst = min(leastFirst, first);
    greatestFirst = max(greatestFirst, first);
    leastLast = min(leastLast, last);
    greatestLast = max(greatestLast, last);
    store<i32>(record + (<usize>lane << 2), first, 32);
    store<i32>(record + (<usize>lane << 2), last, 64);
  }
  store<i32>(record, leastFirst);
  store<i32>(record, min(greatestLast + 1, tokens), 4);
  store<i32>(record, greatestFirst, 8);
  store<i32>(record, leastLast, 12);
}

// @ts-ignore: decorator
@inline
export function leastKey(record: usize): i32 {
  return load<i32>(record);
}

// @ts-ignore: decorator
@inline
export function endKey(record: usize): i32 {
  return load<i32>(record, 4);
}

/** The keys of a block that are computed for `keys` of them that exist; the others are zeros. */
// @ts-ignore: decorator
@inline
export function wholeUnits(keys: i32): i32 {
  return (keys + KEY_UNIT - 1) / KEY_UNIT * KEY_UNIT;
}

/** Writes the range of keys of the block [key, key + length) that the panel sees, widened to whole units. */
export function storeRange(record: usize, key: i32, length: i32, range: usize): void {
  const first = max(leastKey(record) - key, 0);
  const end = min(endKey(record) - key, length);
  if (first >= end) {
    store<i64>(range, 0);
    return;
  }
  store<i32>(range, first / KEY_UNIT * KEY_UNIT);
  store<i32>(range, wholeUnits(end), 4);
}

function maskRows(record: usize, key: i32, first: i32, end: i32, scores: usize): void {
  const first0 = v128.load(record, 32), first1 = v128.load(record, 48);
  const last0 = v128.load(record, 64), last1 = v128.load(record, 80);
  const hidden = splat(-Infinity);
  for (let row = first; row < end; row++) {
    const at = scores + (<usize>row << 5);
    const index = i32x4.splat(key + row);
    const seen0 = v128.and(i32x4.le_s(first0, index), i32x4.le_s(index, last0));
    const seen1 = v128.and(i32x4.le_s(first1, index), i32x4.le_s(index, last1));
    v128.store(at, v128.bitselect(v128.load(at), hidden, seen0));
    v128.store(at, v128.bitselect(v128.load(at, 16), hidden, seen1), 16);
  }
}

/** Sets the scores [range][8] that a query does not see to -infinity; `key` is the key of row 0. */
export function mask(record: usize, key: i32, range: usize, scores: usize): void {
  const first = load<i32>(range);
  const end = load<i32>(range, 4);
  // All 8 queries see the keys from the greatest first key to the least last one.
  const seenFrom = max(first, min(end, load<i32>(record, 8) - key));
  maskRows(record, key, first, seenFrom, scores);
  maskRows(record, key, max(seenFrom, min(end, load<i32>(record, 12) + 1 - key)), end, scores);
}

/** Soft cap of the scores [range][8]; `cap` is in their units. */
export function capScores(range: usize, scores: usize, cap: f32): void {
  const first = load<i32>(range);
  const at = scores + (<usize>first << 5);
  softCap(at, at, (load<i32>(range, 4) - first) << 3, cap);
}

/** x[rows][dim] (+)= factors * columns[dim][8] transposed, for the first `rows` of the 8 queries. */
export function storeColumns(columns: usize, f0: v128, f1: v128, x: usize, stride: usize, rows: i32, dim: i32, add: bool, tile: usize): void {
  for (let d = 0; d < dim; d += 4) {
    const from = columns + (<usize>d << 5);
    // tile[8 queries][4 features]
    for (let half: usize = 0; half < 2; half++) {
      const at = from + (half << 4);
      const f = half ? f1 : f0;
      storeTransposed(
        f32x4.mul(v128.load(at), f), f32x4.mul(v128.load(at, 32), f), f32x4.mul(v128.load(at, 64), f), f32x4.mul(v128.load(at, 96), f),
        tile + (half << 6), 16,
      );
    }
    const left = dim - d;
    let to = x + (<usize>d << 2);
    for (let row = 0; row < rows; row++) {
      const value = v128.load(tile + (<usize>row << 4));
      if (left >= 4) {
        v128.store(to, add ? f32x4.add(v128.load(to), value) : value);
      } else {
        for (let i: usize = 0; i < <usize>left; i++) {
          const one = load<f32>(tile + (<usize>row << 4) + (i << 2));
          store<f32>(to + (i << 2), add ? load<f32>(to + (i << 2)) + one : one);
        }
      }
      to += stride;
    }
  }
}
