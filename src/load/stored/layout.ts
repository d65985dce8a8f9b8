/**
 * The format of a file of converted weights: a mark, the version of the format and the length of a JSON text (u32 each, little-endian), the text, which
 * says what the file is made of and lists its parts, then a table of checksums, and the parts' data. A part is a parameter as it lies in
 * memory. Parts of a segment stand next to each other in the order in which the segment has its parameters, so that few large reads fetch all of
 * it.
 *
 * The text follows from what is asked for, and the file's name from the header: a file is either the one that is expected, byte for
 * byte up to its checksums, or it is not read at all. Nothing in it is parsed.
 *
 * Checksums are CRC-32s: they go on over pieces of any size (Bun's xxHash3 does not, and takes 32 bits of its seed), need a hundredth
 * of the time that reading does, and are to find damage, not forgers. An entry of the table is the checksum and its complement, so that
 * neither zeros nor a torn write pass for one.
 */
import { align, ALIGNMENT } from "../../runtime/executor.ts";
import { byteLength } from "../../graph/types.ts";
import type { ParamInfo } from "../../runtime/resident.ts";
import type { StoredTensor } from "./tensors.ts";

const MARK = "REMATWTS";
const FORMAT_VERSION = 1;

/**
 * The version of the bytes that conversions give: to be raised when a quantiser gives other codes or scales (a test holds them), since files
 * that an earlier one has made are found by it.
 */
const CONVERSION_VERSION = 1;

/** The number that segments' places are multiples of: a page of memory, and a block of most disks. */
const SEGMENT_ALIGNMENT = 4096;

const TEXT_AT = MARK.length + 8;
const ENTRY_BYTES = 8;

export interface CachePart {
  readonly name: string;
  readonly bytes: number;
  /** The place in the file, in bytes. */
  readonly offset: number;
  /** The place of its checksum in the file, in bytes. */
  readonly entry: number;
}

export interface CacheLayout {
  /** SHA-256 of the header, in hexadecimal. */
  readonly key: string;
  /** The first bytes of the file, up to its table. */
  readonly header: Uint8Array;
  /** The parts by name, in the order of their places. */
  readonly parts: ReadonlyMap<string, CachePart>;
  /** The place of the first part. */
  readonly dataAt: number;
  /** Bytes of the file. */
  readonly size: number;
  /** Bytes of all parts, without what is between them. */
  readonly bytes: number;
}

/**
 * Lays out what has to be converted; null: that is nothing.
 * @param content SHA-256 of the checkpoint, in hexadecimal
 * @param groups parameters by segment; one of several segments lies in the first of them
 */
export function layoutOf(
  content: string,
  groups: readonly (readonly ParamInfo[])[],
  tensors: readonly StoredTensor[],
): CacheLayout | null {
  const made = new Map<string, StoredTensor>();
  for (const tensor of tensors.filter(({ conversion }) => conversion !== null))
    for (const param of [tensor.values, tensor.scales]) if (param) made.set(param.name, tensor);
  if (made.size === 0) return null;
  const placed: { readonly name: string; readonly bytes: number; readonly at: number }[] = [];
  let end = 0;
  const described = groups.map((params) => {
    end = align(end, SEGMENT_ALIGNMENT);
    return params.flatMap(({ name, type }) => {
      const tensor = made.get(name);
      if (!tensor?.conversion || !made.delete(name)) return [];
      const [bytes, at] = [byteLength(type), align(end, ALIGNMENT)];
      placed.push({ name, bytes, at });
      end = at + bytes;
      const { file, offset, conversion, part } = tensor;
      const from = [file, offset, conversion.stored, ...(part ? [part.of.layout] : [])];
      return [{ name, dtype: type.dtype, shape: type.shape, offset: at, bytes, from }];
    });
  });
  const text = JSON.stringify({
    format: "weights converted by remat",
    conversion: CONVERSION_VERSION,
    content,
    segments: described,
  });
  const json = new TextEncoder().encode(text);
  const header = new Uint8Array(align(TEXT_AT + json.length, ENTRY_BYTES));
  header.set(new TextEncoder().encode(MARK));
  new DataView(header.buffer).setUint32(MARK.length, FORMAT_VERSION, true);
  new DataView(header.buffer).setUint32(MARK.length + 4, json.length, true);
  header.set(json, TEXT_AT);
  const dataAt = align(header.length + ENTRY_BYTES * placed.length, SEGMENT_ALIGNMENT);
  const parts = placed.map(({ name, bytes, at }, i): CachePart => {
    return { name, bytes, offset: dataAt + at, entry: header.length + ENTRY_BYTES * i };
  });
  return {
    key: new Bun.CryptoHasher("sha256").update(header).digest("hex"),
    header,
    parts: new Map(parts.map((part) => [part.name, part])),
    dataAt,
    size: dataAt + end,
    bytes: parts.reduce((sum, part) => sum + part.bytes, 0),
  };
}

/** Computes the checksum of bytes that follow those with the checksum `before`. */
export function checksum(bytes: Uint8Array, before = 0): number {
  return Bun.hash.crc32(bytes, before);
}

/** Writes a checksum as the table has it. */
export function tableEntry(sum: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(sum, ~sum).buffer);
}

/** Reads the checksum of a part; null: none is there. @param begin the file's first bytes, up to the first part */
export function checksumOf(begin: Uint8Array, { entry }: CachePart): number | null {
  const view = new DataView(begin.buffer, begin.byteOffset + entry, ENTRY_BYTES);
  const [sum, complement] = [view.getUint32(0, true), view.getUint32(4, true)];
  return complement === ~sum >>> 0 ? sum : null;
}

/** Tells whether a file begins as it has to, up to its table. */
export function beginsAs(begin: Uint8Array, { header }: CacheLayout): boolean {
  return Buffer.compare(begin.subarray(0, header.length), header) === 0;
}
