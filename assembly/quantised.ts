/**
 * Matrices of 8- or 4-bit codes. Each row is cut into blocks of 64 elements, and an element is what its code stands for times the
 * f32 scale of its block, rounded once: the same number wherever it is computed.
 *
 * - Q8: a code is an integer -127..127, one byte.
 * - NF4: a code is the index of one of 16 numbers, quantiles of the normal distribution scaled to [-1, 1] (Dettmers et al. 2023,
 *   QLoRA, https://arxiv.org/abs/2305.14314, appendix E). Two codes are in a byte, the first one in its lower half.
 */

/** How the elements of a quantised matrix lie in memory, beside the float types of half.ts. */
export const Q8: i32 = 3;
export const NF4: i32 = 4;
/** Elements with one scale. */
export const BLOCK: i32 = 64;

/** Bytes of `count` codes, an even number. */
// @ts-ignore: decorator
@inline
export function codeBytes(type: i32, count: usize): usize {
  return type == Q8 ? count : count >> 1;
}

/** The sixteen numbers byte by byte, lowest bytes first. Loaded, because the JIT would make a constant anew at every use. */
const TABLE: usize = memory.data<i8>([
  0, -79, 48, -96, 77, 63, 113, 0, -1, -29, -35, 58, -72, -85, -77, 0,
  0, 57, 107, 50, -94, 53, 120, 0, -6, -54, 4, 3, -92, 7, 19, 0,
  -128, 50, 6, -54, -111, 61, -70, 0, -94, 36, 124, -83, -31, 16, 57, -128,
  -65, -65, -65, -66, -66, -66, -67, 0, 61, 62, 62, 62, 62, 63, 63, 63,
], 16);

/** 15 in each byte; 16 and 2^11 in each pair of bytes. */
const NIBBLES: usize = memory.data<i8>([
  15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15,
  16, 0, 16, 0, 16, 0, 16, 0, 16, 0, 16, 0, 16, 0, 16, 0,
  0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8,
], 16);

/** Returns the first codes of sixteen bytes with two codes each. */
// @ts-ignore: decorator
@inline
function evenCodes(bytes: v128): v128 {
  return v128.and(bytes, v128.load(NIBBLES));
}

/** The second ones: times 2^11, divided by 2^15 and rounded, which nothing is lost by as the first ones are gone. A shift is slower. */
// @ts-ignore: decorator
@inline
function oddCodes(bytes: v128): v128 {
  const mask = v128.load(NIBBLES);
  return v128.and(i16x8.relaxed_q15mulr_s(v128.andnot(bytes, mask), v128.load(NIBBLES, 32)), mask);
}

/** Sixteen (or with `eight` the first eight) codes in a row, one in each byte; the other bytes are 0. */
// @ts-ignore: decorator
@inline
export function loadCodes(type: i32, at: usize, eight: bool): v128 {
  if (type == Q8) return eight ? v128.load64_zero(at) : v128.load(at);
  const pairs = i16x8.extend_low_i8x16_u(eight ? v128.load32_zero(at) : v128.load64_zero(at));
  // A byte ab becomes the bytes 0b, 0a: 00ab | 0ab0, without the upper halves.
  return v128.and(v128.or(pairs, i16x8.mul(pairs, v128.load(NIBBLES, 16))), v128.load(NIBBLES));
}

// @ts-ignore: decorator
@inline
function lowBytes(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

// @ts-ignore: decorator
@inline
function highBytes(a: v128, b: v128): v128 {
  return i8x16.shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// @ts-ignore: decorator
@inline
function lowPairs(a: v128, b: v128): v128 {
  return v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}

// @ts-ignore: decorator
@inline
function highPairs(a: v128, b: v128): v128 {
  return v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

/** One of the numbers. */
export function nf4Value(code: usize): f32 {
  let bits: u32 = 0;
  for (let i: usize = 0; i < 4; i++) bits |= <u32>load<u8>(TABLE + 16 * i + code) << (8 * <u32>i);
  return reinterpret<f32>(bits);
}

/** Byte `i` of the numbers that codes stand for. An index below 16 picks the same byte on every machine. */
// @ts-ignore: decorator
@inline
function byteOf(i: usize, codes: v128): v128 {
  return i8x16.relaxed_swizzle(v128.load(TABLE + 16 * i), codes);
}

/** Returns what 16 codes stand for: the first four at a0 times s0, the next behind it times s1; with `both` the last eight likewise at a1. */
// @ts-ignore: decorator
@inline
export function storeValues(type: i32, codes: v128, s0: v128, s1: v128, a0: usize, both: bool, s2: v128, s3: v128, a1: usize): void {
  if (type == Q8) {
    const low = i16x8.extend_low_i8x16_s(codes);
    v128.store(a0, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(low)), s0));
    v128.store(a0, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(low)), s1), 16);
    if (both) {
      const high = i16x8.extend_high_i8x16_s(codes);
      v128.store(a1, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(high)), s2));
      v128.store(a1, f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(high)), s3), 16);
    }
    return;
  }
  const b0 = byteOf(0, codes), b1 = byteOf(1, codes), b2 = byteOf(2, codes), b3 = byteOf(3, codes);
  const low01 = lowBytes(b0, b1), low23 = lowBytes(b2, b3);
  v128.store(a0, f32x4.mul(lowPairs(low01, low23), s0));
  v128.store(a0, f32x4.mul(highPairs(low01, low23), s1), 16);
  if (both) {
    const high01 = highBytes(b0, b1), high23 = highBytes(b2, b3);
    v128.store(a1, f32x4.mul(lowPairs(high01, high23), s2));
    v128.store(a1, f32x4.mul(highPairs(high01, high23), s3), 16);
  }
}

