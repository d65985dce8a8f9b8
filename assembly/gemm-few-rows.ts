/**
 * Products of a few rows (decoding a token, or one of each of several texts): every element of B is used so few times that packing it
 * would cost more than the product, so rows of A are multiplied with columns of B where they lie, both contiguous along k. A thread
 * reads its part of B as two or four streams from the first byte to the last: neighbouring columns at once would be short
 * streams, which reach a fifth of the memory's speed.
 *
 * An element is the sum of four sums, of every fourth product in ascending order of k (in the order that `prepare` gives them), whatever
 * else is computed beside it: a row's results do not depend on the number of rows.
 */
import { BF16, F16, F32 } from "./half";
import { loadOne } from "./gemm-pack";

/** With more rows packing pays. */
export const FEW_ROWS: i32 = 8;
/** Rows that share what is loaded and widened of B. Four times two sums are more than the JIT keeps in registers. */
const GROUP: i32 = 3;

// @ts-ignore: decorator
@inline
function sum(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

/** Vectors that are loaded, because the JIT would make them anew at every use: f16 2^13 times the lower and the upper halves, bf16 the upper halves. */
const VECTORS: usize = memory.data<u32>(
  [1 << 13, 1 << 13, 1 << 13, 1 << 13, 1 << 29, 1 << 29, 1 << 29, 1 << 29, 0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000], 16,
);

/** Returns what `evenOf` takes. */
// @ts-ignore: decorator
@inline
function evenVector(type: i32): v128 {
  return type == F16 ? v128.load(VECTORS) : i32x4.splat(0);
}

/** Returns what `oddOf` takes. */
// @ts-ignore: decorator
@inline
function oddVector(type: i32): v128 {
  return type == F16 ? v128.load(VECTORS, 16) : type == BF16 ? v128.load(VECTORS, 32) : i32x4.splat(0);
}

/** The lower half of each word as f32: bf16, or f16 times 2^-112 (exponent and fraction 13 bits up, the copies of the sign before them away). */
// @ts-ignore: decorator
@inline
function evenOf(type: i32, words: v128, even: v128): v128 {
  if (type == F16) return v128.and(i32x4.dot_i16x8_s(words, even), i32x4.splat(0x8fffffff));
  // An index with the high bit set gives 0 on every machine.
  return i8x16.relaxed_swizzle(words, i8x16(-1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1, 12, 13));
}

/** The upper half of each word. */
// @ts-ignore: decorator
@inline
function oddOf(type: i32, words: v128, odd: v128): v128 {
  if (type == F16) return v128.and(i32x4.dot_i16x8_s(words, odd), i32x4.splat(0x8fffffff));
  return v128.and(words, odd);
}

/** The factor that makes up for the 2^-112 of `evenOf`: one half is in the prepared row, so that no product is subnormal, one in the sum. */
const HALF_SCALE: f32 = reinterpret<f32>((127 + 56) << 23);

/**
 * x[k] as a row of a group of `rows` rows, which lie eight by eight: [k / 8][rows][8] in the order of a half type's words, scaled for
 * f16. Behind that, at `rest`, [rows][k % 8] as it is.
 */
function prepare(type: i32, x: usize, k: i32, rows: i32, out: usize, rest: usize): void {
  const scale = f32x4.splat(type == F16 ? HALF_SCALE : 1);
  const whole = x + (<usize>(k & ~7) << 2);
  for (; x != whole; x += 32, out += <usize>rows << 5) {
    const a = f32x4.mul(v128.load(x), scale), b = f32x4.mul(v128.load(x, 16), scale);
    v128.store(out, type == F32 ? a : v128.shuffle<f32>(a, b, 0, 2, 4, 6));
    v128.store(out, type == F32 ? b : v128.shuffle<f32>(a, b, 1, 3, 5, 7), 16);
  }
  memory.copy(rest, x, <usize>(k & 7) << 2);
}

/** Returns, of the eight elements at b, as f32, the ones that meet the first four of a prepared row. */
// @ts-ignore: decorator
@inline
function firstFour(type: i32, b: usize, even: v128): v128 {
  return type == F32 ? v128.load(b) : evenOf(type, v128.load(b), even);
}

/** Returns the ones that meet the last four. */
// @ts-ignore: decorator
@inline
function lastFour(type: i32, b: usize, odd: v128): v128 {
  return type == F32 ? v128.load(b, 16) : oddOf(type, v128.load(b), odd);
}

/** Adds the products of the `left` elements behind the eights. Apart from the loops, in which it would take up registers. */
function addRest(type: i32, total: f32, a: usize, b: usize, left: i32): f32 {
  const width: usize = type == F32 ? 4 : 2;
  for (; left > 0; left--, a += 4, b += width) total += load<f32>(a) * loadOne(b, type);
  return total;
}

/** out = alpha times a product, plus c where there is one. The product: all lanes of a sum, and what is left behind the eights. */
// @ts-ignore: decorator
@inline
function put(type: i32, s: v128, a: usize, b: usize, left: i32, alpha: f32, c: usize, out: usize): void {
  let total = sum(s) * (type == F16 ? HALF_SCALE : 1);
  if (left) total = addRest(type, total, a, b, left);
  store<f32>(out, alpha * total + (c ? load<f32>(c) : 0));
}

/** A row, and the columns `j`, `j + apart`, `j + 2 apart`, `j + 3 apart`: four streams. If `apart` is 0, column `j` alone. */
// @ts-ignore: decorator
@inline
function oneRow(type: i32, a: usize, b: usize, ldb: usize, c: usize, out: usize, j: i32, apart: i32, k: i32, alpha: f32): void {
  const even = evenVector(type), odd = oddVector(type);
  const step: usize = type == F32 ? 32 : 16;
  const stream = <usize>apart * ldb;
  let b0 = b + <usize>j * ldb, b1 = b0 + stream, b2 = b1 + stream, b3 = b2 + stream;
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0), s2 = f32x4.splat(0), s3 = f32x4.splat(0);
  for (const end = a + (<usize>(k & ~7) << 2); a != end; a += 32) {
    const x0 = v128.load(a), x1 = v128.load(a, 16);
    s0 = f32x4.add(s0, f32x4.mul(x0, firstFour(type, b0, even)));
    s1 = f32x4.add(s1, f32x4.mul(x0, firstFour(type, b1, even)));
    s2 = f32x4.add(s2, f32x4.mul(x0, firstFour(type, b2, even)));
    s3 = f32x4.add(s3, f32x4.mul(x0, firstFour(type, b3, even)));
    s0 = f32x4.add(s0, f32x4.mul(x1, lastFour(type, b0, odd)));
    s1 = f32x4.add(s1, f32x4.mul(x1, lastFour(type, b1, odd)));
    s2 = f32x4.add(s2, f32x4.mul(x1, lastFour(type, b2, odd)));
    s3 = f32x4.add(s3, f32x4.mul(x1, lastFour(type, b3, odd)));
    b0 += step, b1 += step, b2 += step, b3 += step;
  }
  const at = <usize>j << 2, next = <usize>apart << 2, left = k & 7;
  if (c) c += at;
  out += at;
  put(type, s0, a, b0, left, alpha, c, out);
  if (apart == 0) return;
  put(type, s1, a, b1, left, alpha, c ? c + next : 0, out + next);
  put(type, s2, a, b2, left, alpha, c ? c + 2 * next : 0, out + 2 * next);
  put(type, s3, a, b3, left, alpha, c ? c + 3 * next : 0, out + 3 * next);
}

