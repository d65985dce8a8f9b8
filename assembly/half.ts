/** bf16 and f16 against f32, four lanes at a time. Byte shuffles and multiplications: constant vector shifts are slow. */

/** How an array of floats lies in memory; the number is what commands carry. */
export const F32: i32 = 0;
export const BF16: i32 = 1;
export const F16: i32 = 2;

/** Bytes of `count` elements of a type. */
// @ts-ignore: decorator
@inline
export function floatBytes(type: i32, count: usize): usize {
  return type == F32 ? count << 2 : count << 1;
}

/** Four bf16 (the low 8 bytes of `h`) as f32: the upper half of the word. Exact. */
// @ts-ignore: decorator
@inline
export function widenBf16(h: v128): v128 {
  return i8x16.shuffle(h, i32x4.splat(0), 16, 16, 0, 1, 16, 16, 2, 3, 16, 16, 4, 5, 16, 16, 6, 7);
}

/** Vectors of one word, loaded because the JIT would make them anew at every use: 2^13 times the lower and the upper half of a word, exponents. */
const WORDS: usize = memory.data<u32>(
  [1 << 13, 1 << 13, 1 << 13, 1 << 13, 1 << 29, 1 << 29, 1 << 29, 1 << 29, 0x0f800000, 0x0f800000, 0x0f800000, 0x0f800000, 0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000], 16,
);

/** Four f16 (the low 8 bytes of `h`) as f32. Exact. */
// @ts-ignore: decorator
@inline
export function widenF16(h: v128): v128 {
  return widenEvenF16(i32x4.extend_low_i16x8_u(h));
}

/** Four f16, each in the low half of a word, as f32. Exact. */
// @ts-ignore: decorator
@inline
export function widenEvenF16(words: v128): v128 {
  return fromShifted(i32x4.dot_i16x8_s(words, v128.load(WORDS)));
}

/** Widens the elements in the high halves. */
// @ts-ignore: decorator
@inline
export function widenOddF16(words: v128): v128 {
  return fromShifted(i32x4.dot_i16x8_s(words, v128.load(WORDS, 16)));
}

/**
 * Signed f16 times 2^13 as f32: exponent and fraction are in place, with copies of the sign before them. Read as an f32 that is the value
 * times 2^-112, subnormals included; infinities and NaN get their exponent filled up.
 */
// @ts-ignore: decorator
@inline
function fromShifted(shifted: v128): v128 {
  const bits = v128.and(shifted, i32x4.splat(0x8fffffff));
  const value = f32x4.mul(bits, f32x4.splat(reinterpret<f32>((127 + 112) << 23)));
  const exponent = v128.load(WORDS, 32);
  const special = i32x4.eq(v128.and(bits, exponent), exponent);
  return v128.or(value, v128.and(special, v128.load(WORDS, 48)));
}

/** Four f32 as bf16 in the low 8 bytes, rounded to nearest even; NaN stays NaN (quiet). */
// @ts-ignore: decorator
@inline
export function narrowBf16(x: v128): v128 {
  const odd = v128.and(i32x4.shr_u(x, 16), i32x4.splat(1));
  const rounded = i32x4.add(i32x4.add(x, i32x4.splat(0x7fff)), odd);
  const quiet = v128.or(x, i32x4.splat(0x400000));
  const bits = v128.bitselect(rounded, quiet, f32x4.eq(x, x));
  return i8x16.shuffle(bits, bits, 2, 3, 6, 7, 10, 11, 14, 15, 2, 3, 6, 7, 10, 11, 14, 15);
}

/**
 * Four f32 as f16 in the low 8 bytes, rounded to nearest even; beyond 65520 infinity, NaN stays NaN (quiet).
 * Subnormal results (below 2^-14) are rounded by adding 0.5, whose last bit is worth 2^-24, the least f16.
 */
// @ts-ignore: decorator
@inline
export function narrowF16(x: v128): v128 {
  const a = v128.and(x, i32x4.splat(0x7fffffff));
  const odd = v128.and(i32x4.shr_u(a, 13), i32x4.splat(1));
  const rebiased = i32x4.add(i32x4.add(a, i32x4.splat((-112 << 23) + 0xfff)), odd);
  const normal = i32x4.shr_u(rebiased, 13);
  const subnormal = i32x4.sub(f32x4.add(a, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  let h = v128.bitselect(subnormal, normal, i32x4.lt_s(a, i32x4.splat(0x38800000)));
  h = v128.bitselect(i32x4.splat(0x7c00), h, i32x4.ge_s(a, i32x4.splat(0x47800000)));
  h = v128.bitselect(i32x4.splat(0x7e00), h, i32x4.gt_s(a, i32x4.splat(0x7f800000)));
  h = v128.or(h, i32x4.shr_u(v128.and(x, i32x4.splat(0x80000000)), 16));
  return i8x16.shuffle(h, h, 0, 1, 4, 5, 8, 9, 12, 13, 0, 1, 4, 5, 8, 9, 12, 13);
}

/** Four elements of a half type (the low 8 bytes) as f32. */
// @ts-ignore: decorator
@inline
export function widen(h: v128, type: i32): v128 {
  return type == BF16 ? widenBf16(h) : widenF16(h);
}

/** Four f32 as a half type, in the low 8 bytes. */
// @ts-ignore: decorator
@inline
export function narrow(x: v128, type: i32): v128 {
  return type == BF16 ? narrowBf16(x) : narrowF16(x);
}

/** Four elements of `type` at `at`, as f32. */
// @ts-ignore: decorator
@inline
export function loadFloats(at: usize, type: i32): v128 {
  return type == F32 ? v128.load(at) : widen(v128.load64_zero(at), type);
}
