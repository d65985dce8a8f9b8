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
 * middle between two entries at most, so that a table of buckets and one comparison give the nearest entry. Buckets of
 * magnitudes begin at 2^-24 (the maps' smallest middle is 1.6e-7; what is smaller is in bucket 0) and end at 1. Those of
 * negative numbers lie where the sign's bit leads.
 */
const FIRST_BUCKET: i32 = 0x3f80 - 24 * 128;
const BUCKETS: i32 = 24 * 128 + 1;
const NEGATIVE: usize = 0x8000;

// What a thread keeps in its scratch during a command.
const MOMENT1: usize = 0; // [BLOCK] f32
const MOMENT2: usize = MOMENT1 + BLOCK_BYTES;
const MIDDLES1: usize = MOMENT2 + BLOCK_BYTES; // [256] f32: between an entry and the next
const MIDDLES2: usize = MIDDLES1 + 1024;
const CODES1: usize = MIDDLES2 + 1024; // u8 by bucket: the code of its least number
const CODES2: usize = CODES1 + NEGATIVE + 4096;

/** The least number of a bucket that is not negative. */
// @ts-ignore: decorator
@inline
function bucketStart(bucket: i32): f32 {
  return bucket == 0 ? 0 : reinterpret<f32>((FIRST_BUCKET + bucket) << 16);
}

/** Prepares the search in a map: the middles between its entries, and the code of the least number of each bucket. */
function prepareSearch(map: usize, middles: usize, codes: usize): void {
  for (let i: usize = 0; i < 255; i++) {
    const at = map + (i << 2);
    store<f32>(middles + (i << 2), (load<f32>(at) + load<f32>(at, 4)) * 0.5);
  }
  store<f32>(middles + 4 * 255, Infinity);
  let code: usize = 0;
  // A negative bucket does not contain its lower end, which is the start of the next bucket of magnitudes.
  for (let bucket = BUCKETS - 1; bucket >= 0; bucket--) {
    const end = -bucketStart(bucket + 1);
    while (load<f32>(middles + (code << 2)) <= end) code++;
    store<u8>(codes + NEGATIVE + bucket, <u8>code);
  }
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    const start = bucketStart(bucket);
    while (load<f32>(middles + (code << 2)) < start) code++;
    store<u8>(codes + bucket, <u8>code);
  }
}

/** Writes the code whose entry is nearest to a number; of two as near, the lower one. */
// @ts-ignore: decorator
@inline
function storeCode(x: f32, bucket: i32, middles: usize, codes: usize, to: usize): void {
  const code = <i32>load<u8>(codes + bucket);
  store<u8>(to, code + i32(x > load<f32>(middles + ((<usize>code) << 2))));
}

/** The numbers of four codes, unscaled. */
// @ts-ignore: decorator
@inline
function entries4(codes: usize, map: usize): v128 {
  let x = v128.load32_zero(map + ((<usize>load<u8>(codes)) << 2));
  x = v128.load32_lane(map + ((<usize>load<u8>(codes, 1)) << 2), x, 1);
  x = v128.load32_lane(map + ((<usize>load<u8>(codes, 2)) << 2), x, 2);
  return v128.load32_lane(map + ((<usize>load<u8>(codes, 3)) << 2), x, 3);
}

/** Writes a block of `values` as codes, and returns their scale: the largest magnitude. */
function quantise(values: usize, largest: v128, middles: usize, codes: usize, to: usize): f32 {
  const scale = max(
    max(f32x4.extract_lane(largest, 0), f32x4.extract_lane(largest, 1)),
    max(f32x4.extract_lane(largest, 2), f32x4.extract_lane(largest, 3)),
  );
  const divisor = f32x4.splat(scale == 0 ? 1 : scale);
  const magnitude = i32x4.splat(0x7fffffff);
  const first = i16x8.splat(<i16>FIRST_BUCKET);
  const sign = i32x4.splat(0x80000000);
  for (const end = values + BLOCK_BYTES; values != end; values += 16, to += 4) {
    const x = f32x4.div(v128.load(values), divisor);
    // The subtraction stops at 0.
    const buckets = v128.or(i16x8.sub_sat_u(v128.and(x, magnitude), first), v128.and(x, sign));
    storeCode(f32x4.extract_lane(x, 0), i16x8.extract_lane_u(buckets, 1), middles, codes, to);
    storeCode(f32x4.extract_lane(x, 1), i16x8.extract_lane_u(buckets, 3), middles, codes, to + 1);
    storeCode(f32x4.extract_lane(x, 2), i16x8.extract_lane_u(buckets, 5), middles, codes, to + 2);
    storeCode(f32x4.extract_lane(x, 3), i16x8.extract_lane_u(buckets, 7), middles, codes, to + 3);
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
  prepareSearch(map1, threadScratch + MIDDLES1, threadScratch + CODES1);
  prepareSearch(map2, threadScratch + MIDDLES2, threadScratch + CODES2);

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
    const new1 = quantise(moment1, largest1, threadScratch + MIDDLES1, threadScratch + CODES1, pointer(8) + first);
    const new2 = quantise(moment2, largest2, threadScratch + MIDDLES2, threadScratch + CODES2, pointer(9) + first);
    store<f32>(pointer(10) + scaleAt, new1);
    store<f32>(pointer(11) + scaleAt, new2);
  }
}
