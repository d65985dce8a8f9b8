/**
 * Matrix products of attention, on one packed operand A and a list of tiles of 8 query columns. See `gemm-kernel.ts`
 * for the packing ([k][6] splats, [k][8] floats) and for the order of the sums.
 *
 * `ranges` holds a pair (first, end) of i32 per tile: the keys that some query of the tile sees, a multiple of 4 of
 * them, counted from the start of the key block. A tile whose range is empty is skipped.
 */
import { computeTile } from "./gemm-kernel";
import { loadSome, storeSome } from "./lanes";

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

/**
 * out[dim] = factor * p[count] V[count, dim]: for each feature a sum over rows in ascending order. Four rows at once are added to the sums
 * in memory: V is read once, from front to back.
 */
export function weightedSum(p: usize, count: i32, v: usize, dim: i32, factor: f32, out: usize): void {
  const stride = <usize>dim << 2;
  const whole = dim & ~3, left = dim & 3;
  memory.fill(out, 0, stride);
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const p0 = v128.load32_splat(p), p1 = v128.load32_splat(p, 4), p2 = v128.load32_splat(p, 8), p3 = v128.load32_splat(p, 12);
    let v0 = v, v1 = v0 + stride, v2 = v1 + stride, v3 = v2 + stride;
    let to = out;
    for (const end = out + (<usize>whole << 2); to != end; to += 16) {
      let s = f32x4.add(v128.load(to), f32x4.mul(p0, v128.load(v0)));
      s = f32x4.add(s, f32x4.mul(p1, v128.load(v1)));
      s = f32x4.add(s, f32x4.mul(p2, v128.load(v2)));
      v128.store(to, f32x4.add(s, f32x4.mul(p3, v128.load(v3))));
      v0 += 16, v1 += 16, v2 += 16, v3 += 16;
    }
    if (left) {
      let s = f32x4.add(loadSome(to, left), f32x4.mul(p0, loadSome(v0, left)));
      s = f32x4.add(s, f32x4.mul(p1, loadSome(v1, left)));
      s = f32x4.add(s, f32x4.mul(p2, loadSome(v2, left)));
      storeSome(to, f32x4.add(s, f32x4.mul(p3, loadSome(v3, left))), left);
    }
    p += 16;
    v += stride << 2;
  }
  for (; i < count; i++, p += 4) {
    const p0 = v128.load32_splat(p);
    let to = out;
    for (const end = out + (<usize>whole << 2); to != end; to += 16, v += 16) v128.store(to, f32x4.add(v128.load(to), f32x4.mul(p0, v128.load(v))));
    if (left) storeSome(to, f32x4.add(loadSome(to, left), f32x4.mul(p0, loadSome(v, left))), left);
    v += <usize>left << 2;
  }
  const scale = f32x4.splat(factor);
  let to = out;
  for (const end = out + (<usize>whole << 2); to != end; to += 16) v128.store(to, f32x4.mul(v128.load(to), scale));
  if (left) storeSome(to, f32x4.mul(loadSome(to, left), scale), left);
}