/** A group of 2 or 3 rows, a constant at every call, and the columns `j` and `j + apart`. If `apart` is 0, column `j` alone. */
// @ts-ignore: decorator
@inline
function severalRows(
  type: i32, rows: i32, a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  j: i32, apart: i32, k: i32, alpha: f32,
): void {
  const even = evenVector(type), odd = oddVector(type);
  const step: usize = type == F32 ? 32 : 16;
  let b0 = b + <usize>j * ldb, b1 = b0 + <usize>apart * ldb;
  let s00 = f32x4.splat(0), s01 = f32x4.splat(0), s10 = f32x4.splat(0), s11 = f32x4.splat(0);
  let s20 = f32x4.splat(0), s21 = f32x4.splat(0);
  let w0: v128, w1: v128, x: v128, p: v128;
  for (const end = a + (<usize>(k & ~7) << 2) * rows; a != end; a += <usize>rows << 5) {
    w0 = firstFour(type, b0, even), w1 = firstFour(type, b1, even);
    x = v128.load(a), p = f32x4.mul(x, w0), x = f32x4.mul(x, w1), s00 = f32x4.add(s00, p), s01 = f32x4.add(s01, x);
    x = v128.load(a, 32), p = f32x4.mul(x, w0), x = f32x4.mul(x, w1), s10 = f32x4.add(s10, p), s11 = f32x4.add(s11, x);
    if (rows > 2) x = v128.load(a, 64), p = f32x4.mul(x, w0), x = f32x4.mul(x, w1), s20 = f32x4.add(s20, p), s21 = f32x4.add(s21, x);
    w0 = lastFour(type, b0, odd), w1 = lastFour(type, b1, odd);
    x = v128.load(a, 16), p = f32x4.mul(x, w0), x = f32x4.mul(x, w1), s00 = f32x4.add(s00, p), s01 = f32x4.add(s01, x);
    x = v128.load(a, 48), p = f32x4.mul(x, w0), x = f32x4.mul(x, w1), s10 = f32x4.add(s10, p), s11 = f32x4.add(s11, x);
    if (rows > 2) x = v128.load(a, 80), p = f32x4.mul(x, w0), x = f32x4.mul(x, w1), s20 = f32x4.add(s20, p), s21 = f32x4.add(s21, x);
    b0 += step, b1 += step;
  }
  const left = k & 7, row = <usize>left << 2;
  if (c) c += <usize>j << 2;
  out += <usize>j << 2;
  const c1 = c ? c + ldc : 0, c2 = c1 ? c1 + ldc : 0;
  put(type, s00, a, b0, left, alpha, c, out);
  put(type, s10, a + row, b0, left, alpha, c1, out + ldo);
  if (rows > 2) put(type, s20, a + 2 * row, b0, left, alpha, c2, out + 2 * ldo);
  if (apart == 0) return;
  const next = <usize>apart << 2;
  out += next;
  put(type, s01, a, b1, left, alpha, c ? c + next : 0, out);
  put(type, s11, a + row, b1, left, alpha, c1 ? c1 + next : 0, out + ldo);
  if (rows > 2) put(type, s21, a + 2 * row, b1, left, alpha, c2 ? c2 + next : 0, out + 2 * ldo);
}