/**
 * Eight rows of eight bytes transposed: t0..t3 hold rows 0 and 1, 2 and 3, ... byte by byte. Writes groups of eight floats, one of
 * each row: of 8 columns, or 16 where a byte holds two. `s0` and `s1` are the scales of the rows.
 */
// @ts-ignore: decorator
@inline
function storeColumns(type: i32, t0: v128, t1: v128, t2: v128, t3: v128, s0: v128, s1: v128, to: usize): void {
  const first03 = lowPairs(t0, t1), last03 = highPairs(t0, t1);
  const first47 = lowPairs(t2, t3), last47 = highPairs(t2, t3);
  const step: usize = type == Q8 ? 64 : 128;
  storeTwo(type, v128.shuffle<i32>(first03, first47, 0, 4, 1, 5), s0, s1, to);
  storeTwo(type, v128.shuffle<i32>(first03, first47, 2, 6, 3, 7), s0, s1, to + step);
  storeTwo(type, v128.shuffle<i32>(last03, last47, 0, 4, 1, 5), s0, s1, to + 2 * step);
  storeTwo(type, v128.shuffle<i32>(last03, last47, 2, 6, 3, 7), s0, s1, to + 3 * step);
}

/** Two bytes of each of eight rows. */
// @ts-ignore: decorator
@inline
function storeTwo(type: i32, bytes: v128, s0: v128, s1: v128, to: usize): void {
  if (type == Q8) {
    storeValues(type, bytes, s0, s1, to, true, s0, s1, to + 32);
    return;
  }
  storeValues(type, evenCodes(bytes), s0, s1, to, true, s0, s1, to + 64);
  storeValues(type, oddCodes(bytes), s0, s1, to + 32, true, s0, s1, to + 96);
}

/** Sixteen columns of eight rows: to[16][8]. */
// @ts-ignore: decorator
@inline
export function storeSixteenColumns(
  type: i32, r0: usize, r1: usize, r2: usize, r3: usize, r4: usize, r5: usize, r6: usize, r7: usize, s0: v128, s1: v128, to: usize,
): void {
  if (type == NF4) {
    const x0 = v128.load64_zero(r0), x1 = v128.load64_zero(r1), x2 = v128.load64_zero(r2), x3 = v128.load64_zero(r3);
    const x4 = v128.load64_zero(r4), x5 = v128.load64_zero(r5), x6 = v128.load64_zero(r6), x7 = v128.load64_zero(r7);
    storeColumns(type, lowBytes(x0, x1), lowBytes(x2, x3), lowBytes(x4, x5), lowBytes(x6, x7), s0, s1, to);
    return;
  }
  const x0 = v128.load(r0), x1 = v128.load(r1), x2 = v128.load(r2), x3 = v128.load(r3);
  const x4 = v128.load(r4), x5 = v128.load(r5), x6 = v128.load(r6), x7 = v128.load(r7);
  storeColumns(type, lowBytes(x0, x1), lowBytes(x2, x3), lowBytes(x4, x5), lowBytes(x6, x7), s0, s1, to);
  storeColumns(type, highBytes(x0, x1), highBytes(x2, x3), highBytes(x4, x5), highBytes(x6, x7), s0, s1, to + 256);
}

// @ts-ignore: decorator
@inline
function dequantiseOf(type: i32, codes: usize, scales: usize, to: usize, blocks: i32): void {
  const bytes = codeBytes(type, 16);
  for (const end = scales + (<usize>blocks << 2); scales != end; scales += 4) {
    const s = v128.load32_splat(scales);
    for (const last = to + BLOCK * 4; to != last; to += 64, codes += bytes)
      storeValues(type, loadCodes(type, codes, false), s, s, to, true, s, s, to + 32);
  }
}

// Small functions, because the JIT slows down on large ones.
function dequantiseQ8(codes: usize, scales: usize, to: usize, blocks: i32): void {
  dequantiseOf(Q8, codes, scales, to, blocks);
}

function dequantiseNF4(codes: usize, scales: usize, to: usize, blocks: i32): void {
  dequantiseOf(NF4, codes, scales, to, blocks);
}

/** `blocks` blocks, one after the other, as f32. */
export function dequantise(type: i32, codes: usize, scales: usize, to: usize, blocks: i32): void {
  if (type == Q8) dequantiseQ8(codes, scales, to, blocks);
  else dequantiseNF4(codes, scales, to, blocks);
}
