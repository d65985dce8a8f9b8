/**
 * Packing for the tile kernel (gemm-kernel.ts): copies a block of an operand into the order in which the kernel reads
 * it, widening bf16 and f16 on the way. Addresses and strides are in bytes; `type` is one of half.ts.
 */
import { BF16, F16, F32, loadFloats, widenEvenF16, widenOddF16 } from "./half";
import { COLUMNS, ROWS } from "./gemm-kernel";

/** Bytes of `k` packed rows of B in one panel; packed k is a multiple of 4. */
// @ts-ignore: decorator
@inline
export function panelBytes(k: i32): usize {
  return <usize>((k + 3) & ~3) * COLUMNS * 4;
}

// @ts-ignore: decorator
@inline
export function loadOne(at: usize, type: i32): f32 {
  if (type == F32) return load<f32>(at);
  if (type == BF16) return reinterpret<f32>(<u32>load<u16>(at) << 16);
  return f32x4.extract_lane(loadFloats(at, F16), 0);
}

// @ts-ignore: decorator
@inline
function loadSplat(at: usize, type: i32): v128 {
  // `load32_splat` is one instruction, a splat of a loaded float is two.
  return type == F32 ? v128.load32_splat(at) : f32x4.splat(loadOne(at, type));
}

// @ts-ignore: decorator
@inline
function packRowsOf(type: i32, a: usize, rowStride: usize, kStride: usize, rows: i32, k: i32, alpha: f32, to: usize): void {
  const scale = f32x4.splat(alpha);
  const width: usize = type == F32 ? 4 : 2;
  const step: usize = ROWS * 16;
  const end = to + step * <usize>((k + 3) & ~3);
  if (kStride == width) {
    const a1 = rows > 1 ? rowStride : 0, a2 = rows > 2 ? 2 * rowStride : 0, a3 = rows > 3 ? 3 * rowStride : 0;
    const a4 = rows > 4 ? 4 * rowStride : 0, a5 = rows > 5 ? 5 * rowStride : 0;
    let at = to;
    // Missing rows are copies of the first: the kernel does not read them.
    for (const whole = a + <usize>(k & ~3) * width; a != whole; a += width << 2) {
      const x0 = f32x4.mul(loadFloats(a, type), scale), x1 = f32x4.mul(loadFloats(a + a1, type), scale);
      const x2 = f32x4.mul(loadFloats(a + a2, type), scale), x3 = f32x4.mul(loadFloats(a + a3, type), scale);
      const x4 = f32x4.mul(loadFloats(a + a4, type), scale), x5 = f32x4.mul(loadFloats(a + a5, type), scale);
      v128.store(at, v128.shuffle<f32>(x0, x0, 0, 0, 0, 0)), v128.store(at, v128.shuffle<f32>(x1, x1, 0, 0, 0, 0), 16);
      v128.store(at, v128.shuffle<f32>(x2, x2, 0, 0, 0, 0), 32), v128.store(at, v128.shuffle<f32>(x3, x3, 0, 0, 0, 0), 48);
      v128.store(at, v128.shuffle<f32>(x4, x4, 0, 0, 0, 0), 64), v128.store(at, v128.shuffle<f32>(x5, x5, 0, 0, 0, 0), 80);
      v128.store(at, v128.shuffle<f32>(x0, x0, 1, 1, 1, 1), 96), v128.store(at, v128.shuffle<f32>(x1, x1, 1, 1, 1, 1), 112);
      v128.store(at, v128.shuffle<f32>(x2, x2, 1, 1, 1, 1), 128), v128.store(at, v128.shuffle<f32>(x3, x3, 1, 1, 1, 1), 144);
      v128.store(at, v128.shuffle<f32>(x4, x4, 1, 1, 1, 1), 160), v128.store(at, v128.shuffle<f32>(x5, x5, 1, 1, 1, 1), 176);
      v128.store(at, v128.shuffle<f32>(x0, x0, 2, 2, 2, 2), 192), v128.store(at, v128.shuffle<f32>(x1, x1, 2, 2, 2, 2), 208);
      v128.store(at, v128.shuffle<f32>(x2, x2, 2, 2, 2, 2), 224), v128.store(at, v128.shuffle<f32>(x3, x3, 2, 2, 2, 2), 240);
      v128.store(at, v128.shuffle<f32>(x4, x4, 2, 2, 2, 2), 256), v128.store(at, v128.shuffle<f32>(x5, x5, 2, 2, 2, 2), 272);
      v128.store(at, v128.shuffle<f32>(x0, x0, 3, 3, 3, 3), 288), v128.store(at, v128.shuffle<f32>(x1, x1, 3, 3, 3, 3), 304);
      v128.store(at, v128.shuffle<f32>(x2, x2, 3, 3, 3, 3), 320), v128.store(at, v128.shuffle<f32>(x3, x3, 3, 3, 3, 3), 336);
      v128.store(at, v128.shuffle<f32>(x4, x4, 3, 3, 3, 3), 352), v128.store(at, v128.shuffle<f32>(x5, x5, 3, 3, 3, 3), 368);
      at += 384;
    }
    for (let i = k & 3; i > 0; i--, at += step) {
      v128.store(at, f32x4.mul(loadSplat(a, type), scale)), v128.store(at, f32x4.mul(loadSplat(a + a1, type), scale), 16);
      v128.store(at, f32x4.mul(loadSplat(a + a2, type), scale), 32), v128.store(at, f32x4.mul(loadSplat(a + a3, type), scale), 48);
      v128.store(at, f32x4.mul(loadSplat(a + a4, type), scale), 64), v128.store(at, f32x4.mul(loadSplat(a + a5, type), scale), 80);
      a += width;
    }
  } else {
    for (let at = to, i = k; i > 0; i--, at += step) {
      v128.store(at, f32x4.mul(loadSplat(a, type), scale));
      if (rows > 1) v128.store(at, f32x4.mul(loadSplat(a + width, type), scale), 16);
      if (rows > 2) v128.store(at, f32x4.mul(loadSplat(a + 2 * width, type), scale), 32);
      if (rows > 3) v128.store(at, f32x4.mul(loadSplat(a + 3 * width, type), scale), 48);
      if (rows > 4) v128.store(at, f32x4.mul(loadSplat(a + 4 * width, type), scale), 64);
      if (rows > 5) v128.store(at, f32x4.mul(loadSplat(a + 5 * width, type), scale), 80);
      a += kStride;
    }
  }
  for (let at = to + step * <usize>k; at != end; at += 16) v128.store(at, i32x4.splat(0));
}

