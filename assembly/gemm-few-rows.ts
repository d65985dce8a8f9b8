/**
 * Products of one to three rows (decoding a token): every element of B is used so few times that packing it would cost
 * more than the product, so rows of A are multiplied with columns of B where they lie, both contiguous along k. A thread
 * reads its part of B as four streams from the first byte to the last: neighbouring columns at once would be short
 * streams, which reach a fifth of the memory's speed.
 */
import { BF16, F16, F32 } from "./half";
import { loadOne } from "./gemm-pack";

/** From this many rows on packing pays. */
export const FEW_ROWS: i32 = 3;

// @ts-ignore: decorator
@inline
function sum(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

/** Vectors that are loaded, because the JIT would make them anew at every use: f16 2^13 times the lower and the upper halves, bf16 the upper halves. */
const VECTORS: usize = memory.data<u32>(
  [1 << 13, 1 << 13, 1 << 13, 1 << 13, 1 << 29, 1 << 29, 1 << 29, 1 << 29, 0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000], 16,
);

/** What `evenOf` takes. */
// @ts-ignore: decorator
@inline
function evenVector(type: i32): v128 {
  return type == F16 ? v128.load(VECTORS) : i32x4.splat(0);
}

/** What `oddOf` takes. */
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

/** What makes up for the 2^-112 of `evenOf`: one half is in the prepared row, so that no product is subnormal, one in the sum. */
const HALF_SCALE: f32 = reinterpret<f32>((127 + 56) << 23);

/** x[k] as `dot` takes it: its groups of eight in the order of a half type's words, scaled for f16; what is left of the last group stays as it is. */
function prepare(type: i32, x: usize, k: i32, out: usize): void {
  const scale = f32x4.splat(type == F16 ? HALF_SCALE : 1);
  const whole = x + (<usize>(k & ~7) << 2);
  for (; x != whole; x += 32, out += 32) {
    const a = f32x4.mul(v128.load(x), scale), b = f32x4.mul(v128.load(x, 16), scale);
    v128.store(out, v128.shuffle<f32>(a, b, 0, 2, 4, 6));
    v128.store(out, v128.shuffle<f32>(a, b, 1, 3, 5, 7), 16);
  }
  memory.copy(out, x, <usize>(k & 7) << 2);
}

/** Of the eight elements at b, as f32, those that meet the first four of a prepared row. */
// @ts-ignore: decorator
@inline
function firstFour(type: i32, b: usize, even: v128): v128 {
  return type == F32 ? v128.load(b) : evenOf(type, v128.load(b), even);
}

/** Those that meet the last four. */
// @ts-ignore: decorator
@inline
function lastFour(type: i32, b: usize, odd: v128): v128 {
  return type == F32 ? v128.load(b, 16) : oddOf(type, v128.load(b), odd);
}

/** Adds the products of the `left` elements behind the groups of eight. Apart from the loops, in which it would take up registers. */
function addRest(type: i32, total: f32, a: usize, b: usize, left: i32): f32 {
  const width: usize = type == F32 ? 4 : 2;
  for (; left > 0; left--, a += 4, b += width) total += load<f32>(a) * loadOne(b, type);
  return total;
}

/** All lanes of both sums together, and what is left behind the groups of eight. */
// @ts-ignore: decorator
@inline
function finish(type: i32, s0: v128, s1: v128, a: usize, b: usize, left: i32): f32 {
  const total = sum(f32x4.add(s0, s1)) * (type == F16 ? HALF_SCALE : 1);
  return left ? addRest(type, total, a, b, left) : total;
}

/** Scalar product of a prepared row of k elements and a column of B. */
// @ts-ignore: decorator
@inline
function dot(type: i32, a: usize, b: usize, k: i32): f32 {
  const even = evenVector(type), odd = oddVector(type);
  const step: usize = type == F32 ? 32 : 16;
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0);
  for (const end = a + (<usize>(k & ~7) << 2); a != end; a += 32, b += step) {
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a), firstFour(type, b, even)));
    s1 = f32x4.add(s1, f32x4.mul(v128.load(a, 16), lastFour(type, b, odd)));
  }
  return finish(type, s0, s1, a, b, k & 7);
}

