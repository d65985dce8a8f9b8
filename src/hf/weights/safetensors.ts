import * as fs from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { elements, type Shape } from "../../graph/types.ts";
import { type DType, type FloatType } from "../../base/dtype.ts";
import { fileError, readFully } from "../../base/files/files.ts";
import { type OpenFile, openFile } from "../../base/files/open-file.ts";
import { isRecord, jsonKind, parseJsonObject, readJsonObject, refusePointer, show } from "../../base/json.ts";
import { toFloat32 } from "../../base/float16.ts";
import { createPartReader, type TensorPart } from "./tensor-part.ts";

/**
 * Safetensors: a little-endian u64 header length, a JSON header `name -> {dtype, shape, data_offsets}` (offsets count
 * from the end of the header), then the data. A checkpoint may be split into several such files ("shards") under an
 * index `{"weight_map": {name: file}}`. See https://github.com/huggingface/safetensors (format section).
 */

/** A tensor in a file. */
export interface TensorEntry {
  readonly name: string;
  /** The dtype as the file names it (`"BF16"`). */
  readonly stored: string;
  /** The same as a graph dtype, or null when no kernel reads it. */
  readonly dtype: DType | null;
  readonly shape: Shape;
  readonly path: string;
  /** Byte offset from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
  /** How its elements lie there where they do not follow each other; such an entry's `offset` is that of all. */
  readonly part?: TensorPart;
  /** The tensors of the file that it is a part of; absent: it is one itself. */
  readonly fused?: readonly TensorEntry[];
}

/** One file or a sharded checkpoint, open for reading. */
export interface TensorSource {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** `__metadata__`, of all shards together. */
  readonly metadata: ReadonlyMap<string, string>;
  /** The open files, as they were when their headers were read. */
  readonly files: readonly OpenFile[];
  /**
   * Fills `target` (may view shared memory) with the tensor's bytes: all of them, exactly `entry.bytes`, or with `from` those
   * from that byte of the tensor on.
   */
  read(entry: TensorEntry, target: Uint8Array, from?: number): void;
  close(): void;
}

/** Bits per element of every dtype that the format knows. */
export const STORED_BITS: Readonly<Record<string, number>> = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
};

export const STORED_NAMES: Readonly<Record<DType, string>> = {
  f32: "F32",
  bf16: "BF16",
  f16: "F16",
  i32: "I32",
  i64: "I64",
  u32: "U32",
  u64: "U64",
  i8: "I8",
  u8: "U8",
  bool: "BOOL",
};

const DTYPES: ReadonlyMap<string, DType> = new Map(
  Object.entries(STORED_NAMES).map(([dtype, stored]) => [stored, dtype as DType]),
);

/** The reference reader's limit; a larger number means that the file is something else. */
const MAX_HEADER = 100_000_000;

/**
 * Opens a `.safetensors` file, a `.safetensors.index.json` file, or a model folder that holds `model.safetensors` or its
 * index. Headers are read and checked now, data when asked for.
 * @throws {UserError} missing, truncated or malformed files
 */