// Small functions, because the JIT slows down on large ones.
function packRowsF32(a: usize, rowStride: usize, kStride: usize, rows: i32, k: i32, alpha: f32, to: usize): void {
  packRowsOf(F32, a, rowStride, kStride, rows, k, alpha, to);
}

function packRowsBf16(a: usize, rowStride: usize, kStride: usize, rows: i32, k: i32, alpha: f32, to: usize): void {
  packRowsOf(BF16, a, rowStride, kStride, rows, k, alpha, to);
}

function packRowsF16(a: usize, rowStride: usize, kStride: usize, rows: i32, k: i32, alpha: f32, to: usize): void {
  packRowsOf(F16, a, rowStride, kStride, rows, k, alpha, to);
}

/**
 * to[k padded][6] of vectors = alpha A[rows, k], element (r, i) at `a + r rowStride + i kStride`, one of the strides
 * being the width of an element.
 */
export function packRows(type: i32, a: usize, rowStride: usize, kStride: usize, rows: i32, k: i32, alpha: f32, to: usize): void {
  if (type == F32) packRowsF32(a, rowStride, kStride, rows, k, alpha, to);
  else if (type == BF16) packRowsBf16(a, rowStride, kStride, rows, k, alpha, to);
  else packRowsF16(a, rowStride, kStride, rows, k, alpha, to);
}

/** One panel of fewer than 8 columns, the missing ones zero. */
function packEdge(type: i32, b: usize, columnStride: usize, kStride: usize, columns: i32, k: i32, to: usize): void {
  for (const end = to + panelBytes(k); to != end; to += 32) {
    for (let j = 0; j < COLUMNS; j++) {
      const inside = j < columns && k > 0;
      store<f32>(to + (<usize>j << 2), inside ? loadOne(b + <usize>j * columnStride, type) : 0);
    }
    b += kStride;
    k--;
  }
}

/** Rows of B are contiguous: whole panels are copied, two at a time, which reads whole cache lines. */
// @ts-ignore: decorator
@inline
function packContiguousOf(type: i32, b: usize, kStride: usize, columns: i32, k: i32, to: usize): usize {
  const width: usize = type == F32 ? 4 : 2;
  const panel = panelBytes(k);
  let j = 0;
  for (; j + 16 <= columns; j += 16) {
    let from = b + <usize>j * width;
    let at = to;
    for (let i = 0; i < k; i++) {
      v128.store(at, loadFloats(from, type));
      v128.store(at, loadFloats(from + (width << 2), type), 16);
      v128.store(at + panel, loadFloats(from + (width << 3), type));
      v128.store(at + panel, loadFloats(from + width * 12, type), 16);
      from += kStride;
      at += 32;
    }
    for (const end = to + panel; at != end; at += 16) {
      v128.store(at, i32x4.splat(0));
      v128.store(at + panel, i32x4.splat(0));
    }
    to += panel << 1;
  }
  for (; j + 8 <= columns; j += 8) {
    let from = b + <usize>j * width;
    let at = to;
    for (let i = 0; i < k; i++) {
      v128.store(at, loadFloats(from, type));
      v128.store(at, loadFloats(from + (width << 2), type), 16);
      from += kStride;
      at += 32;
    }
    for (const end = to + panel; at != end; at += 16) v128.store(at, i32x4.splat(0));
    to += panel;
  }
  return to;
}

