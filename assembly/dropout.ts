/**
 * Dropout by counter-based random numbers: Philox 4x32-10 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405).
 * Four elements are a block; its four random words are a function of (seed, draw, block, site, segment) alone, so a replay drops
 * the same elements, on any number of threads.
 */
import { float, int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { Opcode } from "./opcodes";

/** Elements that are handed out as one: four blocks, whose words are computed together, block b in lane b. */
const UNIT: i32 = 16;

const MULTIPLIER_0: i32 = 0xd2511f53;
const MULTIPLIER_1: i32 = 0xcd9e8d57;
const WEYL_0: i32 = 0x9e3779b9;
const WEYL_1: i32 = 0xbb67ae85;

/** Upper halves of the 32 x 32 -> 64 bit products. */
// @ts-ignore: decorator
@inline
function mulHigh(a: v128, m: v128): v128 {
  const low = i64x2.extmul_low_i32x4_u(a, m);
  const high = i64x2.extmul_high_i32x4_u(a, m);
  return i8x16.shuffle(low, high, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}

/**
 * Which of 16 elements, from block `first` on, are kept: byte 4 w + b is -1 where word w of block first + b, as an
 * unsigned number, is at least `threshold`.
 */
// @ts-ignore: decorator
@inline
function keep16(first: i32, site: i32, segment: i32, seed: i32, draw: i32, threshold: v128): v128 {
  const m0 = i32x4.splat(MULTIPLIER_0);
  const m1 = i32x4.splat(MULTIPLIER_1);
  let c0 = i32x4.add(i32x4.splat(first), i32x4(0, 1, 2, 3));
  let c1 = i32x4.splat(site);
  let c2 = i32x4.splat(segment);
  let c3 = i32x4.splat(0);
  let key0 = i32x4.splat(seed);
  let key1 = i32x4.splat(draw);
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(c0, m0);
    const high1 = mulHigh(c2, m1);
    const low0 = i32x4.mul(c0, m0);
    const low1 = i32x4.mul(c2, m1);
    c0 = v128.xor(v128.xor(high1, c1), key0);
    c2 = v128.xor(v128.xor(high0, c3), key1);
    c1 = low1;
    c3 = low0;
    key0 = i32x4.add(key0, i32x4.splat(WEYL_0));
    key1 = i32x4.add(key1, i32x4.splat(WEYL_1));
  }
  const words01 = i16x8.narrow_i32x4_s(i32x4.ge_u(c0, threshold), i32x4.ge_u(c1, threshold));
  const words23 = i16x8.narrow_i32x4_s(i32x4.ge_u(c2, threshold), i32x4.ge_u(c3, threshold));
  return i8x16.narrow_i16x8_s(words01, words23);
}

// The lanes of one block out of keep16's bytes: byte 4 w + b fills lane w.
// @ts-ignore: decorator
@inline
function laneMask(bytes: v128, block: i32): v128 {
  if (block == 0) return i8x16.shuffle(bytes, bytes, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
  if (block == 1) return i8x16.shuffle(bytes, bytes, 1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9, 9, 13, 13, 13, 13);
  if (block == 2) return i8x16.shuffle(bytes, bytes, 2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10, 10, 14, 14, 14, 14);
  return i8x16.shuffle(bytes, bytes, 3, 3, 3, 3, 7, 7, 7, 7, 11, 11, 11, 11, 15, 15, 15, 15);
}

/** y[n] = kept ? x * scale : 0, from block `first` on; y may be x. */
function dropout(
  x: usize, y: usize, n: i32, first: i32, site: i32, segment: i32, seed: i32, draw: i32, threshold: i32, scale: f32,
): void {
  const limit = i32x4.splat(threshold);
  const factor = f32x4.splat(scale);
  for (; n >= 16; n -= 16, first += 4, x += 64, y += 64) {
    const keep = keep16(first, site, segment, seed, draw, limit);
    v128.store(y, v128.and(f32x4.mul(v128.load(x), factor), laneMask(keep, 0)));
    v128.store(y, v128.and(f32x4.mul(v128.load(x, 16), factor), laneMask(keep, 1)), 16);
    v128.store(y, v128.and(f32x4.mul(v128.load(x, 32), factor), laneMask(keep, 2)), 32);
    v128.store(y, v128.and(f32x4.mul(v128.load(x, 48), factor), laneMask(keep, 3)), 48);
  }
  if (n <= 0) return;
  const keep = keep16(first, site, segment, seed, draw, limit);
  for (let block = 0; n > 0; n -= 4, block++, x += 16, y += 16) {
    const mask = laneMask(keep, block);
    if (n >= 4) v128.store(y, v128.and(f32x4.mul(v128.load(x), factor), mask));
    else storeSome(y, v128.and(f32x4.mul(loadSome(x, n), factor), mask), n);
  }
}

/**
 * Command Dropout: x [n], rng i32[2] (seed, draw), segment i32[1], y [n]; n, site, threshold (u32: a word below it
 * drops its element), scale (f32).
 */
export function dropoutCommand(opcode: u32): void {
  if (opcode != Opcode.Dropout) unreachable();
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  const rng = pointer(1);
  const segment = load<i32>(pointer(2));
  dropout(pointer(0) + at, pointer(3) + at, n, start >> 2, int(1), segment, load<i32>(rng), load<i32>(rng, 4), int(2), float(3));
}
