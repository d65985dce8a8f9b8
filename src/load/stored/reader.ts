/** Reads parameters as an executor's memory wants them: from where they lie so, or converted on the way. Made of plain data, in any thread. */
import { DTYPE_BYTES } from "../../base/dtype.ts";
import { readFully } from "../../base/files/files.ts";
import type { OpenFile } from "../../base/files/open-file.ts";
import type { Slab } from "../../hf/weights/slab.ts";
import { createPartReader, type PartReader } from "../../hf/weights/tensor-part.ts";
import type { WeightType } from "../../graph/types.ts";
import { isQuantised, QUANTISED_BLOCK, quantisedTypes } from "../../ops/dequantize.ts";
import { byteLength } from "../../graph/types.ts";
import { type ConvertedPiece, type Converter, createConverter, type ElementRange } from "./convert.ts";
import type { StoredTensor } from "./tensors.ts";

/** Where the bytes of a parameter come from: plain data, which a thread gets by message. */
export type WeightPlace =
  /** They lie in a file, which is named by its position among the files. */
  | { readonly kind: "stored"; readonly bytes: number; readonly file: number; readonly offset: number }
  /** They are made of a tensor whenever they are read; `part` tells codes (or numbers) from scales. */
  | { readonly kind: "converted"; readonly bytes: number; readonly tensor: StoredTensor; readonly part: "values" | "scales" };

export interface WeightReader {
  /**
   * Fills `target`, which may view shared memory, with a parameter's bytes from its byte `from` on (default: 0). Of a converted parameter,
   * `from` and the target's length are those of whole elements, or of whole blocks where it is quantised.
   * @throws {UserError} a file that ends early, a number that the format has no place for
   */
  read(place: WeightPlace, target: Uint8Array, from?: number): void;
  /**
   * Fills `codes` and `scales` with those of a quantised matrix's elements from `begin` on (default: 0). A matrix that is converted
   * is read once for both.
   * @throws {UserError} as `read`
   */
  readQuantised(places: QuantisedPlaces, codes: Uint8Array, scales: Uint8Array, begin?: number): void;
}

export interface QuantisedPlaces {
  readonly codes: WeightPlace;
  readonly scales: WeightPlace;
}

/** Makes a reader, which a thread can do too. @param files as `StoredWeights` has them */
export function createWeightReader(files: readonly OpenFile[]): WeightReader {
  const converting = createConverting();
  const read = (place: WeightPlace, target: Uint8Array, from = 0): void => {
    if (from + target.length > place.bytes) throw new Error(`${target.length} bytes at ${from} of a parameter of ${place.bytes}`);
    if (place.kind === "stored") {
      const { fd, path } = files[place.file]!;
      readFully(fd, target, place.offset + from, path);
      return;
    }
    const { tensor, part } = place;
    let at = 0;
    for (const piece of convertedPieces(converting, files, tensor, rangeOf(tensor, part, from, target.length))) {
      const bytes = piece[part]!;
      target.set(bytes, at);
      at += bytes.length;
    }
  };
  return {
    read,
    readQuantised({ codes, scales }, codesInto, scalesInto, begin = 0) {
      const end = begin + (scalesInto.length / DTYPE_BYTES.f32) * QUANTISED_BLOCK;
      if (codes.kind !== "converted") {
        read(codes, codesInto, begin * (codesInto.length / (end - begin)));
        read(scales, scalesInto, (begin / QUANTISED_BLOCK) * DTYPE_BYTES.f32);
        return;
      }
      let [codesAt, scalesAt] = [0, 0];
      for (const piece of convertedPieces(converting, files, codes.tensor, { begin, end })) {
        codesInto.set(piece.values, codesAt);
        scalesInto.set(piece.scales!, scalesAt);
        codesAt += piece.values.length;
        scalesAt += piece.scales!.length;
      }
    },
  };
}

/** The parts of conversions, with the memory that they take. */
export interface Converting {
  readonly converter: Converter;
  readonly parts: PartReader;
}

export const createConverting = (): Converting => ({ converter: createConverter(), parts: createPartReader() });

/** Converts a range of a tensor piece by piece. */
export function convertedPieces(
  { converter, parts }: Converting,
  files: readonly OpenFile[],
  { file, offset, conversion, part }: StoredTensor,
  range: ElementRange,
): Iterable<ConvertedPiece> {
  if (part !== null) {
    const { of, files: numbers } = part;
    const fill = (slab: Slab, memory: Uint8Array, at: number) => {
      const { fd, path } = files[numbers[of.slabs.indexOf(slab)]!]!;
      readFully(fd, memory, slab.offset + at, path);
    };
    return converter.pieces(conversion!, range, (target, from) => parts.read(of, fill, target, from));
  }
  const { fd, path } = files[file]!;
  return converter.pieces(conversion!, range, (target, from) => readFully(fd, target, offset + from, path));
}

/** Returns the elements that bytes of a parameter stand for. */
function rangeOf({ conversion }: StoredTensor, part: "values" | "scales", from: number, bytes: number): ElementRange {
  const unit = unitOf(conversion!.to, part);
  if (from % unit.bytes !== 0 || bytes % unit.bytes !== 0)
    throw new Error(`${bytes} bytes at ${from}, not multiples of ${unit.bytes}`);
  return { begin: (from / unit.bytes) * unit.elements, end: ((from + bytes) / unit.bytes) * unit.elements };
}

/** Returns the fewest elements that are converted for themselves, and the bytes that they become. */
function unitOf(to: WeightType, part: "values" | "scales"): { readonly elements: number; readonly bytes: number } {
  if (!isQuantised(to)) return { elements: 1, bytes: DTYPE_BYTES[to] };
  const types = quantisedTypes(to, [1, QUANTISED_BLOCK]);
  return { elements: QUANTISED_BLOCK, bytes: byteLength(part === "values" ? types.codes : types.scales) };
}
