import { closeSync, fstatSync, realpathSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { openFile } from "../../base/files/open-file.ts";
import { refusePointer, show } from "../../base/json.ts";
import { elements, type Shape } from "../../graph/types.ts";
import { type Cursor, createCursor } from "./cursor.ts";
import { GGML_TYPES, type GgmlType, nameOfNumber, typeNames, typeOfNumber } from "../blocks/types.ts";

/**
 * GGUF, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), little-endian: magic, version, counts, metadata, directory of
 * tensors, padding, data. Every length is checked against what is left of the file before anything of its size is made.
 */

/** A metadata value; a 64-bit integer that no number holds exactly is a bigint. */
export type GgufValue = number | bigint | string | boolean | readonly GgufValue[];

/** A tensor of a file, or of one of the files that a model is split into. */
export interface GgufTensor {
  readonly name: string;
  /** Outermost first, as everywhere here. */
  readonly shape: Shape;
  readonly type: GgmlType;
  readonly path: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

export interface GgufFile {
  readonly path: string;
  /** The files that hold it: one, or all parts in their order. */
  readonly files: readonly string[];
  /** The first part's where the model is split. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** The name of a part of a split model. */
const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/**
 * Reads the metadata and the directory of a file, and of all parts of a model that is split, which lie beside the one that is named.
 * @throws {UserError} a file that is missing, cut, malformed, or of a version or type that is not read
 */
export function readGguf(path: string): GgufFile {
  const first = readPart(path);
  const count = splitNumber(first, "split.count");
  if (count <= 1) return { path, files: [path], ...first };
  const own = [path, realpathSync(path)].find((name) => PART.test(basename(name)));
  if (own === undefined)
    throw new UserError(
      `${path} is one of ${count} files of a split model, whose name must end with -00001-of-${padded(count)}.gguf, so that the others are found`,
    );
  const [, stem] = PART.exec(basename(own))!;
  const files = Array.from({ length: count }, (_, i) => join(dirname(own), `${stem}-${padded(i + 1)}-of-${padded(count)}.gguf`));
  const parts = files.map((file) => (file === path ? first : readPart(file)));
  const tensors = new Map<string, GgufTensor>();
  for (const [i, part] of parts.entries()) {
    const [no, all] = [splitNumber(part, "split.no"), splitNumber(part, "split.count")];
    if (no !== i || all !== count)
      throw new UserError(
        `${files[i]} is part ${no + 1} of ${all}, expected part ${i + 1} of ${count}; were files of two models mixed?`,
      );
    for (const [name, tensor] of part.tensors) {
      if (tensors.has(name)) throw new UserError(`${files[i]} holds tensor ${show(name)}, which an earlier part holds too`);
      tensors.set(name, tensor);
    }
  }
  const named = parts[0]!.metadata.get("split.tensors.count");
  if (typeof named === "number" && named !== tensors.size)
    throw new UserError(`${files[0]} names ${named} tensors in all parts, which hold ${tensors.size}; download the parts again`);
  return { path: files[0]!, files, metadata: parts[0]!.metadata, tensors };
}

const padded = (number: number): string => String(number).padStart(5, "0");

type Part = Pick<GgufFile, "metadata" | "tensors">;

/** The most files that a name of five digits counts. */
const MAX_PARTS = 99_999;

function splitNumber({ metadata }: Part, key: string): number {
  const value = metadata.get(key);
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MAX_PARTS ? value : 0;
}

function readPart(path: string): Part {
  const { fd } = openFile(path);
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw new UserError(`cannot read ${path}: it is not a regular file`);
    return readHeader(createCursor(fd, path, stat.size));
  } finally {
    closeSync(fd);
  }
}

const MAGIC = "GGUF";
/** Bytes of a tensor's entry without its name, of a key without its letters and value. */
const [LEAST_ENTRY, LEAST_PAIR] = [24, 13];
/** ggml's limit. */
const MAX_DIMENSIONS = 4;
const DEFAULT_ALIGNMENT = 32;

function readHeader(cursor: Cursor): Part {
  const { path, size } = cursor;
  if (size < 24) throw new UserError(`${path} is not a GGUF file, or cut: ${size} bytes are too few for a header`);
  const magic = cursor.take(4, "the magic").toString("latin1");
  if (magic !== MAGIC) {
    cursor.rewind();
    refusePointer(cursor.take(Math.min(size, 64), "its begin").toString("latin1"), path);
    throw new UserError(`${path} is not a GGUF file: it begins with ${show(magic)}, expected "GGUF"`);
  }
  const version = cursor.u32("the version");
  // The low half of a small number is empty where its bytes are the other way round.
  if ((version & 0xffff) === 0 && version !== 0)
    throw new UserError(`${path} is a big-endian GGUF file, made for another kind of processor; use a little-endian one`);
  if (version !== 2 && version !== 3)
    throw new UserError(
      `${path} has GGUF version ${version}, expected 2 or 3; make it anew with llama.cpp's convert_hf_to_gguf.py`,
    );
  const tensorCount = cursor.count("tensors", LEAST_ENTRY);
  const pairs = cursor.count("metadata values", LEAST_PAIR);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < pairs; i++) {
    const key = cursor.text("a key");
    if (metadata.has(key)) throw new UserError(`${path} has the key ${show(key)} twice`);
    metadata.set(key, readValue(cursor, cursor.u32(`the type of ${show(key)}`), `the value of ${show(key)}`, 0));
  }
  const alignment = alignmentOf(metadata, path);
  const entries = Array.from({ length: tensorCount }, () => readEntry(cursor));
  const data = Math.ceil(cursor.at() / alignment) * alignment;
  return { metadata, tensors: placed(entries, data, alignment, cursor) };
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, path: string): number {
  const value = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  if (typeof value === "number" && value >= 1 && value <= 2 ** 30 && Number.isInteger(Math.log2(value))) return value;
  throw new UserError(`${path}: expected general.alignment to be a power of two, got ${shown(value)}`);
}

const shown = (value: GgufValue): string => (typeof value === "bigint" ? `${value}` : show(value));

type Entry = Omit<GgufTensor, "bytes">;

function readEntry(cursor: Cursor): Entry {
  const { path } = cursor;
  const name = cursor.text("a tensor's name");
  const where = `tensor ${show(name)}`;
  const dimensions = cursor.u32(`the dimensions of ${where}`);
  if (dimensions > MAX_DIMENSIONS)
    throw new UserError(`${path}: ${where} has ${dimensions} dimensions, expected at most ${MAX_DIMENSIONS}`);
  const shape = Array.from({ length: dimensions }, () => cursor.u64(`a dimension of ${where}`)).reverse();
  const id = cursor.u32(`the type of ${where}`);
  const type = typeOfNumber(id);
  if (type === null)
    throw new UserError(
      `${path}: ${where} has type ${nameOfNumber(id)} (number ${id}), which is not read; use a file of the types ${typeNames()}`,
    );
  return { name, shape, type, path, offset: cursor.u64(`the place of ${where}`) };
}

/** The tensors with their places in the file, which is long enough for all; none reaches into another. */
function placed(entries: readonly Entry[], data: number, alignment: number, { path, size }: Cursor): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (const entry of entries) {
    const { name, shape, type } = entry;
    const where = `${path}: tensor ${show(name)}`;
    const block = GGML_TYPES[type];
    const blocks = elements(shape) / block.elements;
    const bytes = blocks * block.bytes;
    if (tensors.has(name)) throw new UserError(`${path} holds two tensors named ${show(name)}`);
    if ((shape.at(-1) ?? 1) % block.elements !== 0 || !Number.isSafeInteger(bytes))
      throw new UserError(
        `${where} has shape [${shape.join(", ")}], which is not a whole number of ${type.toUpperCase()}'s blocks of ${block.elements} a row`,
      );
    if (entry.offset % alignment !== 0)
      throw new UserError(`${where} begins at byte ${entry.offset} of the data, expected a multiple of ${alignment}`);
    const offset = data + entry.offset;
    if (offset + bytes > size)
      throw new UserError(`${where} ends at byte ${offset + bytes}, the file has ${size}; copy or download the file again`);
    tensors.set(name, { ...entry, offset, bytes });
  }
  let last: GgufTensor | null = null;
  for (const tensor of [...tensors.values()].sort((a, b) => a.offset - b.offset)) {
    if (last !== null && last.bytes > 0 && tensor.bytes > 0 && tensor.offset < last.offset + last.bytes)
      throw new UserError(`${path}: tensor ${show(tensor.name)} overlaps ${show(last.name)}`);
    if (tensor.bytes > 0) last = tensor;
  }
  return tensors;
}

