/**
 * Matrix products of attention, on one packed operand A and a list of tiles of 8 query columns. See `gemm-kernel.ts`
 * for the packing ([k][6] splats, [k][8] floats) and for the order of the sums.
 *
 * `ranges` holds a pair (first, end) of i32 per tile: the keys that some query of the tile sees, a multiple of 4 of
 * them, counted from the start of the key block. A tile whose range is empty is skipped.
 */
import { computeTile } from "./gemm-kernel";

/**
 * Scores of 6 keys, the first of which is `key`: c[key + 0..6][8] = A B for each tile that sees `key`. B is
 * `depth` x 8; the tiles' strides are in bytes. Tiles of c are [keys][8].
 */
export function attentionScores(
  key: i32, depth: i32, a: usize, b: usize, bStride: usize, c: usize, cStride: usize, ranges: usize, tiles: i32,
): void {
  const bytes = <usize>depth << 5;
  c += <usize>key << 5;
  for (let i = 0; i < tiles; i++) {
    if (key >= load<i32>(ranges) && key < load<i32>(ranges, 4)) computeTile(6, a, b, b + bytes, 0, 0, c, 32);
    ranges += 8;
    b += bStride;
    c += cStride;
  }
}

/**
 * Sums over a range: c[rows][8] (+)= A[range] B[range] for each tile. `rangeStride` is 8, or 0 when all tiles have one
 * range. Rows of c are `ldc` bytes apart.
 */
export function attentionSums(
  rows: i32, a: usize, b: usize, bStride: usize, c: usize, cStride: usize, ldc: usize, accumulate: bool,
  ranges: usize, rangeStride: usize, tiles: i32,
): void {
  for (let i = 0; i < tiles; i++) {
    const first = load<i32>(ranges);
    const end = load<i32>(ranges, 4);
    if (first < end) {
      computeTile(rows, a + <usize>first * 96, b + (<usize>first << 5), b + (<usize>end << 5), accumulate ? c : 0, ldc, c, ldc);
    }
    ranges += rangeStride;
    b += bStride;
    c += cStride;
  }
}
