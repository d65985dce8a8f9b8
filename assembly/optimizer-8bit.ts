/**
 * AdamW whose moments are kept as codes of eight bits with a scale for every 256 elements (Dettmers et al. 2022,
 * https://arxiv.org/abs/2110.02861). A code's number is an entry of a map of 256 numbers in ascending order, times the
 * largest magnitude of its block.
 */
import { int, partEnd, partStart, pointer, threadScratch } from "./command";
import { adamCorrection4, adamRate4, complement4, decay4, hyper4, lerp4, step4 } from "./optimizer-lanes";

/** Elements with one scale. */
const BLOCK: i32 = 256;
const BLOCK_BYTES: usize = (<usize>BLOCK) << 2;

/**
 * The code of a number is found by the upper 16 bits of its f32: the numbers that share them make a *bucket*, which has one
 * middle between two entries at most. So a table has a *sum* for each bucket, (code << 16) + what the lower 16 bits may lack to a
 * middle: with these bits added, the upper half is the code of the nearest entry. Buckets of magnitudes begin at 2^-24 (the maps'
 * smallest middle is 1.6e-7; what is smaller is in bucket 0) and end at 1. Those of negative numbers follow.
 */
const FIRST_BUCKET: i32 = 0x3f80 - 24 * 128;
const BUCKETS: i32 = 24 * 128 + 1;
const NEGATIVE: i32 = 4096;
const SUMS_BYTES: usize = (<usize>(NEGATIVE + BUCKETS)) << 2;

// What a thread keeps in its scratch during a command.
const MOMENT1: usize = 0; // [BLOCK] f32
const MOMENT2: usize = MOMENT1 + BLOCK_BYTES;
const SUMS1: usize = MOMENT2 + BLOCK_BYTES; // u32 by bucket
const SUMS2: usize = SUMS1 + SUMS_BYTES;

/** The middle between an entry of a map and the next. */
// @ts-ignore: decorator
@inline
function middle(map: usize, code: i32): f32 {
  const at = map + ((<usize>code) << 2);
  return (load<f32>(at) + load<f32>(at, 4)) * 0.5;
}

/**
 * Writes a sum into the buckets from `bucket` up to that of a middle's magnitude, and `atMiddle` into that one; returns the bucket
 * that follows.
 */
function fillSums(sums: usize, bucket: i32, magnitude: u32, sum: u32, atMiddle: u32): i32 {
  const last = min(<i32>(magnitude >> 16) - FIRST_BUCKET, BUCKETS);
  for (; bucket < last; bucket++) store<u32>(sums + ((<usize>bucket) << 2), sum);
  if (bucket < BUCKETS) store<u32>(sums + ((<usize>bucket) << 2), atMiddle);
  return bucket + 1;
}

/** Prepares the sums of a map: of two entries as near, the lower one is taken. */
function prepareSums(map: usize, sums: usize): void {
  let zero = 0;
  while (zero < 255 && middle(map, zero) < 0) zero++;
  let bucket = 0;
  for (let code = zero; code < 256; code++) {
    const above = code == 255 ? <f32>Infinity : middle(map, code);
    const bits = reinterpret<u32>(above);
    const sum = (<u32>code) << 16;
    // Lower bits that exceed the middle's carry.
    bucket = fillSums(sums, bucket, bits, sum, sum + 0xffff - (bits & 0xffff));
  }
  bucket = 0;
  for (let code = zero; code >= 0; code--) {
    const below = code == 0 ? -<f32>Infinity : middle(map, code - 1);
    const bits = reinterpret<u32>(below) & 0x7fffffff;
    const sum = (<u32>code) << 16;
    // To these sums the complement of the lower bits is added, which carries if they are less than the middle's.
    bucket = fillSums(sums + (NEGATIVE << 2), bucket, bits, sum, sum - 0x10000 + (bits & 0xffff));
  }
}

/** Four numbers that lie at four addresses. A lane that is loaded as a float takes fewer instructions than by `load32_lane`. */
// @ts-ignore: decorator
@inline
function gather4(a: usize, b: usize, c: usize, d: usize): v128 {
  const x = f32x4.splat(load<f32>(a));
  return f32x4.replace_lane(f32x4.replace_lane(f32x4.replace_lane(x, 1, load<f32>(b)), 2, load<f32>(c)), 3, load<f32>(d));
}

/** The numbers of four codes, unscaled. */
// @ts-ignore: decorator
@inline
function entries4(codes: usize, map: usize): v128 {
  return gather4(
    map + ((<usize>load<u8>(codes)) << 2),
    map + ((<usize>load<u8>(codes, 1)) << 2),
    map + ((<usize>load<u8>(codes, 2)) << 2),
    map + ((<usize>load<u8>(codes, 3)) << 2),
  );
}

