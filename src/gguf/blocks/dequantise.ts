import { widen } from "../../base/float16.ts";
import { GGML_TYPES, type GgmlType } from "./types.ts";

/**
 * ggml's blocks as f32, to the bit as gguf-py has them: a product or a sum rounds to f32 where one does there. d and m are f16; codes c are integers.
 *
 * - q4_0, q5_0, q8_0, iq4_nl: x = d c, of which c is the code less 8, less 16, as it is, or looked up
 * - q4_1, q5_1: x = d c + m
 * - q2_k, q4_k, q5_k: groups of 16 or 32 in a block of 256 have a scale s and a minimum t of 4 or 6 bits: x = (d s) c - (m t)
 * - q3_k, q6_k, iq4_xs: x = (d s) c
 * - mxfp4: x = 2^(e - 127) c / 2, c the double of a number of E2M1
 */

/** Writes a block's elements into `out` from `to` on. */
type BlockReader = (block: DataView, at: number, out: Float32Array, to: number) => void;

const { fround } = Math;

const half = (block: DataView, at: number): number => block.getFloat16(at, true);

/** Codes of 4 bits, the lower halves of 16 bytes first; `code` makes the number of one and of what bit of the block it is. */
function nibbles(offset: number, number: (block: DataView, at: number) => (code: number, i: number) => number): BlockReader {
  return (block, at, out, to) => {
    const of = number(block, at);
    for (let i = 0; i < 16; i++) {
      const byte = block.getUint8(at + offset + i);
      out[to + i] = of(byte & 15, i);
      out[to + 16 + i] = of(byte >> 4, 16 + i);
    }
  };
}

/** A fifth bit of each code in a word. */
const fifth = (word: number, i: number): number => ((word >>> i) & 1) << 4;

/** The numbers of the codes of iq4_nl and iq4_xs. */
const NONLINEAR = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

/** The doubles of E2M1's numbers. */
const DOUBLE_E2M1 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12] as const;

/** The scale (part 0) or the minimum (part 1) of group `g` among the 12 bytes in which q4_k and q5_k have eight of each, of 6 bits. */
function sixBits(block: DataView, at: number, part: 0 | 1, g: number): number {
  const low = block.getUint8(at + 4 * part + (g % 4));
  if (g < 4) return low & 63;
  const rest = block.getUint8(at + 8 + (g % 4));
  return (part === 0 ? rest & 15 : rest >> 4) | ((low >> 2) & 48);
}

/** The scale of group `g` of q3_k's 16, of 6 bits in 12 bytes, less 32. */
function signedSixBits(block: DataView, at: number, g: number): number {
  const low = (block.getUint8(at + (g % 8)) >> (g < 8 ? 0 : 4)) & 15;
  const high = (block.getUint8(at + 8 + (g % 4)) >> (2 * Math.floor(g / 4))) & 3;
  return (low | (high << 4)) - 32;
}

/** q4_k and q5_k: eight groups of 32; two groups share 32 bytes of codes, the lower halves first, and each has a bit in 32 bytes of fifth bits. */
function groupsOf32(codes: number, fifths: number | null): BlockReader {
  return (block, at, out, to) => {
    const [d, m] = [half(block, at), half(block, at + 2)];
    for (let g = 0; g < 8; g++) {
      const scale = fround(d * sixBits(block, at + 4, 0, g));
      const least = fround(m * sixBits(block, at + 4, 1, g));
      const from = at + codes + 32 * (g >> 1);
      const shift = 4 * (g & 1);
      for (let i = 0; i < 32; i++) {
        const high = fifths === null ? 0 : fifth(block.getUint8(at + fifths + i), g);
        const code = ((block.getUint8(from + i) >> shift) & 15) | high;
        out[to + 32 * g + i] = fround(scale * code) - least;
      }
    }
  };
}

/** Codes of 2 bits, of which 32 bytes have four groups of 32: the number of element `i` of the block. */
const twoBits = (block: DataView, at: number, i: number): number =>
  (block.getUint8(at + 32 * (i >> 7) + (i & 31)) >> (2 * ((i >> 5) & 3))) & 3;

const q2k: BlockReader = (block, at, out, to) => {
  const [d, m] = [half(block, at + 80), half(block, at + 82)];
  for (let g = 0; g < 16; g++) {
    const scales = block.getUint8(at + g);
    const [scale, least] = [fround(d * (scales & 15)), fround(m * (scales >> 4))];
    for (let i = 16 * g; i < 16 * g + 16; i++) out[to + i] = fround(scale * twoBits(block, at + 16, i)) - least;
  }
};

const q3k: BlockReader = (block, at, out, to) => {
  const d = half(block, at + 108);
  for (let g = 0; g < 16; g++) {
    const scale = fround(d * signedSixBits(block, at + 96, g));
    for (let i = 16 * g; i < 16 * g + 16; i++) {
      const isHigh = (block.getUint8(at + (i & 31)) >> (i >> 5)) & 1;
      out[to + i] = scale * (twoBits(block, at + 32, i) - (isHigh ? 0 : 4));
    }
  }
};

