import * as fs from "node:fs";
import { DTYPE_BYTES, type DType } from "../../base/dtype.ts";
import { UserError } from "../../base/errors.ts";
import { fileVerdict, type VerdictOptions } from "../../base/files/file-verdicts.ts";
import { fileError, readFully } from "../../base/files/files.ts";
import { blocksAreFinite } from "../../gguf/blocks/dequantise.ts";
import { GGML_TYPES, type GgmlType } from "../../gguf/blocks/types.ts";
import { isMxfp4Scales, storedTensors } from "./fused-experts.ts";
import { isVision, moduleName } from "./model-weights.ts";
import type { TensorEntry, TensorSource } from "./safetensors.ts";

/** Describes what reading a weight file whole has shown. */
interface Verdict extends Readonly<Record<string, unknown>> {
  /** In hexadecimal. */
  readonly sha256: string;
  /** The first tensor that Remat runs with a value that is infinite or no number. */
  readonly notFinite: string | null;
  /** The first of MXFP4's scales among them, with the byte that stands for no number; absent where a file has no scales. */
  readonly badScales?: string | null;
}

/**
 * Reads each file of a checkpoint once (or not at all, if it was read before and has not changed) and returns what identifies the
 * checkpoint: one SHA-256 of those of its files, in hexadecimal.
 * @throws {UserError} a value that is not finite, by file and tensor
 */
export function examineWeights({ tensors }: Pick<TensorSource, "tensors">, options: VerdictOptions = {}): string {
  const files = new Map<string, Range[]>();
  for (const entry of storedTensors(tensors).values())
    for (const range of rangesOf(entry)) {
      const known = files.get(range.path);
      if (known) known.push(range);
      else files.set(range.path, [range]);
    }
  const hasher = new Bun.CryptoHasher("sha256");
  for (const [path, entries] of [...files].sort(([a], [b]) => (a < b ? -1 : 1))) {
    // What was found before scales were looked at is not believed of files that have some.
    const kind = entries.some(({ areScales }) => areScales) ? "weights with scales" : "weights";
    const { sha256, notFinite, badScales } = fileVerdict<Verdict>(kind, path, () => examine(path, entries), options);
    if (badScales)
      throw new UserError(
        `${path}: tensor ${JSON.stringify(badScales)} holds the scale 255, which is no number in MXFP4 (E8M0); expected 0 to 254: the file is damaged, download it again`,
      );
    if (notFinite !== null) {
      throw new UserError(
        `${path}: tensor ${JSON.stringify(notFinite)} holds a value that is infinite or no number; the file is damaged, or comes from training that diverged`,
      );
    }
    hasher.update(`${sha256}\n`);
  }
  return hasher.digest("hex");
}

/** A part of a file with numbers that are looked at. */
interface Range {
  readonly name: string;
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
  /** Bytes of an element or a block, which is looked at whole. */
  readonly unit: number;
  /** True if these are the exponents of a tensor in MXFP4. */
  readonly areScales: boolean;
  isFinite(piece: Uint8Array): boolean;
}

/** Where the file has the numbers of a tensor: in one place, or in those of all tensors of a GGUF file that it is made of. */
function rangesOf(entry: TensorEntry): Range[] {
  const { name, path, offset, bytes, dtype, part } = entry;
  if (part?.layout.kind !== "ggml") {
    const unit = dtype === null ? 1 : DTYPE_BYTES[dtype];
    const areScales = isMxfp4Scales(entry);
    return [{ name, path, offset, bytes, unit, areScales, isFinite: (piece) => areFinite(piece, dtype) }];
  }
  const { shares } = part.layout;
  return part.slabs.map((slab, i): Range => {
    const { type } = shares[i]!;
    return { name, ...slab, unit: GGML_TYPES[type].bytes, areScales: false, isFinite: (piece) => ggmlIsFinite(type, piece) };
  });
}

function ggmlIsFinite(type: GgmlType, piece: Uint8Array): boolean {
  return type === "f32" || type === "f16" || type === "bf16" ? areFinite(piece, type) : blocksAreFinite(type, piece);
}

/** Bytes that are read at a time, or a little less where elements or blocks are no parts of it. */
const PIECE = 1 << 22;

/** Reads a file from its begin to its end. Pieces begin where tensors begin, so that no piece cuts an element. */
function examine(path: string, entries: readonly Range[]): Verdict {
  const hasher = new Bun.CryptoHasher("sha256");
  const buffer = new Uint8Array(PIECE);
  let notFinite: string | null = null;
  let badScales: string | null = null;
  const fd = openFile(path);
  try {
    const { size } = fs.fstatSync(fd);
    let at = 0;
    const readTo = (end: number, unit: number, look: (piece: Uint8Array) => void) => {
      while (at < end) {
        const piece = buffer.subarray(0, Math.min(PIECE - (PIECE % unit), end - at));
        readFully(fd, piece, at, path);
        hasher.update(piece);
        look(piece);
        at += piece.length;
      }
    };
    for (const entry of entries.toSorted((a, b) => a.offset - b.offset)) {
      const { name, offset, bytes, unit, areScales, isFinite } = entry;
      readTo(offset, 1, () => {});
      // Parts that see or hear may hold bounds that are infinite; they are copied as they are.
      const isRead = !isVision(moduleName(name));
      readTo(offset + bytes, unit, (piece) => {
        if (areScales && badScales === null && piece.includes(255)) badScales = name;
        if (isRead && notFinite === null && !isFinite(piece)) notFinite = name;
      });
    }
    readTo(size, 1, () => {});
  } finally {
    fs.closeSync(fd);
  }
  return { sha256: hasher.digest("hex"), notFinite, ...(entries.some(({ areScales }) => areScales) && { badScales }) };
}

function openFile(path: string): number {
  try {
    return fs.openSync(path, "r");
  } catch (error) {
    throw fileError("open", path, error);
  }
}

/** Tells whether all of whole elements, which begin at a multiple of their size, are finite. Types without infinities are. */
export function areFinite({ buffer, byteOffset, length }: Uint8Array, dtype: DType | null): boolean {
  switch (dtype) {
    case "bf16":
      return halvesAreFinite(new Uint16Array(buffer, byteOffset, length / 2), 0x7f80);
    case "f16":
      return halvesAreFinite(new Uint16Array(buffer, byteOffset, length / 2), 0x7c00);
    case "f32":
      return wordsAreFinite(new Int32Array(buffer, byteOffset, length / 4));
    default:
      return true;
  }
}

/** An exponent of all ones (`mask`) is an infinity, or no number. */
function halvesAreFinite(halves: Uint16Array, mask: number): boolean {
  for (let i = 0; i < halves.length; i++) if ((halves[i]! & mask) === mask) return false;
  return true;
}

function wordsAreFinite(words: Int32Array): boolean {
  for (let i = 0; i < words.length; i++) if ((words[i]! & 0x7f80_0000) === 0x7f80_0000) return false;
  return true;
}