/** Where the results of a row go: out = alpha times a product, plus c where there is one. */
// @ts-ignore: decorator
@inline
function put(out: usize, c: usize, at: usize, alpha: f32, product: f32): void {
  store<f32>(out + at, alpha * product + (c ? load<f32>(c + at) : 0));
}

/**
 * `dot` of one row and the columns `j`, `j + apart`, `j + 2 apart`, `j + 3 apart`: four streams, each as long as a quarter of the thread's
 * part, which share the loads of the row, and sums enough to hide the latency of an addition.
 */
// @ts-ignore: decorator
@inline
function fourColumns(type: i32, a: usize, b: usize, ldb: usize, c: usize, out: usize, j: i32, apart: i32, k: i32, alpha: f32): void {
  const even = evenVector(type), odd = oddVector(type);
  const step: usize = type == F32 ? 32 : 16;
  const stream = <usize>apart * ldb;
  let b0 = b + <usize>j * ldb, b1 = b0 + stream, b2 = b1 + stream, b3 = b2 + stream;
  let s00 = f32x4.splat(0), s01 = f32x4.splat(0), s10 = f32x4.splat(0), s11 = f32x4.splat(0);
  let s20 = f32x4.splat(0), s21 = f32x4.splat(0), s30 = f32x4.splat(0), s31 = f32x4.splat(0);
  for (const end = a + (<usize>(k & ~7) << 2); a != end; a += 32) {
    const x0 = v128.load(a), x1 = v128.load(a, 16);
    s00 = f32x4.add(s00, f32x4.mul(x0, firstFour(type, b0, even)));
    s01 = f32x4.add(s01, f32x4.mul(x1, lastFour(type, b0, odd)));
    s10 = f32x4.add(s10, f32x4.mul(x0, firstFour(type, b1, even)));
    s11 = f32x4.add(s11, f32x4.mul(x1, lastFour(type, b1, odd)));
    s20 = f32x4.add(s20, f32x4.mul(x0, firstFour(type, b2, even)));
    s21 = f32x4.add(s21, f32x4.mul(x1, lastFour(type, b2, odd)));
    s30 = f32x4.add(s30, f32x4.mul(x0, firstFour(type, b3, even)));
    s31 = f32x4.add(s31, f32x4.mul(x1, lastFour(type, b3, odd)));
    b0 += step, b1 += step, b2 += step, b3 += step;
  }
  const at = <usize>j << 2, next = <usize>apart << 2;
  put(out, c, at, alpha, finish(type, s00, s01, a, b0, k & 7));
  put(out, c, at + next, alpha, finish(type, s10, s11, a, b1, k & 7));
  put(out, c, at + 2 * next, alpha, finish(type, s20, s21, a, b2, k & 7));
  put(out, c, at + 3 * next, alpha, finish(type, s30, s31, a, b3, k & 7));
}

// @ts-ignore: decorator
@inline
function fewRowsOf(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  const apart = (to - from) / 4;
  for (let j = from; j < from + apart; j++) {
    // The columns stay in cache for the other rows.
    for (let i = 0; i < m; i++) {
      const row = <usize>i;
      fourColumns(type, a + row * lda, b, ldb, c ? c + row * ldc : 0, out + row * ldo, j, apart, k, alpha);
    }
  }
  for (let j = from + 4 * apart; j < to; j++) {
    for (let i = 0; i < m; i++) {
      const row = <usize>i;
      put(out + row * ldo, c ? c + row * ldc : 0, <usize>j << 2, alpha, dot(type, a + row * lda, b + <usize>j * ldb, k));
    }
  }
}

// Small functions, because the JIT slows down on large ones.
function fewRowsF32(
  a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  fewRowsOf(F32, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
}

function fewRowsBf16(
  a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  fewRowsOf(BF16, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
}

function fewRowsF16(
  a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  fewRowsOf(F16, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
}

/**
 * out[m, from..to) = alpha A B^T + c, A f32[m, k], B[n, k] of `type` (finite numbers). Leading dimensions in bytes; `scratch` has room
 * for A.
 */
export function fewRows(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32, scratch: usize,
): void {
  if (type == F32) {
    fewRowsF32(a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
    return;
  }
  const line = <usize>k << 2;
  for (let i = 0; i < m; i++) prepare(type, a + <usize>i * lda, k, scratch + <usize>i * line);
  if (type == BF16) fewRowsBf16(scratch, line, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
  else fewRowsF16(scratch, line, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
}