/** Arrays within arrays, at most. */
const MAX_DEPTH = 8;

/** Bytes of the numbers by their type; text and arrays have lengths of their own. */
const VALUE_BYTES: readonly (number | null)[] = [1, 1, 2, 2, 4, 4, 4, 1, null, null, 8, 8, 8];
const [TEXT, ARRAY] = [8, 9];
/** The least bytes of a text, and of an array. */
const LEAST_BYTES: Readonly<Record<number, number>> = { [TEXT]: 8, [ARRAY]: 12 };

function readValue(cursor: Cursor, type: number, what: string, depth: number): GgufValue {
  if (type === TEXT) return cursor.text(what);
  if (type === ARRAY) {
    if (depth === MAX_DEPTH)
      throw new UserError(`${cursor.path}: ${what} has arrays ${MAX_DEPTH + 1} deep, expected at most ${MAX_DEPTH}`);
    const element = cursor.u32(what);
    const count = cursor.count(`elements of ${what}`, leastBytes(cursor, element, what));
    return Array.from({ length: count }, () => readValue(cursor, element, what, depth + 1));
  }
  const bytes = cursor.take(leastBytes(cursor, type, what), what);
  switch (type) {
    case 0:
      return bytes.readUInt8();
    case 1:
      return bytes.readInt8();
    case 2:
      return bytes.readUInt16LE();
    case 3:
      return bytes.readInt16LE();
    case 4:
      return bytes.readUInt32LE();
    case 5:
      return bytes.readInt32LE();
    case 6:
      return bytes.readFloatLE();
    case 7:
      return bytes[0] !== 0;
    case 10:
      return exact(bytes.readBigUInt64LE());
    case 11:
      return exact(bytes.readBigInt64LE());
    default:
      return bytes.readDoubleLE();
  }
}

function leastBytes({ path }: Cursor, type: number, what: string): number {
  const bytes = VALUE_BYTES[type] ?? LEAST_BYTES[type];
  if (bytes === undefined) throw new UserError(`${path}: ${what} has the unknown type ${type}; is the file damaged?`);
  return bytes;
}

function exact(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
