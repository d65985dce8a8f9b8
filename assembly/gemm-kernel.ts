/**
 * The innermost loop of a matrix product: a tile of up to 6 rows x 8 columns in 12 vector registers, with 2 more for a
 * row of B, 1 for an element of A in all four lanes and 1 for a product: 16 registers, all that x86-64 has. One more
 * row or column spills and halves the speed.
 *
 * Operands are packed (gemm-pack.ts): A as [k][6] of vectors that hold one element four times (with fewer rows there are
 * gaps), B as [k][8] floats, k a multiple of 4. Each element of the tile is a sum over k in ascending order, in one accumulator.
 */

/** Columns of a tile; B is packed in panels of this width. */
export const COLUMNS: i32 = 8;
/** Most rows of a tile. */
export const ROWS: i32 = 6;

/**
 * out[rows, 8] = A B (+ c). Leading dimensions in bytes; `c` may be 0 (nothing is added), may be `out`, and a leading
 * dimension of 0 adds one row to all. `end` is the end of the B panel, behind `pb` by a positive number of 128-byte units.
 * `rows` is a constant at every call; the branches on it fold away.
 */
// @ts-ignore: decorator
@inline
function tile(rows: i32, pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0);
  let c40 = f32x4.splat(0), c41 = f32x4.splat(0);
  let c50 = f32x4.splat(0), c51 = f32x4.splat(0);
  let a: v128, p: v128, b0: v128, b1: v128;
  do {
    b0 = v128.load(pb), b1 = v128.load(pb, 16);
    a = v128.load(pa), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c00 = f32x4.add(c00, p), c01 = f32x4.add(c01, a);
    if (rows > 1) a = v128.load(pa, 16), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c10 = f32x4.add(c10, p), c11 = f32x4.add(c11, a);
    if (rows > 2) a = v128.load(pa, 32), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c20 = f32x4.add(c20, p), c21 = f32x4.add(c21, a);
    if (rows > 3) a = v128.load(pa, 48), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c30 = f32x4.add(c30, p), c31 = f32x4.add(c31, a);
    if (rows > 4) a = v128.load(pa, 64), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c40 = f32x4.add(c40, p), c41 = f32x4.add(c41, a);
    if (rows > 5) a = v128.load(pa, 80), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c50 = f32x4.add(c50, p), c51 = f32x4.add(c51, a);

    b0 = v128.load(pb, 32), b1 = v128.load(pb, 48);
    a = v128.load(pa, 96), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c00 = f32x4.add(c00, p), c01 = f32x4.add(c01, a);
    if (rows > 1) a = v128.load(pa, 112), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c10 = f32x4.add(c10, p), c11 = f32x4.add(c11, a);
    if (rows > 2) a = v128.load(pa, 128), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c20 = f32x4.add(c20, p), c21 = f32x4.add(c21, a);
    if (rows > 3) a = v128.load(pa, 144), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c30 = f32x4.add(c30, p), c31 = f32x4.add(c31, a);
    if (rows > 4) a = v128.load(pa, 160), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c40 = f32x4.add(c40, p), c41 = f32x4.add(c41, a);
    if (rows > 5) a = v128.load(pa, 176), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c50 = f32x4.add(c50, p), c51 = f32x4.add(c51, a);

    b0 = v128.load(pb, 64), b1 = v128.load(pb, 80);
    a = v128.load(pa, 192), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c00 = f32x4.add(c00, p), c01 = f32x4.add(c01, a);
    if (rows > 1) a = v128.load(pa, 208), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c10 = f32x4.add(c10, p), c11 = f32x4.add(c11, a);
    if (rows > 2) a = v128.load(pa, 224), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c20 = f32x4.add(c20, p), c21 = f32x4.add(c21, a);
    if (rows > 3) a = v128.load(pa, 240), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c30 = f32x4.add(c30, p), c31 = f32x4.add(c31, a);
    if (rows > 4) a = v128.load(pa, 256), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c40 = f32x4.add(c40, p), c41 = f32x4.add(c41, a);
    if (rows > 5) a = v128.load(pa, 272), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c50 = f32x4.add(c50, p), c51 = f32x4.add(c51, a);

    b0 = v128.load(pb, 96), b1 = v128.load(pb, 112);
    a = v128.load(pa, 288), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c00 = f32x4.add(c00, p), c01 = f32x4.add(c01, a);
    if (rows > 1) a = v128.load(pa, 304), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c10 = f32x4.add(c10, p), c11 = f32x4.add(c11, a);
    if (rows > 2) a = v128.load(pa, 320), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c20 = f32x4.add(c20, p), c21 = f32x4.add(c21, a);
    if (rows > 3) a = v128.load(pa, 336), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c30 = f32x4.add(c30, p), c31 = f32x4.add(c31, a);
    if (rows > 4) a = v128.load(pa, 352), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c40 = f32x4.add(c40, p), c41 = f32x4.add(c41, a);
    if (rows > 5) a = v128.load(pa, 368), p = f32x4.mul(a, b0), a = f32x4.mul(a, b1), c50 = f32x4.add(c50, p), c51 = f32x4.add(c51, a);

    pa += 384;
    pb += 128;
  } while (pb != end);

  if (c != 0) {
    c00 = f32x4.add(c00, v128.load(c)), c01 = f32x4.add(c01, v128.load(c, 16));
    if (rows > 1) c += ldc, c10 = f32x4.add(c10, v128.load(c)), c11 = f32x4.add(c11, v128.load(c, 16));
    if (rows > 2) c += ldc, c20 = f32x4.add(c20, v128.load(c)), c21 = f32x4.add(c21, v128.load(c, 16));
    if (rows > 3) c += ldc, c30 = f32x4.add(c30, v128.load(c)), c31 = f32x4.add(c31, v128.load(c, 16));
    if (rows > 4) c += ldc, c40 = f32x4.add(c40, v128.load(c)), c41 = f32x4.add(c41, v128.load(c, 16));
    if (rows > 5) c += ldc, c50 = f32x4.add(c50, v128.load(c)), c51 = f32x4.add(c51, v128.load(c, 16));
  }
  v128.store(out, c00), v128.store(out, c01, 16);
  if (rows > 1) out += ldo, v128.store(out, c10), v128.store(out, c11, 16);
  if (rows > 2) out += ldo, v128.store(out, c20), v128.store(out, c21, 16);
  if (rows > 3) out += ldo, v128.store(out, c30), v128.store(out, c31, 16);
  if (rows > 4) out += ldo, v128.store(out, c40), v128.store(out, c41, 16);
  if (rows > 5) out += ldo, v128.store(out, c50), v128.store(out, c51, 16);
}

function tile6(pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  tile(6, pa, pb, end, c, ldc, out, ldo);
}

function tile5(pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  tile(5, pa, pb, end, c, ldc, out, ldo);
}

function tile4(pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  tile(4, pa, pb, end, c, ldc, out, ldo);
}

function tile3(pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  tile(3, pa, pb, end, c, ldc, out, ldo);
}

function tile2(pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  tile(2, pa, pb, end, c, ldc, out, ldo);
}

function tile1(pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  tile(1, pa, pb, end, c, ldc, out, ldo);
}

/** `tile` of 1..6 rows. */
// @ts-ignore: decorator
@inline
export function computeTile(rows: i32, pa: usize, pb: usize, end: usize, c: usize, ldc: usize, out: usize, ldo: usize): void {
  switch (rows) {
    case 6: tile6(pa, pb, end, c, ldc, out, ldo); break;
    case 5: tile5(pa, pb, end, c, ldc, out, ldo); break;
    case 4: tile4(pa, pb, end, c, ldc, out, ldo); break;
    case 3: tile3(pa, pb, end, c, ldc, out, ldo); break;
    case 2: tile2(pa, pb, end, c, ldc, out, ldo); break;
    default: tile1(pa, pb, end, c, ldc, out, ldo);
  }
}
