import { readFileSync } from "node:fs";
import { toFloat32 } from "../../src/base/float16.ts";

/** A reader of GGUF files, written against the format's description: for tests. */
export interface GgufFile {
  readonly metadata: ReadonlyMap<string, unknown>;
  readonly tensors: ReadonlyMap<string, GgufEntry>;
}

export interface GgufEntry {
  /** ggml's number of the type. */
  readonly type: number;
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly offset: number;
  values(): Float32Array;
}

export function readGguf(path: string): GgufFile {
  const bytes = readFileSync(path);
  let at = 0;
  const take = (count: number): Buffer => {
    if (at + count > bytes.length) throw new Error(`${path} ends within a value`);
    return bytes.subarray(at, (at += count));
  };
  const u32 = () => take(4).readUInt32LE();
  const u64 = () => Number(take(8).readBigUInt64LE());
  const text = () => take(u64()).toString("utf8");
  const value = (type: number): unknown => {
    switch (type) {
      case 0:
        return take(1).readUInt8();
      case 4:
        return u32();
      case 5:
        return take(4).readInt32LE();
      case 6:
        return take(4).readFloatLE();
      case 7:
        return take(1).readUInt8() === 1;
      case 8:
        return text();
      case 9: {
        const element = u32();
        return Array.from({ length: u64() }, () => value(element));
      }
      default:
        throw new Error(`${path}: metadata of type ${type}`);
    }
  };
  if (take(4).toString() !== "GGUF" || u32() !== 3) throw new Error(`${path} is not GGUF version 3`);
  const [tensorCount, keyCount] = [u64(), u64()];
  const metadata = new Map(Array.from({ length: keyCount }, () => [text(), value(u32())] as const));
  const entries = Array.from({ length: tensorCount }, () => {
    const name = text();
    const shape = Array.from({ length: u32() }, u64).reverse();
    return { name, shape, type: u32(), offset: u64() };
  });
  const data = Math.ceil(at / 32) * 32;
  const tensors = new Map(
    entries.map(({ name, shape, type, offset }) => {
      const count = shape.reduce((product, dim) => product * dim, 1);
      return [name, { type, shape, offset, values: () => decode(bytes, data + offset, type, count) }] as const;
    }),
  );
  return { metadata, tensors };
}

function decode(bytes: Buffer, from: number, type: number, count: number): Float32Array {
  const part = (length: number) => {
    if (from + length > bytes.length) throw new Error("a tensor reaches beyond the file");
    return bytes.subarray(from, from + length);
  };
  switch (type) {
    case 0:
      return toFloat32(part(4 * count), "f32");
    case 1:
      return toFloat32(part(2 * count), "f16");
    case 30:
      return toFloat32(part(2 * count), "bf16");
    case 2: {
      const blocks = part((count / 32) * 18);
      const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.length);
      return Float32Array.from({ length: count }, (_, i) => {
        const block = Math.floor(i / 32) * 18;
        const pair = view.getUint8(block + 2 + (i % 16));
        return view.getFloat16(block, true) * ((i % 32 < 16 ? pair & 15 : pair >> 4) - 8);
      });
    }
    case 8: {
      const blocks = part((count / 32) * 34);
      const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.length);
      return Float32Array.from({ length: count }, (_, i) => {
        const block = Math.floor(i / 32) * 34;
        return view.getFloat16(block, true) * view.getInt8(block + 2 + (i % 32));
      });
    }
    case 39: {
      // MXFP4: 2 ** (e - 127) times a number of E2M1.
      const blocks = part((count / 32) * 17);
      const magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6];
      return Float32Array.from({ length: count }, (_, i) => {
        const block = Math.floor(i / 32) * 17;
        const pair = blocks[block + 1 + (i % 16)]!;
        const code = i % 32 < 16 ? pair & 15 : pair >> 4;
        return (code < 8 ? 1 : -1) * magnitudes[code & 7]! * 2 ** (blocks[block]! - 127);
      });
    }
    default:
      throw new Error(`tensor of type ${type}`);
  }
}
