import type { FloatType } from "./dtype.ts";

/**
 * Conversions between f32 and the two half types. bf16 is the upper half of an f32; f16 is IEEE binary16.
 * Narrowing rounds to nearest, ties to even, as PyTorch does.
 */

/** `bytes` must be a whole number of elements; its memory may be unaligned or shared. */
export function toFloat32(bytes: Uint8Array, dtype: FloatType): Float32Array<ArrayBuffer> {
  // A copy aligns the data and takes it out of shared memory.
  const own = new Uint8Array(bytes).buffer;
  if (dtype === "f32") return new Float32Array(own);
  const halves = new Uint16Array(own);
  const values = new Float32Array(halves.length);
  widen(halves, dtype, values);
  return values;
}

/** Writes halves, `stored`, as f32 into `target`; both are aligned to their elements. */
export function widen(stored: Uint16Array, dtype: "bf16" | "f16", target: Float32Array): void {
  if (dtype === "f16") {
    target.set(new Float16Array(stored.buffer, stored.byteOffset, stored.length));
    return;
  }
  const words = new Uint32Array(target.buffer, target.byteOffset, target.length);
  for (let i = 0; i < words.length; i++) words[i] = stored[i]! << 16;
}

/** The bytes of `values` as `dtype`. */
export function fromFloat32(values: Float32Array, dtype: FloatType): Uint8Array<ArrayBuffer> {
  if (dtype === "f32") return new Uint8Array(new Float32Array(values).buffer);
  const halves = new Uint16Array(values.length);
  narrow(values, dtype, halves);
  return new Uint8Array(halves.buffer);
}

/** Writes `values` as halves into `halves`. */
export function narrow(values: Float32Array, dtype: "bf16" | "f16", halves: Uint16Array): void {
  if (dtype === "f16") {
    new Float16Array(halves.buffer, halves.byteOffset, halves.length).set(values);
    return;
  }
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const isNaN = (word & 0x7fffffff) > 0x7f800000;
    // Adding half a unit (less one when the kept part is even) rounds to nearest even; a NaN keeps a set mantissa bit.
    halves[i] = isNaN ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}
