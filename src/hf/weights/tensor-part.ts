/** Matrices that lie in a tensor together with others, as those of all experts of a block do. Plain data and arithmetic, for any thread. */
import { DTYPE_BYTES } from "../../base/dtype.ts";
import { createGgmlReader, type GgmlLayout } from "./ggml-part.ts";
import type { Slab, SlabReader } from "./slab.ts";

/** How the elements of a matrix [rows, columns] lie in a slab, which it shares with other matrices, or in ggml's blocks. */
export type PartLayout =
  /** Element (r, c) is element first + r rowStep + c columnStep, of `size` bytes. */
  | {
      readonly kind: "steps";
      readonly columns: number;
      readonly size: 2 | 4;
      readonly first: number;
      readonly rowStep: number;
      readonly columnStep: number;
    }
  /**
   * MXFP4 (OCP Microscaling Formats 1.0): row r is row first + r rowStep of the slabs, which hold 16 bytes for each 32 numbers, of which the lower
   * half of a byte comes first, and in the second slab their exponent with a bias of 127. Read, they are bf16, which has all of these numbers.
   */
  | { readonly kind: "mxfp4"; readonly columns: number; readonly first: number; readonly rowStep: number }
  | GgmlLayout;

/** A matrix within one slab, two of MXFP4, or those of all tensors of a GGUF file that it is made of. */
export interface TensorPart {
  readonly layout: PartLayout;
  readonly slabs: readonly Slab[];
}

/** Numbers that share an exponent. */
export const MXFP4_BLOCK = 32;
const BLOCK_BYTES = MXFP4_BLOCK / 2;

/** The numbers of the codes without a sign; codes from 8 on are their negatives. */
const MXFP4_VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** The bf16 of each code under each exponent: [256][16]. */
const mxfp4Table: () => Uint16Array = (() => {
  let table: Uint16Array | null = null;
  return () => {
    if (table !== null) return table;
    const values = new Float32Array(256 * 16);
    for (let exponent = 0; exponent < 256; exponent++)
      for (let code = 0; code < 16; code++) {
        const value = MXFP4_VALUES[code & 7]! * 2 ** (exponent - 127);
        values[exponent * 16 + code] = code < 8 ? value : -value;
      }
    // All are exact: the upper half of an f32 is the bf16.
    table = new Uint16Array(values.buffer).filter((_, i) => i % 2 === 1);
    return table;
  };
})();

/** Writes the matrix's elements from byte `from` on, whole ones, into `target`. @param slabs the bytes of the slabs */
export function gatherPart(
  layout: Exclude<PartLayout, GgmlLayout>,
  slabs: readonly Uint8Array[],
  target: Uint8Array,
  from: number,
): void {
  const { columns } = layout;
  const size = layout.kind === "mxfp4" ? 2 : layout.size;
  const [begin, end] = [from / size, (from + target.length) / size];
  if (!Number.isInteger(begin) || !Number.isInteger(end)) throw new Error(`${target.length} bytes at ${from} cut elements`);
  const out = viewOf(target, size);
  const write = layout.kind === "mxfp4" ? mxfp4Writer(layout, slabs, out) : stepsWriter(layout, slabs[0]!, out);
  for (let at = begin; at < end;) {
    const [row, column] = [Math.floor(at / columns), at % columns];
    const count = Math.min(columns - column, end - at);
    write(row, column, count, at - begin);
    at += count;
  }
}

/** Writes `count` elements of a row from a column on to a place of the target. */
type RowWriter = (row: number, column: number, count: number, to: number) => void;

function stepsWriter(
  { first, rowStep, columnStep, size }: PartLayout & { kind: "steps" },
  slab: Uint8Array,
  out: Elements,
): RowWriter {
  const source = viewOf(slab, size);
  return (row, column, count, to) => {
    let from = first + row * rowStep + column * columnStep;
    for (let i = 0; i < count; i++, from += columnStep) out[to + i] = source[from]!;
  };
}

function mxfp4Writer(
  { columns, first, rowStep }: PartLayout & { kind: "mxfp4" },
  [codes, exponents]: readonly Uint8Array[],
  out: Elements,
): RowWriter {
  const table = mxfp4Table();
  const blocks = columns / MXFP4_BLOCK;
  return (row, column, count, to) => {
    const begin = (first + row * rowStep) * blocks;
    for (let i = 0; i < count; i++) {
      const at = column + i;
      const block = begin + Math.floor(at / MXFP4_BLOCK);
      const byte = codes![block * BLOCK_BYTES + ((at % MXFP4_BLOCK) >> 1)]!;
      out[to + i] = table[exponents![block]! * 16 + (at % 2 === 0 ? byte & 15 : byte >> 4)]!;
    }
  };
}

/** The other way round: puts all elements of a matrix into the slab. */
export function scatterPart(
  { columns, first, rowStep, columnStep, size }: PartLayout & { kind: "steps" },
  matrix: Uint8Array,
  slab: Uint8Array,
): void {
  const [source, out] = [viewOf(matrix, size), viewOf(slab, size)];
  for (let at = 0; at < source.length; at++)
    out[first + Math.floor(at / columns) * rowStep + (at % columns) * columnStep] = source[at]!;
}

type Elements = Uint16Array | Uint32Array;

/** Elements as words; the memory is aligned for them, or copied. */
function viewOf(bytes: Uint8Array, size: 2 | 4): Elements {
  if (bytes.byteOffset % size !== 0) throw new Error(`elements of ${size} bytes at ${bytes.byteOffset}`);
  const { buffer, byteOffset, length } = bytes;
  return size === 2 ? new Uint16Array(buffer, byteOffset, length / size) : new Uint32Array(buffer, byteOffset, length / size);
}

/** Reads parts; of what it read last, all that is near is kept for the next. */
export interface PartReader {
  /**
   * Fills `target` with a matrix's bytes from its byte `from` on.
   * @param read fills memory with the bytes of a slab
   */
  read(part: TensorPart, read: SlabReader, target: Uint8Array, from: number): void;
}

export function createPartReader(): PartReader {
  let kept: { readonly key: string; readonly bytes: readonly Uint8Array[] } | null = null;
  const ggml = createGgmlReader();
  return {
    read({ layout, slabs }, read, target, from) {
      if (layout.kind === "ggml") {
        const size = DTYPE_BYTES[layout.as];
        const [begin, end] = [from / size, (from + target.length) / size];
        if (!Number.isInteger(begin) || !Number.isInteger(end)) throw new Error(`${target.length} bytes at ${from} cut elements`);
        ggml.read(layout, slabs, read, begin, end, target);
        return;
      }
      const key = slabs.map(({ path, offset }) => `${offset} ${path}`).join("\n");
      if (kept?.key !== key) {
        kept = null;
        const bytes = slabs.map((slab) => {
          const memory = new Uint8Array(slab.bytes);
          read(slab, memory, 0);
          return memory;
        });
        kept = { key, bytes };
      }
      gatherPart(layout, kept.bytes, target, from);
    },
  };
}