export function openSafetensors(path: string): TensorSource {
  const files: OpenFile[] = [];
  const close = () => {
    for (const file of files.splice(0)) fs.closeSync(file.fd);
  };
  const descriptor = (wanted: string): number => {
    const file = files.find((candidate) => candidate.path === wanted);
    if (!file) throw new Error(`${wanted} is closed`);
    return file.fd;
  };
  const parts = createPartReader();
  const open = (file: string): ReturnType<typeof readHeader> => {
    const opened = openFile(file);
    files.push(opened);
    return readHeader(opened.fd, file);
  };
  try {
    const target = locate(path);
    const { tensors, metadata } = target.endsWith(".json") ? openShards(target, open) : open(target);
    return {
      path: target,
      tensors,
      metadata,
      files,
      read(entry, bytes, from) {
        if (from === undefined ? bytes.length !== entry.bytes : from + bytes.length > entry.bytes) {
          throw new Error(`${entry.name}: the target holds ${bytes.length} bytes, the tensor has ${entry.bytes - (from ?? 0)}`);
        }
        if (entry.part)
          parts.read(
            entry.part,
            (slab, memory, at) => readFully(descriptor(slab.path), memory, slab.offset + at, slab.path),
            bytes,
            from ?? 0,
          );
        else readFully(descriptor(entry.path), bytes, entry.offset + (from ?? 0), entry.path);
      },
      close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** Tells whether a model folder holds weights in this format. */
export const isSafetensorsFolder = (folder: string): boolean =>
  [WEIGHTS, INDEX].some((name) => fs.existsSync(join(folder, name)));

const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** The file to open for `path`, which may be a model folder. */
function locate(path: string): string {
  let stat: fs.Stats;
  try {
    stat = fs.statSync(path);
  } catch (error) {
    throw fileError("open", path, error);
  }
  if (!stat.isDirectory()) return path;
  const single = join(path, WEIGHTS);
  const index = join(path, INDEX);
  // Transformers prefers the single file when both are there.
  if (fs.existsSync(single)) return single;
  if (fs.existsSync(index)) return index;
  throw new UserError(`${path} holds neither ${WEIGHTS} nor ${INDEX}${insteadOf(fs.readdirSync(path))}`);
}

/** Returns what a model folder without weights that can be read has in their place. */
function insteadOf(names: readonly string[]): string {
  const find = (pattern: RegExp) => names.find((name) => pattern.test(name));
  const shard = find(/\.safetensors$/);
  if (shard)
    return `; of ${shard} nothing says which tensors it holds: download the index too, or name a whole model's file model.safetensors`;
  const pickled = find(/\.(bin|pth|pt)$/);
  if (pickled) return `; ${pickled} is a pickle, which is not read: convert the model to safetensors`;
  const gguf = find(/\.gguf$/);
  return gguf ? `; to use ${gguf}, name the file itself as the model` : "";
}

type Contents = { tensors: Map<string, TensorEntry>; metadata: Map<string, string> };

function openShards(index: string, open: (file: string) => Contents): Contents {
  const map = readJsonObject(index).weight_map;
  if (!isRecord(map)) throw new UserError(`${index}: expected an object "weight_map", got ${jsonKind(map)}`);
  const shards = new Map<string, Contents>();
  const tensors = new Map<string, TensorEntry>();
  const metadata = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || !isPlainFileName(shard)) {
      throw new UserError(
        `${index}: tensor ${show(name)} is said to be in ${show(shard)}; a shard must be a file name in the same folder`,
      );
    }
    let contents = shards.get(shard);
    if (!contents) {
      contents = open(join(dirname(index), shard));
      shards.set(shard, contents);
      for (const [key, value] of contents.metadata) metadata.set(key, value);
    }
    const entry = contents.tensors.get(name);
    if (!entry) throw new UserError(`${index} places tensor ${show(name)} in ${shard}, which does not hold it`);
    tensors.set(name, entry);
  }
  return { tensors, metadata };
}

/** A name that stays in its folder on every system: no separators, no parent, no NUL, no drive, no longer than allowed. */
export function isPlainFileName(name: string): boolean {
  return name !== "" && name.length <= 255 && name !== "." && name !== ".." && basename(name) === name && !/[\\/:\0]/.test(name);
}

function readHeader(fd: number, path: string): Contents {
  const stat = fs.fstatSync(fd);
  if (!stat.isFile()) throw new UserError(`cannot read ${path}: it is not a regular file`);
  const size = stat.size;
  if (size < 8) throw new UserError(`${path} is truncated: ${size} bytes are too few for a safetensors header`);
  const prefix = new Uint8Array(8);
  readFully(fd, prefix, 0, path);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER) || length < 2n) {
    const begin = new Uint8Array(Math.min(size, 64));
    readFully(fd, begin, 0, path);
    refusePointer(Buffer.from(begin).toString("latin1"), path);
    throw new UserError(`${path} is not a safetensors file: its header length reads ${length}`);
  }
  if (8 + Number(length) > size) {
    throw new UserError(
      `${path} is truncated: the header needs ${length} bytes, the file has ${size - 8}; copy or download the file again`,
    );
  }
  const bytes = new Uint8Array(Number(length));
  readFully(fd, bytes, 8, path);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new UserError(`${path} is not a safetensors file: its header is not UTF-8`);
  }
  const header = parseJsonObject(text, `the header of ${path}`);
  const duplicate = duplicateKey(text);
  if (duplicate !== null) throw new UserError(`${path} holds two tensors named ${show(duplicate)}`);

  const tensors = new Map<string, TensorEntry>();
  const metadata = new Map<string, string>();
  const dataStart = 8 + bytes.length;
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") {
      if (!isRecord(value)) throw new UserError(`${path}: expected __metadata__ to be an object, got ${jsonKind(value)}`);
      for (const [key, text] of Object.entries(value)) {
        if (typeof text !== "string") throw new UserError(`${path}: __metadata__ ${show(key)} is not a string`);
        metadata.set(key, text);
      }
    } else {
      tensors.set(name, parseEntry(name, value, path, dataStart));
    }
  }
  checkLayout(tensors, dataStart, size, path);
  return { tensors, metadata };
}

