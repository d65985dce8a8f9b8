import * as fs from "node:fs";
import { dirname } from "node:path";
import { UserError } from "../../base/errors.ts";
import type { NoticeCount } from "../chat/notices.ts";
import { fileVerdict } from "../../base/files/file-verdicts.ts";
import { markUsed, removeCached, unusedFiles } from "../../base/files/last-used.ts";
import { fileIo, filePieces, openAtomic, readFully, type FileIo } from "../../base/files/files.ts";
import { isRecord } from "../../base/json.ts";
import {
  createIndexBuilder,
  createSampleSet,
  packSample,
  type FileIndex,
  type FileSamples,
  type SampleSink,
  type UnusedColumns,
} from "./sample-store.ts";

/**
 * Tokenized data in a file, so that data larger than memory can be trained on and a second run need not tokenize:
 * stored tokens (i32 each), lengths (i32 per sample), line numbers (i32 per sample), runs of weights (weight-runs.ts), targets (f32, as
 * many per sample), places of second texts (i32 per sample, or none), what a teacher says (sample-store.ts), a JSON trailer, its length (u32) and a mark, little-endian. The mark comes last, so that a file cut short is not taken for a whole one; a
 * checksum tells a damaged one.
 */
const MARK = "RMTK";
const VERSION = 5;

interface Trailer {
  readonly version: number;
  readonly samples: number;
  readonly tokens: number;
  /** 32-bit words. */
  readonly weightRuns: number;
  /** Numbers. */
  readonly targets: number;
  readonly seconds: number;
  /** 32-bit words; absent where there is no teacher. */
  readonly taught?: number;
  readonly labelled: number;
  /** Absent where all columns are used. */
  readonly unused?: UnusedColumns;
  /** Absent where there are none. */
  readonly notices?: readonly NoticeCount[];
  /** SHA-256 of everything in front of the trailer and of the trailer's other fields, in hexadecimal. */
  readonly sha256: string;
}

/** Describes what keeps a cache from being written: the tokens can be kept in memory instead. */
export class TokenCacheError extends UserError {}

/** Tokens handed to the disk at a time. */
const CHUNK_TOKENS = 1 << 18;

/**
 * Writes a cache as its samples come: memory holds the index and one chunk. The file appears when it is finished.
 * @param placeOf names the place in the data of a line or item
 * @throws {TokenCacheError} a full disk
 */
export function createTokenCache(path: string, placeOf: (number: number) => string, io: FileIo = fileIo): SampleSink {
  const file = guarded(openAtomic, path, io);
  const hasher = new Bun.CryptoHasher("sha256");
  const write = (bytes: Uint8Array) => {
    hasher.update(bytes);
    guarded(file.write, bytes);
  };
  const builder = createIndexBuilder();
  const chunk = new Int32Array(CHUNK_TOKENS);
  let used = 0;
  let tokens = 0;
  const flush = () => {
    write(bytesOf(chunk.subarray(0, used)));
    used = 0;
  };
  return {
    add(sample, number) {
      const { stored, labelled } = packSample(sample);
      if (used + stored.length > chunk.length) flush();
      if (stored.length > chunk.length) write(bytesOf(stored));
      else {
        chunk.set(stored, used);
        used += stored.length;
      }
      tokens += stored.length;
      builder.add(sample, number, labelled);
    },
    finish(unused = {}, notices = []) {
      flush();
      const index = { ...builder.finish(), unused, notices };
      const { lengths, numbers, weightRuns, targets, seconds, taught, labelled } = index;
      write(bytesOf(lengths));
      write(bytesOf(numbers));
      write(bytesOf(weightRuns));
      write(bytesOf(targets));
      write(bytesOf(seconds));
      write(bytesOf(taught));
      const counts = {
        version: VERSION,
        samples: lengths.length,
        tokens,
        weightRuns: weightRuns.length,
        targets: targets.length,
        seconds: seconds.length,
        ...(taught.length > 0 ? { taught: taught.length } : {}),
        labelled,
        ...(Object.keys(unused).length > 0 ? { unused } : {}),
        ...(notices.length > 0 ? { notices } : {}),
      };
      const trailer: Trailer = { ...counts, sha256: hasher.update(JSON.stringify(counts)).digest("hex") };
      const json = new TextEncoder().encode(JSON.stringify(trailer));
      for (const end of [json, bytesOf(Uint32Array.of(json.length)), new TextEncoder().encode(MARK)]) guarded(file.write, end);
      guarded(file.finish);
      unusedFiles(dirname(path), [".tokens"]).forEach(removeCached);
      const written = openTokenCache(path, placeOf, index);
      if (written) return written;
      throw new TokenCacheError(
        `${path} cannot be read back after writing it; check the disk, or set REMAT_CACHE to another folder`,
      );
    },
    discard: () => file.discard(),
  };
}

