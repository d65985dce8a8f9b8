import type { FloatType } from "../graph/types.ts";

/**
 * Conversions between f32 and the two half types. bf16 is the upper half of an f32; f16 is IEEE binary16.
 * Narrowing rounds to nearest, ties to even, as PyTorch does.
 */

/** `bytes` must be a whole number of elements; its memory may be unaligned or shared. */
export function toFloat32(bytes: Uint8Array, dtype: FloatType): Float32Array<ArrayBuffer> {
  // A copy aligns the data and takes it out of shared memory.
  const own = new Uint8Array(bytes).buffer;
  if (dtype === "f32") return new Float32Array(own);
  if (dtype === "f16") return Float32Array.from(new Float16Array(own));
  const halves = new Uint16Array(own);
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) words[i] = halves[i]! << 16;
  return new Float32Array(words.buffer);
}

/** The bytes of `values` as `dtype`. */
export function fromFloat32(values: Float32Array, dtype: FloatType): Uint8Array<ArrayBuffer> {
  if (dtype === "f32") return new Uint8Array(new Float32Array(values).buffer);
  if (dtype === "f16") return new Uint8Array(new Float16Array(values).buffer);
  const own = new Float32Array(values);
  const words = new Uint32Array(own.buffer);
  const halves = new Uint16Array(words.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const isNaN = (word & 0x7fffffff) > 0x7f800000;
    // Adding half a unit (less one when the kept part is even) rounds to nearest even; a NaN keeps a set mantissa bit.
    halves[i] = isNaN ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return new Uint8Array(halves.buffer);
}