/** The addresses of the sums of four numbers in [-1, 1]. NaN has that of 1. */
// @ts-ignore: decorator
@inline
function places4(x: v128, sums: v128): v128 {
  // The subtraction stops at 0. The bucket is in the upper half of its lane.
  const magnitude = v128.and(x, i32x4.splat(0x7fffffff));
  const bucket = i16x8.min_u(i16x8.sub_sat_u(magnitude, i16x8.splat(<i16>FIRST_BUCKET)), i16x8.splat(<i16>(BUCKETS - 1)));
  const negative = v128.and(f32x4.lt(x, f32x4.splat(0)), i32x4.splat(NEGATIVE << 16));
  // Times 4 bytes, and down into its lane: a shift would take four instructions.
  return i32x4.add(sums, i32x4.dot_i16x8_s(v128.or(bucket, negative), i32x4.splat(4 << 16)));
}

/** The codes of four numbers, each in the third byte of its lane. */
// @ts-ignore: decorator
@inline
function codes4(x: v128, a: usize, b: usize, c: usize, d: usize): v128 {
  const lower = v128.xor(x, f32x4.lt(x, f32x4.splat(0)));
  return i32x4.add(gather4(a, b, c, d), v128.and(lower, i32x4.splat(0xffff)));
}

/** Writes a block of `values` as codes, and returns their scale: the largest magnitude. Overwrites the values. */
function quantise(values: usize, largest: v128, sums: usize, to: usize): f32 {
  const scale = max(
    max(f32x4.extract_lane(largest, 0), f32x4.extract_lane(largest, 1)),
    max(f32x4.extract_lane(largest, 2), f32x4.extract_lane(largest, 3)),
  );
  const divisor = f32x4.splat(scale == 0 ? 1 : scale);
  const base = i32x4.splat(<i32>sums);
  for (const end = values + BLOCK_BYTES; values != end; values += 32, to += 8) {
    const x = f32x4.div(v128.load(values), divisor);
    const y = f32x4.div(v128.load(values, 16), divisor);
    // From memory the addresses reach the registers for addresses in one instruction each.
    v128.store(values, places4(x, base));
    v128.store(values, places4(y, base), 16);
    const a = codes4(x, load<u32>(values), load<u32>(values, 4), load<u32>(values, 8), load<u32>(values, 12));
    const b = codes4(y, load<u32>(values, 16), load<u32>(values, 20), load<u32>(values, 24), load<u32>(values, 28));
    v128.store64_lane(to, i8x16.shuffle(a, b, 2, 6, 10, 14, 18, 22, 26, 30, 0, 0, 0, 0, 0, 0, 0, 0), 0);
  }
  return scale;
}

/**
 * Command AdamW8bit: p, grad [n], codes of m and v [n] u8, their scales [n / 256], hyper [8 + 2 * 256], then the same six but
 * for grad and hyper as they will be; n. `hyper` is that of AdamW, then the maps of m and v.
 */
export function adamW8bitCommand(): void {
  const n = int(0);
  const start = partStart(n, BLOCK);
  const end = partEnd(n, BLOCK);
  if (start >= end) return;
  const hyper = pointer(6);
  const map1 = hyper + 32;
  const map2 = map1 + 1024;
  const moment1 = threadScratch + MOMENT1;
  const moment2 = threadScratch + MOMENT2;
  prepareSums(map1, threadScratch + SUMS1);
  prepareSums(map2, threadScratch + SUMS2);

  const keepM = hyper4(hyper, 4);
  const takeM = complement4(hyper, 4);
  const keepV = hyper4(hyper, 8);
  const takeV = complement4(hyper, 8);
  const epsilon = hyper4(hyper, 12);
  const decay = decay4(hyper, 16);
  const rate = adamRate4(hyper);
  const correction = adamCorrection4(hyper);
  const gradScale = hyper4(hyper, 28);

  for (let first = start; first < end; first += BLOCK) {
    const bytes = (<usize>first) << 2;
    const scaleAt = (<usize>(first / BLOCK)) << 2;
    const p = pointer(0) + bytes;
    const grad = pointer(1) + bytes;
    const newP = pointer(7) + bytes;
    const codes1 = pointer(2) + first;
    const codes2 = pointer(3) + first;
    const scale1 = f32x4.splat(load<f32>(pointer(4) + scaleAt));
    const scale2 = f32x4.splat(load<f32>(pointer(5) + scaleAt));
    let largest1 = f32x4.splat(0);
    let largest2 = largest1;
    for (let at: usize = 0; at < BLOCK_BYTES; at += 16) {
      const code = at >> 2;
      const g = f32x4.mul(v128.load(grad + at), gradScale);
      const m = lerp4(f32x4.mul(entries4(codes1 + code, map1), scale1), keepM, g, takeM);
      const v = lerp4(f32x4.mul(entries4(codes2 + code, map2), scale2), keepV, f32x4.mul(g, g), takeV);
      v128.store(newP + at, step4(v128.load(p + at), m, v, decay, rate, correction, epsilon));
      v128.store(moment1 + at, m);
      v128.store(moment2 + at, v);
      largest1 = f32x4.pmax(largest1, f32x4.abs(m));
      largest2 = f32x4.pmax(largest2, v);
    }
    const new1 = quantise(moment1, largest1, threadScratch + SUMS1, pointer(8) + first);
    const new2 = quantise(moment2, largest2, threadScratch + SUMS2, pointer(9) + first);
    store<f32>(pointer(10) + scaleAt, new1);
    store<f32>(pointer(11) + scaleAt, new2);
  }
}
