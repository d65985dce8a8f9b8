import { UserError } from "./errors.ts";
import { fromFloat32, toFloat32 } from "./float16.ts";

/**
 * Updates and gradients as they travel: 8-bit integers with a scale for each block of values, an f32, where a value is wrong by at most half a scale, the
 * largest value of its block over 254; or bf16, where it is wrong by 1/256 of itself at most. What is lost is kept and added to the next update (error feedback; Seide et al. 2014, Karimireddy et al. 2019,
 * https://arxiv.org/abs/1901.09847), so that over time everything arrives.
 */

export const ENCODINGS = ["int8", "bf16", "f32"] as const;
export type Encoding = (typeof ENCODINGS)[number];

/** Values that share a scale. */
export const BLOCK = 128;

const MOST = 127;

/** Bytes of so many values. */
export function encodedBytes(count: number, encoding: Encoding): number {
  switch (encoding) {
    case "f32":
      return 4 * count;
    case "bf16":
      return 2 * count;
    case "int8":
      return count + 4 * Math.ceil(count / BLOCK);
  }
}

/** In int8 the scales of all blocks, then the codes. Little-endian, as all machines are that this runs on. */
export function encode(values: Float32Array, encoding: Encoding): Uint8Array<ArrayBuffer> {
  if (encoding !== "int8") return fromFloat32(values, encoding);
  const bytes = new Uint8Array(encodedBytes(values.length, encoding));
  const blocks = Math.ceil(values.length / BLOCK);
  const scales = new Float32Array(bytes.buffer, 0, blocks);
  const codes = new Int8Array(bytes.buffer, 4 * blocks);
  for (let block = 0; block < blocks; block++) {
    const begin = block * BLOCK;
    const end = Math.min(values.length, begin + BLOCK);
    let most = 0;
    for (let i = begin; i < end; i++) most = Math.max(most, Math.abs(values[i]!));
    scales[block] = most / MOST;
    // A scale too small for f32 is 0: the block is lost now, and kept as the rest.
    const scale = scales[block]!;
    if (scale === 0) continue;
    for (let i = begin; i < end; i++) codes[i] = Math.max(-MOST, Math.min(MOST, Math.round(values[i]! / scale)));
  }
  return bytes;
}

/** @throws {UserError} another number of bytes, values that are not finite */
export function decode(bytes: Uint8Array, count: number, encoding: Encoding): Float32Array<ArrayBuffer> {
  const expected = encodedBytes(count, encoding);
  if (bytes.length !== expected)
    throw new UserError(`an update of ${count} values in ${encoding} has ${expected} bytes; got ${bytes.length}`);
  if (encoding !== "int8") {
    const values = toFloat32(bytes, encoding);
    if (!areFinite(values)) throw new UserError("an update holds a value that is infinite or no number");
    return values;
  }
  const blocks = Math.ceil(count / BLOCK);
  // A copy, which begins at a multiple of 4.
  const { buffer } = bytes.slice();
  const scales = new Float32Array(buffer, 0, blocks);
  if (!areFinite(scales)) throw new UserError("an update holds a scale that is infinite or no number");
  const codes = new Int8Array(buffer, 4 * blocks);
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) values[i] = scales[Math.floor(i / BLOCK)]! * codes[i]!;
  return values;
}

/** A loop: with a function for each of millions of values it would take longer than the codes. */
export function areFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false;
  return true;
}

/** What is sent of an update, and what is kept of it for the next one. */
export interface Compensated {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The values that the receiver makes of the bytes. */
  readonly sent: Float32Array<ArrayBuffer>;
  readonly rest: Float32Array<ArrayBuffer>;
}

/** Encodes an update with what was left of those before. */
export function encodeWithRest(update: Float32Array, rest: Float32Array | null, encoding: Encoding): Compensated {
  const wanted = update.slice();
  if (rest) for (let i = 0; i < wanted.length; i++) wanted[i]! += rest[i]!;
  const bytes = encode(wanted, encoding);
  const sent = decode(bytes, wanted.length, encoding);
  // In the place of what was wanted, of which nothing else is made.
  for (let i = 0; i < wanted.length; i++) wanted[i]! -= sent[i]!;
  return { bytes, sent, rest: wanted };
}