// Small functions, because the JIT slows down on large ones.
function oneRowF32(a: usize, b: usize, ldb: usize, c: usize, out: usize, j: i32, apart: i32, k: i32, alpha: f32): void {
  oneRow(F32, a, b, ldb, c, out, j, apart, k, alpha);
}

function oneRowBf16(a: usize, b: usize, ldb: usize, c: usize, out: usize, j: i32, apart: i32, k: i32, alpha: f32): void {
  oneRow(BF16, a, b, ldb, c, out, j, apart, k, alpha);
}

function oneRowF16(a: usize, b: usize, ldb: usize, c: usize, out: usize, j: i32, apart: i32, k: i32, alpha: f32): void {
  oneRow(F16, a, b, ldb, c, out, j, apart, k, alpha);
}

function twoRowsF32(
  a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  severalRows(F32, 2, a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
}

function threeRowsF32(
  a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  severalRows(F32, 3, a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
}

function twoRowsBf16(
  a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  severalRows(BF16, 2, a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
}

function threeRowsBf16(
  a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  severalRows(BF16, 3, a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
}

function twoRowsF16(
  a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  severalRows(F16, 2, a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
}

function threeRowsF16(
  a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  severalRows(F16, 3, a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
}

/** First row of a group, of nearly equal ones. */
// @ts-ignore: decorator
@inline
function groupStart(group: i32, m: i32, groups: i32): i32 {
  return group * (m / groups) + min(group, m % groups);
}

/** One group of rows and columns of B. */
// @ts-ignore: decorator
@inline
function groupColumns(
  type: i32, rows: i32, a: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  j: i32, apart: i32, k: i32, alpha: f32,
): void {
  if (rows == 3) {
    if (type == F32) threeRowsF32(a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
    else if (type == BF16) threeRowsBf16(a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
    else threeRowsF16(a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
  } else if (rows == 2) {
    if (type == F32) twoRowsF32(a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
    else if (type == BF16) twoRowsBf16(a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
    else twoRowsF16(a, b, ldb, c, ldc, out, ldo, j, apart, k, alpha);
  } else {
    if (type == F32) oneRowF32(a, b, ldb, c, out, j, apart, k, alpha);
    else if (type == BF16) oneRowBf16(a, b, ldb, c, out, j, apart, k, alpha);
    else oneRowF16(a, b, ldb, c, out, j, apart, k, alpha);
  }
}

/**
 * out[m, from..to) = alpha A B^T + c, A f32[m, k], B[n, k] of `type` (finite numbers), m at most FEW_ROWS. Leading dimensions in bytes; `scratch`
 * has room for `room` elements of A, at least k. (One row of f32 is not copied.)
 */
export function fewRows(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32, scratch: usize, room: i32,
): void {
  const most = max(1, room / k);
  for (let row = 0; row < m; row += most) {
    const at = <usize>row;
    someRows(
      type, a + at * lda, lda, b, ldb, c ? c + at * ldc : 0, ldc, out + at * ldo, ldo, min(most, m - row), from, to, k, alpha, scratch,
    );
  }
}

/** `fewRows`, as many as there is room for. */
function someRows(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32, scratch: usize,
): void {
  const groups = (m + GROUP - 1) / GROUP;
  if (m == 1 && type == F32) {
    scratch = a;
  } else {
    for (let group = 0; group < groups; group++) {
      const first = groupStart(group, m, groups);
      const rows = groupStart(group + 1, m, groups) - first;
      const eights = scratch + (<usize>first * <usize>k << 2);
      const rest = eights + (<usize>rows * <usize>(k & ~7) << 2);
      for (let i = 0; i < rows; i++) {
        prepare(type, a + <usize>(first + i) * lda, k, rows, eights + (<usize>i << 5), rest + (<usize>i * <usize>(k & 7) << 2));
      }
    }
  }
  const streams = m == 1 ? 4 : 2;
  const apart = (to - from) / streams;
  const streamed = from + apart;
  // The first of each stream, and what is left behind the streams.
  for (let j = from; j < to; j = j + 1 == streamed ? from + streams * apart : j + 1) {
    // The columns stay in cache for the other groups.
    for (let group = 0; group < groups; group++) {
      const first = groupStart(group, m, groups);
      const rows = groupStart(group + 1, m, groups) - first;
      const at = <usize>first;
      groupColumns(
        type, rows, scratch + (at * <usize>k << 2), b, ldb, c ? c + at * ldc : 0, ldc, out + at * ldo, ldo, j, j < streamed ? apart : 0, k, alpha,
      );
    }
  }
}