const q6k: BlockReader = (block, at, out, to) => {
  const d = half(block, at + 208);
  for (let g = 0; g < 16; g++) {
    const scale = fround(d * block.getInt8(at + 192 + g));
    for (let i = 16 * g; i < 16 * g + 16; i++) {
      const part = i >> 7;
      const low = (block.getUint8(at + 64 * part + (i & 63)) >> (4 * ((i >> 6) & 1))) & 15;
      out[to + i] = scale * ((low | (twoBits(block, at + 128, i) << 4)) - 32);
    }
  }
};

const iq4xs: BlockReader = (block, at, out, to) => {
  const d = half(block, at);
  const high = block.getUint16(at + 2, true);
  for (let g = 0; g < 8; g++) {
    const low = (block.getUint8(at + 4 + (g >> 1)) >> (4 * (g & 1))) & 15;
    const scale = fround(d * ((low | (((high >> (2 * g)) & 3) << 4)) - 32));
    for (let i = 0; i < 16; i++) {
      const byte = block.getUint8(at + 8 + 16 * g + i);
      out[to + 32 * g + i] = scale * NONLINEAR[byte & 15]!;
      out[to + 32 * g + 16 + i] = scale * NONLINEAR[byte >> 4]!;
    }
  }
};

const READERS: Readonly<Record<Exclude<GgmlType, "f32" | "f16" | "bf16">, BlockReader>> = {
  q4_0: nibbles(2, (block, at) => {
    const d = half(block, at);
    return (code) => d * (code - 8);
  }),
  q4_1: nibbles(4, (block, at) => {
    const [d, m] = [half(block, at), half(block, at + 2)];
    return (code) => fround(d * code) + m;
  }),
  q5_0: nibbles(6, (block, at) => {
    const [d, high] = [half(block, at), block.getUint32(at + 2, true)];
    return (code, i) => d * ((code | fifth(high, i)) - 16);
  }),
  q5_1: nibbles(8, (block, at) => {
    const [d, m, high] = [half(block, at), half(block, at + 2), block.getUint32(at + 4, true)];
    return (code, i) => fround(d * (code | fifth(high, i))) + m;
  }),
  q8_0: (block, at, out, to) => {
    const d = half(block, at);
    for (let i = 0; i < 32; i++) out[to + i] = d * block.getInt8(at + 2 + i);
  },
  q2_k: q2k,
  q3_k: q3k,
  q4_k: groupsOf32(16, null),
  q5_k: groupsOf32(48, 16),
  q6_k: q6k,
  iq4_nl: nibbles(2, (block, at) => {
    const d = half(block, at);
    return (code) => d * NONLINEAR[code]!;
  }),
  iq4_xs: iq4xs,
  mxfp4: nibbles(1, (block, at) => {
    const d = fround(2 ** (block.getUint8(at) - 128));
    return (code) => d * DOUBLE_E2M1[code]!;
  }),
};

/** Where the blocks of a type have numbers in f16; the exponent of mxfp4 is a byte, of which 255 stands for no number. */
const HALVES: Readonly<Record<Exclude<GgmlType, "f32" | "f16" | "bf16" | "mxfp4">, readonly number[]>> = {
  q4_0: [0],
  q4_1: [0, 2],
  q5_0: [0],
  q5_1: [0, 2],
  q8_0: [0],
  q2_k: [80, 82],
  q3_k: [108],
  q4_k: [0, 2],
  q5_k: [0, 2],
  q6_k: [208],
  iq4_nl: [0],
  iq4_xs: [0],
};

/** Tells whether the scales of whole blocks are finite, and so all of their numbers. */
export function blocksAreFinite(type: Exclude<GgmlType, "f32" | "f16" | "bf16">, bytes: Uint8Array): boolean {
  const size = GGML_TYPES[type].bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at < bytes.length; at += size) {
    if (type === "mxfp4" ? bytes[at] === 255 : HALVES[type].some((place) => (view.getUint8(at + place + 1) & 0x7c) === 0x7c))
      return false;
  }
  return true;
}

/** Writes whole blocks as f32 into `out`, which has as many elements. */
export function dequantise(type: GgmlType, bytes: Uint8Array, out: Float32Array): void {
  const size = GGML_TYPES[type];
  if (bytes.length * size.elements !== out.length * size.bytes)
    throw new Error(`${bytes.length} bytes of ${type} are not ${out.length} elements`);
  if (type === "f32") new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
  else if (type === "f16" || type === "bf16") {
    const isAligned = bytes.byteOffset % 2 === 0;
    const own = isAligned ? bytes : bytes.slice();
    widen(new Uint16Array(own.buffer, own.byteOffset, own.length / 2), type, out);
  } else {
    const read = READERS[type];
    const block = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0, to = 0; at < bytes.length; at += size.bytes, to += size.elements) read(block, at, out, to);
  }
}
