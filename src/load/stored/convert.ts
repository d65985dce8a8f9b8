/**
 * How weights become what lies in memory: other floats, or codes and scales. Whoever needs such bytes has them made here, so that they are
 * the same wherever they go: an executor's memory, a file, a window.
 */
import { type FloatType, DTYPE_BYTES } from "../../base/dtype.ts";
import { UserError } from "../../base/errors.ts";
import { narrow, widen } from "../../base/float16.ts";
import type { Quantised, WeightType } from "../../graph/types.ts";
import { isQuantised } from "../../ops/dequantize.ts";
import { createQuantiser, PIECE_ELEMENTS, type Quantiser } from "../../wasm/quantiser.ts";

/** Tells how a tensor of a checkpoint becomes what lies in memory: plain data, which a thread gets by message. */
export interface Conversion {
  /** The tensor's name and the path of its file, as errors name them. */
  readonly name: string;
  readonly path: string;
  readonly stored: FloatType;
  readonly to: WeightType;
}

/** A range of a tensor's elements. That of a quantised matrix is of whole blocks. */
export interface ElementRange {
  readonly begin: number;
  readonly end: number;
}

/** The bytes that a piece of a tensor becomes, in memory that the next piece overwrites. */
export interface ConvertedPiece {
  /** Numbers, or codes. */
  readonly values: Uint8Array;
  /** The codes' scales; null where there are none. */
  readonly scales: Uint8Array | null;
}

/** Fills `target` with a tensor's stored bytes from its byte `from` on. */
export type ReadStored = (target: Uint8Array, from: number) => void;

export interface Converter {
  /**
   * Converts a range piece by piece. The bytes depend neither on where the range begins nor on how it is cut.
   * @throws {UserError} a number that the type or format has no place for
   */
  pieces(conversion: Conversion, range: ElementRange, read: ReadStored): Iterable<ConvertedPiece>;
}

/** Memory is taken when it is first needed. */
export function createConverter(): Converter {
  let quantiser: Quantiser | null = null;
  let buffers: FloatBuffers | null = null;
  return {
    pieces(conversion, range, read) {
      const { to } = conversion;
      if (isQuantised(to)) return quantisedPieces(conversion, to, range, read, (quantiser ??= createQuantiser()));
      buffers ??= { values: new Float32Array(PIECE_ELEMENTS), halves: new Uint16Array(PIECE_ELEMENTS) };
      return floatPieces(conversion, to, range, read, buffers);
    },
  };
}

function* quantisedPieces(
  { name, path, stored }: Conversion,
  format: Quantised,
  { begin, end }: ElementRange,
  read: ReadStored,
  { input, run }: Quantiser,
): Iterable<ConvertedPiece> {
  for (let at = begin; at < end; at += PIECE_ELEMENTS) {
    const count = Math.min(PIECE_ELEMENTS, end - at);
    read(input.subarray(0, count * DTYPE_BYTES[stored]), at * DTYPE_BYTES[stored]);
    const { codes, scales } = run(format, stored, count);
    if (!new Float32Array(scales.buffer, scales.byteOffset, scales.length / DTYPE_BYTES.f32).every(Number.isFinite)) {
      throw new UserError(`${path}: ${name} holds a number that is not finite, which --quantize has no place for`);
    }
    yield { values: codes, scales };
  }
}

interface FloatBuffers {
  readonly values: Float32Array;
  readonly halves: Uint16Array;
}

const LARGEST_F16 = 65504;

function* floatPieces(
  { name, path, stored }: Conversion,
  to: FloatType,
  { begin, end }: ElementRange,
  read: ReadStored,
  { values, halves }: FloatBuffers,
): Iterable<ConvertedPiece> {
  for (let at = begin; at < end; at += PIECE_ELEMENTS) {
    const piece = values.subarray(0, Math.min(PIECE_ELEMENTS, end - at));
    const half = halves.subarray(0, piece.length);
    read(bytesOf(stored === "f32" ? piece : half), at * DTYPE_BYTES[stored]);
    if (stored !== "f32") widen(half, stored, piece);
    const tooLarge = to === "f16" ? tooLargeForF16(piece) : null;
    if (tooLarge !== null) {
      throw new UserError(`${path}: ${name} holds ${tooLarge}, beyond f16's largest number ${LARGEST_F16}; use --dtype bf16`);
    }
    if (to !== "f32") narrow(piece, to, half);
    yield { values: bytesOf(to === "f32" ? piece : half), scales: null };
  }
}

/** Finds a finite number that f16 has no place for. A plain loop, since a callback for each number takes most of the time. */
function tooLargeForF16(values: Float32Array): number | null {
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if ((value > LARGEST_F16 && value < Infinity) || (value < -LARGEST_F16 && value > -Infinity)) return value;
  }
  return null;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Uint16Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
