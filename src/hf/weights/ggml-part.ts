import { DTYPE_BYTES, type FloatType } from "../../base/dtype.ts";
import { fromFloat32 } from "../../base/float16.ts";
import { type Change, undo } from "../../gguf/blocks/change.ts";
import { dequantise } from "../../gguf/blocks/dequantise.ts";
import { GGML_TYPES, type GgmlType } from "../../gguf/blocks/types.ts";
import type { Slab, SlabReader } from "./slab.ts";

/** A matrix that GGUF files have in blocks, in another order, in several tensors or with other numbers. Plain data, for any thread. */
export interface GgmlLayout {
  readonly kind: "ggml";
  /** The model's matrix; a vector is a column, or, where its order is the file's, one row. */
  readonly rows: number;
  readonly columns: number;
  /** The type that it is read as. */
  readonly as: FloatType;
  /** The stored matrix of each slab; together they have each element once. */
  readonly shares: readonly GgmlShare[];
  /** True if the slab has the matrix the other way round. */
  readonly isTransposed: boolean;
  readonly change: Change | null;
}

/** A stored matrix. */
export interface GgmlShare {
  readonly type: GgmlType;
  readonly columns: number;
  /** Which of the model's rows each of its rows is; null: the same. */
  readonly rowOrder: readonly number[] | null;
  /** The same of columns. */
  readonly columnOrder: readonly number[] | null;
}

/** Elements that are widened at a time, but for a row that has more. */
const PIECE = 1 << 18;

/** Memory for the bytes and for the numbers of a piece, which the next piece takes again. */
interface Room {
  bytes(count: number): Uint8Array;
  values(count: number): Float32Array;
}

function createRoom(): Room {
  let [bytes, values] = [new Uint8Array(0), new Float32Array(0)];
  return {
    bytes(count) {
      if (bytes.length < count) bytes = new Uint8Array(count);
      return bytes.subarray(0, count);
    },
    values(count) {
      if (values.length < count) values = new Float32Array(count);
      return values.subarray(0, count);
    },
  };
}

/** Reads elements `begin` to `end` of a matrix. */
export interface GgmlReader {
  read(layout: GgmlLayout, slabs: readonly Slab[], read: SlabReader, begin: number, end: number, target: Uint8Array): void;
}

/** Makes a reader, which keeps what it found about the last matrix for the next piece of it. */
export function createGgmlReader(): GgmlReader {
  const room = createRoom();
  /** Rows of the last layout with an order: which stored row of each share is each of the model's, -1 for none. */
  let places: { readonly layout: GgmlLayout; readonly inverse: readonly (Int32Array | null)[] } | null = null;
  let turned: { readonly layout: GgmlLayout; readonly values: Float32Array } | null = null;
  const inverses = (layout: GgmlLayout) => {
    if (places?.layout !== layout)
      places = { layout, inverse: layout.shares.map(({ rowOrder }) => rowOrder && inverse(rowOrder, layout.rows)) };
    return places.inverse;
  };
  return {
    read(layout, slabs, read, begin, end, target) {
      const { columns, shares, isTransposed, as } = layout;
      const [first] = shares as [GgmlShare];
      let at = 0;
      const put = (values: Float32Array) => {
        if (layout.change) undo(values, layout.change);
        if (as === "f32") target.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), at);
        else target.set(fromFloat32(values, as), at);
        at += values.length * DTYPE_BYTES[as];
      };
      if (isTransposed) {
        if (turned?.layout !== layout) turned = { layout, values: transposed(layout, slabs[0]!, read) };
        put(turned.values.slice(begin, end));
        return;
      }
      turned = null;
      if (shares.length === 1 && first.rowOrder === null && first.columnOrder === null) {
        for (let from = begin; from < end; from += PIECE)
          put(inOrder(first.type, slabs[0]!, read, from, Math.min(from + PIECE, end), room));
        return;
      }
      const step = Math.max(1, Math.floor(PIECE / columns));
      for (let row = Math.floor(begin / columns); row * columns < end; row += step) {
        const next = Math.min(row + step, layout.rows);
        const values = rowsOf(layout, slabs, read, inverses(layout), row, next, room);
        put(values.subarray(Math.max(begin - row * columns, 0), Math.min(end, next * columns) - row * columns));
      }
    },
  };
}

function inverse(order: readonly number[], rows: number): Int32Array {
  const found = new Int32Array(rows).fill(-1);
  order.forEach((row, at) => (found[row] = at));
  return found;
}

/** Elements that follow each other; blocks are read whole. */
function inOrder(type: GgmlType, slab: Slab, read: SlabReader, begin: number, end: number, room: Room): Float32Array {
  const { elements, bytes } = GGML_TYPES[type];
  const [first, last] = [Math.floor(begin / elements), Math.ceil(end / elements)];
  const memory = room.bytes((last - first) * bytes);
  read(slab, memory, first * bytes);
  const values = room.values((last - first) * elements);
  dequantise(type, memory, values);
  return values.subarray(begin - first * elements, end - first * elements);
}

/** The model's rows from `begin` to `end`, gathered from the shares. */
function rowsOf(
  { columns, shares }: GgmlLayout,
  slabs: readonly Slab[],
  read: SlabReader,
  inverses: readonly (Int32Array | null)[],
  begin: number,
  end: number,
  room: Room,
): Float32Array {
  const values = room.values((end - begin) * columns);
  for (const [i, share] of shares.entries()) {
    const found = inverses[i] ?? null;
    const { type, columnOrder } = share;
    const stored = Array.from({ length: end - begin }, (_, at) => (found ? found[begin + at]! : begin + at));
    const there = stored.filter((row) => row >= 0);
    if (there.length === 0) continue;
    const lowest = there.reduce((a, b) => Math.min(a, b));
    const highest = there.reduce((a, b) => Math.max(a, b));
    const rowBytes = (share.columns / GGML_TYPES[type].elements) * GGML_TYPES[type].bytes;
    const memory = room.bytes((highest - lowest + 1) * rowBytes);
    read(slabs[i]!, memory, lowest * rowBytes);
    const one = new Float32Array(share.columns);
    for (const [at, row] of stored.entries()) {
      if (row < 0) continue;
      const bytes = memory.subarray((row - lowest) * rowBytes, (row - lowest + 1) * rowBytes);
      if (columnOrder === null) dequantise(type, bytes, values.subarray(at * columns, at * columns + share.columns));
      else {
        dequantise(type, bytes, one);
        for (let k = 0; k < one.length; k++) values[at * columns + columnOrder[k]!] = one[k]!;
      }
    }
  }
  return values;
}

/** All of a matrix that the slab has the other way round. */
function transposed({ rows, columns, shares }: GgmlLayout, slab: Slab, read: SlabReader): Float32Array {
  const stored = inOrder(shares[0]!.type, slab, read, 0, rows * columns, createRoom());
  const values = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) values[row * columns + column] = stored[column * rows + row]!;
  return values;
}
