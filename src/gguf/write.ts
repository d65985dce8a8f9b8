import { elements, type Shape } from "../graph/types.ts";
import type { GgufSetting } from "../models/families/family.ts";
import { GGML_TYPES } from "./blocks/types.ts";
import { fileIo, type FileIo, writeAtomic } from "../base/files/files.ts";

/**
 * GGUF version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): magic, version, counts, metadata, tensor
 * directory, padding, tensor data. Little-endian; dimensions are written innermost first.
 */
export type GgufType = "f32" | "f16" | "bf16" | "q8_0" | "q4_0";

/** Types of single tensors: MXFP4 is kept where a model has it, and nothing is made MXFP4. */
export type GgufTensorType = GgufType | "mxfp4";

/** A metadata value; arrays are of texts, of numbers, or of bytes. */
export type GgufValue =
  | GgufSetting
  | { readonly text: string }
  | { readonly texts: readonly string[] }
  | { readonly bytes: Uint8Array }
  | { readonly f32s: readonly number[] };

export interface GgufTensor {
  readonly name: string;
  readonly type: GgufTensorType;
  /** Outermost first, as everywhere here. */
  readonly shape: Shape;
  /** Called when its turn comes; pieces are taken one after the other, so that one alone is in memory. */
  readonly data: () => Iterable<Uint8Array>;
}

const ALIGNMENT = 32;
const VERSION = 3;

/** Numbers of metadata types. */
const U8 = 0;
const U32 = 4;
const I32 = 5;
const F32 = 6;
const BOOL = 7;
const TEXT = 8;
const ARRAY = 9;

function tensorBytes({ type, shape }: Pick<GgufTensor, "type" | "shape">): number {
  const block = GGML_TYPES[type];
  return (elements(shape) / block.elements) * block.bytes;
}

const padded = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Writes a file atomically. @throws {UserError} full disk, unwritable folder */
export function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensor[],
  io: FileIo = fileIo,
): void {
  const header = createBytes();
  header.raw(Buffer.from("GGUF"));
  header.u32(VERSION);
  header.u64(tensors.length);
  header.u64(metadata.size);
  for (const [key, value] of metadata) {
    header.text(key);
    header.value(value);
  }
  let offset = 0;
  for (const tensor of tensors) {
    header.text(tensor.name);
    header.u32(tensor.shape.length);
    for (const dim of tensor.shape.toReversed()) header.u64(dim);
    header.u32(GGML_TYPES[tensor.type].id);
    header.u64(offset);
    offset += padded(tensorBytes(tensor));
  }
  const directory = header.finish();
  function* chunks(): Generator<Uint8Array> {
    yield directory;
    yield new Uint8Array(padded(directory.length) - directory.length);
    for (const tensor of tensors) {
      const bytes = tensorBytes(tensor);
      let written = 0;
      for (const piece of tensor.data()) {
        written += piece.length;
        yield piece;
      }
      if (written !== bytes) throw new Error(`${tensor.name}: ${written} bytes, expected ${bytes}`);
      yield new Uint8Array(padded(bytes) - bytes);
    }
  }
  writeAtomic(path, chunks(), io);
}

function createBytes() {
  const parts: Buffer[] = [];
  const number = (bytes: number, write: (buffer: Buffer) => void) => {
    const buffer = Buffer.alloc(bytes);
    write(buffer);
    parts.push(buffer);
  };
  const raw = (bytes: Buffer) => void parts.push(bytes);
  const u32 = (value: number) => number(4, (buffer) => buffer.writeUInt32LE(value));
  const u64 = (value: number) => number(8, (buffer) => buffer.writeBigUInt64LE(BigInt(value)));
  const text = (value: string) => {
    const bytes = Buffer.from(value);
    u64(bytes.length);
    raw(bytes);
  };
  const array = <T>(type: number, values: readonly T[], write: (value: T) => void) => {
    u32(ARRAY);
    u32(type);
    u64(values.length);
    values.forEach((item) => write(item));
  };
  const value = (given: GgufValue) => {
    if ("u32" in given) {
      u32(U32);
      u32(given.u32);
    } else if ("f32" in given) {
      u32(F32);
      number(4, (buffer) => buffer.writeFloatLE(given.f32));
    } else if ("bool" in given) {
      u32(BOOL);
      number(1, (buffer) => buffer.writeUInt8(Number(given.bool)));
    } else if ("text" in given) {
      u32(TEXT);
      text(given.text);
    } else if ("bytes" in given) {
      u32(ARRAY);
      u32(U8);
      u64(given.bytes.length);
      raw(Buffer.from(given.bytes));
    } else if ("texts" in given) array(TEXT, given.texts, text);
    else if ("bools" in given) array(BOOL, given.bools, (item) => number(1, (buffer) => buffer.writeUInt8(Number(item))));
    else if ("i32s" in given) array(I32, given.i32s, (item) => number(4, (buffer) => buffer.writeInt32LE(item)));
    else array(F32, given.f32s, (item) => number(4, (buffer) => buffer.writeFloatLE(item)));
  };
  return { raw, u32, u64, text, value, finish: () => Buffer.concat(parts) };
}