/**
 * Columns of B are contiguous along k: whole panels are transposed, 4 x 4 words at a time. A word is an element, or two halves, which
 * are neighbours along k: those of even k and those of odd k are widened after the transposition, half as many words to move.
 */
// @ts-ignore: decorator
@inline
function packTransposedOf(type: i32, b: usize, columnStride: usize, columns: i32, k: i32, to: usize): usize {
  const panel = panelBytes(k);
  // Elements in 16 bytes.
  const lanes = type == F32 ? 4 : 8;
  const whole = k & ~(lanes - 1);
  for (let j = 0; j + 8 <= columns; j += 8) {
    let f0 = b + <usize>j * columnStride;
    let f1 = f0 + columnStride, f2 = f1 + columnStride, f3 = f2 + columnStride;
    let f4 = f3 + columnStride, f5 = f4 + columnStride, f6 = f5 + columnStride, f7 = f6 + columnStride;
    let at = to;
    for (const end = to + (<usize>whole << 5); at != end; at += <usize>lanes << 5) {
      storeTransposed(type, at, v128.load(f0), v128.load(f1), v128.load(f2), v128.load(f3));
      storeTransposed(type, at + 16, v128.load(f4), v128.load(f5), v128.load(f6), v128.load(f7));
      f0 += 16, f1 += 16, f2 += 16, f3 += 16, f4 += 16, f5 += 16, f6 += 16, f7 += 16;
    }
    if (k != whole) {
      const width: usize = type == F32 ? 4 : 2;
      packEdge(type, f0, columnStride, width, COLUMNS, k - whole, at);
    }
    to += panel;
  }
  return to;
}

// @ts-ignore: decorator
@inline
function storeTransposed(type: i32, at: usize, x0: v128, x1: v128, x2: v128, x3: v128): void {
  const low01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5), low23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5);
  const high01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7), high23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
  at = storeWords(type, at, v128.shuffle<i64>(low01, low23, 0, 2));
  at = storeWords(type, at, v128.shuffle<i64>(low01, low23, 1, 3));
  at = storeWords(type, at, v128.shuffle<i64>(high01, high23, 0, 2));
  at = storeWords(type, at, v128.shuffle<i64>(high01, high23, 1, 3));
}

/** One row of four columns, or two rows. Returns where the next goes. */
// @ts-ignore: decorator
@inline
function storeWords(type: i32, at: usize, x: v128): usize {
  if (type == F32) {
    v128.store(at, x);
    return at + 32;
  }
  if (type == BF16) {
    v128.store(at, i32x4.mul(x, i32x4.splat(1 << 16)));
    v128.store(at, v128.and(x, i32x4.splat(0xffff0000)), 32);
  } else {
    v128.store(at, widenEvenF16(x));
    v128.store(at, widenOddF16(x), 32);
  }
  return at + 64;
}

function packContiguous(type: i32, b: usize, kStride: usize, columns: i32, k: i32, to: usize): usize {
  if (type == F32) return packContiguousOf(F32, b, kStride, columns, k, to);
  if (type == BF16) return packContiguousOf(BF16, b, kStride, columns, k, to);
  return packContiguousOf(F16, b, kStride, columns, k, to);
}

function packTransposed(type: i32, b: usize, columnStride: usize, columns: i32, k: i32, to: usize): usize {
  if (type == F32) return packTransposedOf(F32, b, columnStride, columns, k, to);
  if (type == BF16) return packTransposedOf(BF16, b, columnStride, columns, k, to);
  return packTransposedOf(F16, b, columnStride, columns, k, to);
}

/**
 * Panels of 8 columns, each to[k padded][8], of B[k, columns], element (i, j) at `b + j columnStride + i kStride`, one of the
 * strides being the width of an element; missing columns of the last panel are zero.
 */
export function packColumns(type: i32, b: usize, columnStride: usize, kStride: usize, columns: i32, k: i32, to: usize): void {
  const width: usize = type == F32 ? 4 : 2;
  to = columnStride == width ? packContiguous(type, b, kStride, columns, k, to) : packTransposed(type, b, columnStride, columns, k, to);
  const edge = columns & 7;
  if (edge) packEdge(type, b + <usize>(columns - edge) * columnStride, columnStride, kStride, edge, k, to);
}