function parseEntry(name: string, value: unknown, path: string, dataStart: number): TensorEntry {
  const where = `${path}: tensor ${show(name)}`;
  if (!isRecord(value)) throw new UserError(`${where}: expected an object, got ${jsonKind(value)}`);
  const { dtype: stored, shape, data_offsets: offsets } = value;
  if (typeof stored !== "string" || !Object.hasOwn(STORED_BITS, stored)) {
    throw new UserError(`${where} has the unknown dtype ${show(stored)}`);
  }
  if (!Array.isArray(shape) || !shape.every(isSize)) {
    throw new UserError(`${where}: expected a shape of whole numbers, got ${show(shape)}`);
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize) || offsets[0]! > offsets[1]!) {
    throw new UserError(`${where}: expected two ascending data_offsets, got ${show(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const bits = elements(shape) * STORED_BITS[stored]!;
  if (!Number.isSafeInteger(bits) || bits % 8 !== 0 || end - begin !== bits / 8) {
    throw new UserError(
      `${where}: ${stored}[${shape.join(", ")}] needs ${bits / 8} bytes, but its data_offsets span ${end - begin}`,
    );
  }
  return { name, stored, dtype: DTYPES.get(stored) ?? null, shape, path, offset: dataStart + begin, bytes: end - begin };
}

function isSize(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** The tensors must cover the data exactly once, without gaps, up to the end of the file. */
function checkLayout(tensors: ReadonlyMap<string, TensorEntry>, dataStart: number, size: number, path: string): void {
  const ordered = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataStart;
  for (const entry of ordered) {
    if (entry.offset + entry.bytes > size) {
      throw new UserError(
        `${path} is truncated: tensor ${show(entry.name)} ends at byte ${entry.offset + entry.bytes}, ` +
          `the file has ${size}; copy or download the file again`,
      );
    }
    if (entry.offset !== end) {
      const fault = entry.offset < end ? "overlaps the tensor before it" : "leaves a gap before it";
      throw new UserError(`${path} is malformed: tensor ${show(entry.name)} ${fault} (byte ${entry.offset}, expected ${end})`);
    }
    end += entry.bytes;
  }
  if (end !== size) throw new UserError(`${path} is malformed: ${size - end} bytes follow the last tensor`);
}

/** A key that occurs twice at the top level of a JSON object (which `JSON.parse` accepts silently), or null. */
function duplicateKey(text: string): string | null {
  const seen = new Set<string>();
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 0x7b || char === 0x5b) depth++;
    else if (char === 0x7d || char === 0x5d) depth--;
    else if (char === 0x22) {
      const start = i++;
      while (text.charCodeAt(i) !== 0x22) i += text.charCodeAt(i) === 0x5c ? 2 : 1;
      let next = i + 1;
      while (text.charCodeAt(next) <= 0x20) next++;
      if (depth !== 1 || text.charCodeAt(next) !== 0x3a) continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      if (seen.has(key)) return key;
      seen.add(key);
    }
  }
  return null;
}

/**
 * The entry of a tensor that must be there.
 * @throws {UserError} missing tensor, other shape, or a dtype that is not among `dtypes`
 */
export function expectTensor(
  source: TensorSource,
  name: string,
  shape: Shape,
  dtypes: readonly DType[] = ["f32", "bf16", "f16"],
): TensorEntry & { readonly dtype: DType } {
  const entry = source.tensors.get(name);
  if (!entry) throw new UserError(`${source.path} holds no tensor ${show(name)} (expected shape [${shape.join(", ")}])`);
  if (entry.shape.length !== shape.length || !entry.shape.every((dim, i) => dim === shape[i])) {
    throw new UserError(
      `${entry.path}: tensor ${show(name)} has shape [${entry.shape.join(", ")}], expected [${shape.join(", ")}]; ` +
        "check that it belongs to this config.json",
    );
  }
  if (entry.dtype === null || !dtypes.includes(entry.dtype)) {
    const allowed = dtypes.map((dtype) => STORED_NAMES[dtype]).join(", ");
    throw new UserError(`${entry.path}: tensor ${show(name)} has dtype ${entry.stored}, expected one of ${allowed}`);
  }
  return entry as TensorEntry & { readonly dtype: DType };
}

/** The bytes of a tensor in fresh memory. */
export function readBytes(source: TensorSource, entry: TensorEntry): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(entry.bytes);
  source.read(entry, bytes);
  return bytes;
}

/** Bytes that are read at a time where a tensor is only passed on; a multiple of every block of elements. */
const PIECE = 2 ** 22;

/** The bytes of a tensor piece by piece, each in the memory of the one before it. */
export function* tensorBytes(source: TensorSource, entry: TensorEntry): Iterable<Uint8Array<ArrayBuffer>> {
  const buffer = new Uint8Array(Math.min(PIECE, entry.bytes));
  for (let at = 0; at < entry.bytes; at += PIECE) {
    const piece = buffer.subarray(0, Math.min(PIECE, entry.bytes - at));
    source.read(entry, piece, at);
    yield piece;
  }
}

/** A floating-point tensor (f32, bf16, f16) as f32. @throws {UserError} as `expectTensor` */
export function readFloat32(source: TensorSource, name: string, shape: Shape): Float32Array<ArrayBuffer> {
  const entry = expectTensor(source, name, shape);
  return toFloat32(readBytes(source, entry), entry.dtype as FloatType);
}
