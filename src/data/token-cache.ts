import * as fs from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { UserError } from "../errors.ts";
import { fileError, fileIo, isRecord, readFully, writeAtomic, type FileIo } from "../hf/files.ts";
import type { Sample } from "./sample.ts";
import { createIndexBuilder, createSampleSet, packSample, type SampleSet } from "./sample-store.ts";

/**
 * Tokenized data in a file, so that data larger than memory can be trained on and a second run need not tokenize:
 * stored tokens (i32 each), lengths (i32 per sample), line numbers (i32 per sample), a JSON trailer, its length (u32) and
 * a mark, little-endian. The mark comes last, so that a file cut short is not taken for a whole one.
 */
const MARK = "RMTK";
const VERSION = 1;

interface Trailer {
  readonly version: number;
  readonly samples: number;
  readonly tokens: number;
  readonly labelled: number;
}

/** Where caches are kept: `REMAT_CACHE`, or the user's cache folder. */
export function cacheFolder(): string {
  const { REMAT_CACHE: own, XDG_CACHE_HOME: general } = process.env;
  return own || join(general || join(homedir(), ".cache"), "remat");
}

/** SHA-256 over the bytes of a file and a key, in hexadecimal: names what the file becomes under that key. */
export function contentKey(path: string, key: string): string {
  const hash = new Bun.CryptoHasher("sha256").update(`${VERSION}\0${key}\0`);
  let fd: number;
  try {
    fd = fs.openSync(path, "r");
  } catch (error) {
    throw fileError("open", path, error);
  }
  try {
    const piece = new Uint8Array(1 << 20);
    for (let count = fs.readSync(fd, piece); count > 0; count = fs.readSync(fd, piece)) hash.update(piece.subarray(0, count));
  } catch (error) {
    throw fileError("read", path, error);
  } finally {
    fs.closeSync(fd);
  }
  return hash.digest("hex");
}

/** A sample with the line (or item) that it comes from. */
export interface NumberedSample {
  readonly sample: Pick<Sample, "ids" | "labels">;
  readonly number: number;
}

/** Bytes handed to the disk at a time. */
const CHUNK_TOKENS = 1 << 18;

/** Writes a cache as its samples come: memory holds the index and one chunk. @throws {UserError} */
export function writeTokenCache(path: string, samples: Iterable<NumberedSample>, io: FileIo = fileIo): void {
  writeAtomic(path, cacheChunks(samples), io);
}

function* cacheChunks(samples: Iterable<NumberedSample>): Generator<Uint8Array> {
  const builder = createIndexBuilder();
  let chunk = new Int32Array(CHUNK_TOKENS);
  let used = 0;
  let tokens = 0;
  for (const { sample, number } of samples) {
    const { stored, labelled } = packSample(sample);
    if (used + stored.length > chunk.length) {
      yield bytesOf(chunk.subarray(0, used));
      used = 0;
      if (stored.length > chunk.length) chunk = new Int32Array(stored.length);
    }
    chunk.set(stored, used);
    used += stored.length;
    tokens += stored.length;
    builder.add(stored.length, number, labelled);
  }
  yield bytesOf(chunk.subarray(0, used));
  const { lengths, numbers, labelled } = builder.finish();
  yield bytesOf(lengths);
  yield bytesOf(numbers);
  const trailer: Trailer = { version: VERSION, samples: lengths.length, tokens, labelled };
  const json = new TextEncoder().encode(JSON.stringify(trailer));
  yield json;
  yield bytesOf(Uint32Array.of(json.length));
  yield new TextEncoder().encode(MARK);
}

function bytesOf(view: Int32Array | Uint32Array): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/**
 * Opens a cache; null when it is not there or not whole. Samples are read when asked for, through a descriptor that stays
 * open as long as the process.
 * @param placeOf names the place in the data of a line or item
 */
export function openTokenCache(path: string, placeOf: (number: number) => string): SampleSet | null {
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
  const readInts = (at: number, length: number): Int32Array => {
    const values = new Int32Array(length);
    readFully(fd, bytesOf(values), at * 4, path);
    return values;
  };
  const lengths = readInts(tokens, samples);
  const numbers = readInts(tokens + samples, samples);
  if (lengths.reduce((sum, length) => sum + length, 0) !== tokens) {
    fs.closeSync(fd);
    return null;
  }
  return createSampleSet({ lengths, numbers, labelled }, readInts, placeOf);
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
  const { samples, tokens } = value as unknown as Trailer;
  return tokens * 4 + samples * 8 + length + 8 === size ? (value as unknown as Trailer) : null;
}

/** Whether a folder exists, or can be made, and can be written to. */
export function canWrite(folder: string): boolean {
  try {
    fs.mkdirSync(folder, { recursive: true });
    fs.accessSync(folder, fs.constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** The samples of a file from its cache, made first when it is missing. @throws {UserError} from `samples`, a full disk */
export function cachedSamples(
  path: string,
  samples: () => Iterable<NumberedSample>,
  placeOf: (number: number) => string,
): SampleSet {
  const cached = openTokenCache(path, placeOf);
  if (cached) return cached;
  writeTokenCache(path, samples());
  const written = openTokenCache(path, placeOf);
  if (!written)
    throw new UserError(`${path} cannot be read back after writing it; check the disk, or set REMAT_CACHE to another folder`);
  return written;
}
