/**
 * Products of one to three rows (decoding a token): every element of B is used so few times that packing it would cost
 * more than the product, so rows of A are multiplied with columns of B where they lie, both contiguous along k.
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

/** Scalar products of a (f32) with up to four columns of B, of which only the first is computed where `four` is false. */
// @ts-ignore: decorator
@inline
function dot(type: i32, four: bool, a: usize, b: usize, ldb: usize, k: i32, alpha: f32, c: usize, out: usize): void {
  const width: usize = type == F32 ? 4 : 2;
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0), s2 = f32x4.splat(0), s3 = f32x4.splat(0);
  let b1 = b + ldb, b2 = b1 + ldb, b3 = b2 + ldb;
  for (const end = a + (<usize>(k & ~3) << 2); a != end; a += 16) {
    const x = v128.load(a);
    s0 = f32x4.add(s0, f32x4.mul(x, loadFloats(b, type))), b += width << 2;
    if (four) {
      s1 = f32x4.add(s1, f32x4.mul(x, loadFloats(b1, type))), b1 += width << 2;
      s2 = f32x4.add(s2, f32x4.mul(x, loadFloats(b2, type))), b2 += width << 2;
      s3 = f32x4.add(s3, f32x4.mul(x, loadFloats(b3, type))), b3 += width << 2;
    }
  }
  let t0 = sum(s0), t1 = sum(s1), t2 = sum(s2), t3 = sum(s3);
  for (let i = k & 3; i > 0; i--) {
    const x = load<f32>(a);
    a += 4;
    t0 += x * loadOne(b, type), b += width;
    if (four) {
      t1 += x * loadOne(b1, type), b1 += width;
      t2 += x * loadOne(b2, type), b2 += width;
      t3 += x * loadOne(b3, type), b3 += width;
    }
  }
  store<f32>(out, alpha * t0 + (c ? load<f32>(c) : 0));
  if (four) {
    store<f32>(out, alpha * t1 + (c ? load<f32>(c, 4) : 0), 4);
    store<f32>(out, alpha * t2 + (c ? load<f32>(c, 8) : 0), 8);
    store<f32>(out, alpha * t3 + (c ? load<f32>(c, 12) : 0), 12);
  }
}

// @ts-ignore: decorator
@inline
function fewRowsOf(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  let j = from;
  // The four columns of B stay in cache for the other rows.
  for (; j + 4 <= to; j += 4) {
    for (let i = 0; i < m; i++) {
      const row = <usize>i, at = <usize>j << 2;
      dot(type, true, a + row * lda, b + <usize>j * ldb, ldb, k, alpha, c ? c + row * ldc + at : 0, out + row * ldo + at);
    }
  }
  for (; j < to; j++) {
    for (let i = 0; i < m; i++) {
      const row = <usize>i, at = <usize>j << 2;
      dot(type, false, a + row * lda, b + <usize>j * ldb, ldb, k, alpha, c ? c + row * ldc + at : 0, out + row * ldo + at);
    }
  }
}

/** out[m, from..to) = alpha A B^T + c, A f32[m, k], B[n, k] of `type`. Leading dimensions in bytes; `from` is a multiple of 4. */
export function fewRows(
  type: i32, a: usize, lda: usize, b: usize, ldb: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32,
): void {
  if (type == F32) fewRowsOf(F32, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
  else if (type == BF16) fewRowsOf(BF16, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
  else fewRowsOf(F16, a, lda, b, ldb, c, ldc, out, ldo, m, from, to, k, alpha);
}
