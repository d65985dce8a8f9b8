/** From floats to quantised matrices and back; see quantised.ts. */
import { int, partEnd, partStart, pointer } from "./command";
import { loadFloats, floatBytes } from "./half";
import { BLOCK, NF4, Q8, codeBytes, dequantise } from "./quantised";

/** Blocks that are handed out as one. */
const UNIT: i32 = 16;

/** Dequantize: codes, scales f32[blocks], y f32[64 blocks]; blocks, type. */
export function quantisedCommand(_opcode: u32): void {
  const blocks = int(0), type = int(1);
  const first = partStart(blocks, UNIT);
  const count = partEnd(blocks, UNIT) - first;
  if (count <= 0) return;
  const at = <usize>first * BLOCK;
  dequantise(type, pointer(0) + codeBytes(type, at), pointer(1) + (<usize>first << 2), pointer(2) + (at << 2), count);
}

/** The largest magnitude of a block, which is found among the bits: what is not finite is above all numbers. */
// @ts-ignore: decorator
@inline
function largest(x: usize, stored: i32): f32 {
  let most = i32x4.splat(0);
  for (const end = x + floatBytes(stored, BLOCK); x != end; x += floatBytes(stored, 4))
    most = i32x4.max_s(most, v128.and(loadFloats(x, stored), i32x4.splat(0x7fffffff)));
  most = i32x4.max_s(most, v128.shuffle<i32>(most, most, 2, 3, 0, 1));
  most = i32x4.max_s(most, v128.shuffle<i32>(most, most, 1, 0, 3, 2));
  return f32x4.extract_lane(most, 0);
}

/** Below this the inverse of a magnitude is taken of this one: as bitsandbytes does it. */
const LEAST: f32 = 1e-38;

/** Sixteen codes, one in each byte, from words. */
// @ts-ignore: decorator
@inline
function bytesOf(n0: v128, n1: v128, n2: v128, n3: v128): v128 {
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(n0, n1), i16x8.narrow_i32x4_s(n2, n3));
}

/** The middles between neighbours of the sixteen numbers. Loaded, because the JIT would make a constant anew at every use. */
const MIDDLES: usize = memory.data<f32>([
  -0.8480963706970215, -0.6106328964233398, -0.4599952697753906, -0.33967941999435425, -0.23460739850997925,
  -0.13791173696517944, -0.045525018125772476, 0.03979014977812767, 0.120255246758461, 0.2035212516784668,
  0.2920137643814087, 0.3893125355243683, 0.5016634464263916, 0.6427869200706482, 0.8614784479141235,
], 16);

/**
 * The index of the nearest of the sixteen numbers: how many of the middles lie below an element. In the middle the lower one is taken.
 * Sixteen elements at once share a load.
 */
// @ts-ignore: decorator
@inline
function nearest(x0: v128, x1: v128, x2: v128, x3: v128): v128 {
  let n0 = i32x4.splat(0), n1 = n0, n2 = n0, n3 = n0;
  for (let t = MIDDLES; t != MIDDLES + 60; t += 4) {
    const middle = v128.load32_splat(t);
    n0 = i32x4.sub(n0, f32x4.gt(x0, middle)), n1 = i32x4.sub(n1, f32x4.gt(x1, middle));
    n2 = i32x4.sub(n2, f32x4.gt(x2, middle)), n3 = i32x4.sub(n3, f32x4.gt(x3, middle));
  }
  return bytesOf(n0, n1, n2, n3);
}

/** The integer nearest to 127 times each lane, ties to even. */
// @ts-ignore: decorator
@inline
function rounded(x: v128): v128 {
  return i32x4.trunc_sat_f32x4_s(f32x4.nearest(f32x4.mul(x, f32x4.splat(127))));
}

// @ts-ignore: decorator
@inline
function quantiseOf(type: i32, x: usize, stored: i32, codes: usize, scales: usize, blocks: i32): void {
  const step = floatBytes(stored, 4);
  for (; blocks > 0; blocks--, scales += 4) {
    const most = largest(x, stored);
    const inverse = f32x4.splat(1 / max(most, LEAST));
    store<f32>(scales, type == Q8 ? most / 127 : most);
    for (const end = codes + codeBytes(type, BLOCK); codes != end; x += 4 * step, codes += codeBytes(type, 16)) {
      // In [-1, 1].
      const x0 = f32x4.mul(loadFloats(x, stored), inverse), x1 = f32x4.mul(loadFloats(x + step, stored), inverse);
      const x2 = f32x4.mul(loadFloats(x + 2 * step, stored), inverse), x3 = f32x4.mul(loadFloats(x + 3 * step, stored), inverse);
      if (type == Q8) {
        v128.store(codes, bytesOf(rounded(x0), rounded(x1), rounded(x2), rounded(x3)));
      } else {
        const bytes = nearest(x0, x1, x2, x3);
        const pairs = v128.or(bytes, i16x8.shr_u(bytes, 4));
        v128.store64_lane(codes, i8x16.narrow_i16x8_u(v128.and(pairs, i16x8.splat(0xff)), pairs), 0);
      }
    }
  }
}

// Small functions, because the JIT slows down on large ones.
function quantiseQ8(x: usize, stored: i32, codes: usize, scales: usize, blocks: i32): void {
  quantiseOf(Q8, x, stored, codes, scales, blocks);
}

function quantiseNF4(x: usize, stored: i32, codes: usize, scales: usize, blocks: i32): void {
  quantiseOf(NF4, x, stored, codes, scales, blocks);
}

/**
 * Quantises `blocks` blocks of x, of the float type `stored`. The scale of a block is its largest magnitude (over 127 for Q8), so what is
 * not finite shows in it. A code is the nearest of x times the inverse of that magnitude, as bitsandbytes computes NF4.
 */
export function quantise(type: i32, x: usize, stored: i32, codes: usize, scales: usize, blocks: i32): void {
  if (type == Q8) quantiseQ8(x, stored, codes, scales, blocks);
  else quantiseNF4(x, stored, codes, scales, blocks);
}
