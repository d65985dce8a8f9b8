/**
 * Products of one to three rows (decoding a token): every element of B is used so few times that packing it would cost
 * more than the product, so rows of A are multiplied with columns of B where they lie, both contiguous along k. A thread
 * reads its part of B from the first byte to the last: several columns at once would be several short streams, which
 * reach a fifth of the memory's speed.
 */
import { BF16, F16, F32, loadFloats } from "./half";
import { loadOne } from "./gemm-pack";

/** From this many rows on packing pays. */
export const FEW_ROWS: i32 = 3;

// @ts-ignore: decorator
@inline
function sum(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

/** x[k] in groups of eight, [x0 x2 x4 x6 x1 x3 x5 x7]; what is left of the last group stays as it is. */
function separate(x: usize, k: i32, out: usize): void {
  const whole = x + (<usize>(k & ~7) << 2);
  for (; x != whole; x += 32, out += 32) {
    const a = v128.load(x), b = v128.load(x, 16);
    v128.store(out, i8x16.shuffle(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27));
    v128.store(out, i8x16.shuffle(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31), 16);
  }
  memory.copy(out, x, <usize>(k & 7) << 2);
}

/** The lower bf16 of each word as f32. An index with the high bit set gives 0 on every machine. */
// @ts-ignore: decorator
@inline
function evenOf(words: v128): v128 {
  return i8x16.relaxed_swizzle(words, i8x16(-1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 8, 9, -1, -1, 12, 13));
}

/** The upper bf16 of each word as f32. */
// @ts-ignore: decorator
@inline
function oddOf(words: v128): v128 {
  return v128.and(words, i32x4.splat(0xffff0000));
}

/** Scalar product of k elements of a (f32; for bf16 as `separate` makes it) and b, of `type`. */
// @ts-ignore: decorator
@inline
function dot(type: i32, a: usize, b: usize, k: i32): f32 {
  const width: usize = type == F32 ? 4 : 2;
  // Four sums, because an addition takes four cycles.
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0), s2 = f32x4.splat(0), s3 = f32x4.splat(0);
  for (const end = a + (<usize>(k & ~15) << 2); a != end; a += 64, b += width << 4) {
    const x0 = v128.load(a), x1 = v128.load(a, 16), x2 = v128.load(a, 32), x3 = v128.load(a, 48);
    if (type == BF16) {
      const w0 = v128.load(b), w1 = v128.load(b, 16);
      s0 = f32x4.add(s0, f32x4.mul(x0, evenOf(w0)));
      s1 = f32x4.add(s1, f32x4.mul(x1, oddOf(w0)));
      s2 = f32x4.add(s2, f32x4.mul(x2, evenOf(w1)));
      s3 = f32x4.add(s3, f32x4.mul(x3, oddOf(w1)));
    } else {
      s0 = f32x4.add(s0, f32x4.mul(x0, loadFloats(b, type)));
      s1 = f32x4.add(s1, f32x4.mul(x1, loadFloats(b + (width << 2), type)));
      s2 = f32x4.add(s2, f32x4.mul(x2, loadFloats(b + (width << 3), type)));
      s3 = f32x4.add(s3, f32x4.mul(x3, loadFloats(b + width * 12, type)));
    }
  }
  if (type == BF16 && (k & 8) != 0) {
    const words = v128.load(b);
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a), evenOf(words)));
    s1 = f32x4.add(s1, f32x4.mul(v128.load(a, 16), oddOf(words)));
    a += 32, b += 16;
  }
  let total = sum(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
  for (let i = type == BF16 ? k & 7 : k & 15; i > 0; i--) {
    total += load<f32>(a) * loadOne(b, type);
    a += 4, b += width;
  }
  return total;
}

// @ts-ignore: decorator
@inline
function fewRowsOf(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  for (let j = from; j < to; j++) {
    // The column stays in cache for the other rows.
    for (let i = 0; i < m; i++) {
      const row = <usize>i, at = <usize>j << 2;
      const value = alpha * dot(type, a + row * lda, b + <usize>j * ldb, k);
      store<f32>(out + row * ldo + at, value + (c ? load<f32>(c + row * ldc + at) : 0));
    }
  }
}

/**
 * out[m, from..to) = alpha A B^T + c, A f32[m, k], B[n, k] of `type`. Leading dimensions in bytes; `scratch` has room
 * for A.
 */
export function fewRows(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32, scratch: usize,
): void {
  if (type == F32) {
    fewRowsOf(F32, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
  } else if (type == BF16) {
    const line = <usize>k << 2;
    for (let i = 0; i < m; i++) separate(a + <usize>i * lda, k, scratch + <usize>i * line);
    fewRowsOf(BF16, scratch, line, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
  } else {
    fewRowsOf(F16, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
  }
}