/** Calls a function that writes a cache. @throws {TokenCacheError} in the place of its error */
function guarded<A extends unknown[], T>(action: (...args: A) => T, ...args: A): T {
  try {
    return action(...args);
  } catch (error) {
    throw error instanceof UserError ? new TokenCacheError(error.message) : error;
  }
}

function bytesOf(view: Int32Array | Uint32Array): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/**
 * Opens a cache; null when it is not there or not whole. Samples are read when asked for, through a descriptor that stays
 * open as long as the process.
 * @param placeOf names the place in the data of a line or item
 * @param index what the file holds of it, where that is in memory: it is not read again
 */
export function openTokenCache(path: string, placeOf: (number: number) => string, index?: FileIndex): FileSamples | null {
  let fd: number;
  try {
    fd = fs.openSync(path, "r");
  } catch {
    return null;
  }
  const trailer = readTrailer(fd, path);
  if (!trailer) {
    fs.closeSync(fd);
    return null;
  }
  const { samples, tokens, labelled } = trailer;
  // What has just been written needs no second look.
  if (index === undefined && !isWhole(path, trailer)) {
    fs.closeSync(fd);
    return null;
  }
  markUsed(path);
  const readInts = (at: number, length: number): Int32Array => {
    const values = new Int32Array(length);
    readFully(fd, bytesOf(values), at * 4, path);
    return values;
  };
  let at = tokens;
  const next = (length: number) => readInts((at += length) - length, length);
  const { lengths, numbers, weightRuns, targets, seconds, taught } = index ?? {
    lengths: next(samples),
    numbers: next(samples),
    weightRuns: next(trailer.weightRuns),
    targets: next(trailer.targets),
    seconds: next(trailer.seconds),
    taught: next(trailer.taught ?? 0),
  };
  if (lengths.reduce((sum, length) => sum + length, 0) !== tokens) {
    fs.closeSync(fd);
    return null;
  }
  const { unused = {}, notices = [] } = trailer;
  return createSampleSet(
    { lengths, numbers, weightRuns, targets, seconds, taught, labelled, unused, notices },
    readInts,
    placeOf,
  );
}

/** Tells whether the checksum holds. The file is read for it once, and again when it has changed. */
function isWhole(path: string, { sha256, ...counts }: Trailer): boolean {
  const { found } = fileVerdict("token-cache", path, () => {
    const hasher = new Bun.CryptoHasher("sha256");
    let left = 4 * wordsOf(counts);
    for (const piece of filePieces(path)) {
      const part = piece.subarray(0, left);
      hasher.update(part);
      left -= part.length;
    }
    return { found: hasher.update(JSON.stringify(counts)).digest("hex") };
  });
  return found === sha256;
}

function readTrailer(fd: number, path: string): Trailer | null {
  const { size } = fs.fstatSync(fd);
  if (size < 8) return null;
  const end = new Uint8Array(8);
  readFully(fd, end, size - 8, path);
  const length = new DataView(end.buffer).getUint32(0, true);
  if (new TextDecoder().decode(end.subarray(4)) !== MARK || length > size - 8) return null;
  const bytes = new Uint8Array(length);
  readFully(fd, bytes, size - 8 - length, path);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return null;
  }
  if (!isRecord(value) || value.version !== VERSION) return null;
  const trailer = value as unknown as Trailer;
  return 4 * wordsOf(trailer) + length + 8 === size ? trailer : null;
}

/** 32-bit words in front of the trailer. */
function wordsOf({ tokens, samples, weightRuns, targets, seconds, taught = 0 }: Omit<Trailer, "sha256">): number {
  return tokens + 2 * samples + weightRuns + targets + seconds + taught;
}

/** Tells whether a folder exists, or can be made, and can be written to. */
export function canWrite(folder: string): boolean {
  try {
    fs.mkdirSync(folder, { recursive: true });
    fs.accessSync(folder, fs.constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
