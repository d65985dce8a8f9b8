import { UserError } from "../base/errors.ts";
import type { Shape } from "../graph/types.ts";
import { fromFloat32 } from "../base/float16.ts";
import { run } from "../models/families/orders.ts";
import { GGML_TYPES } from "./blocks/types.ts";
import type { GgufType } from "./write.ts";

/** The type that a tensor gets: vectors stay f32, and rows that are no whole blocks go to f16. */
export function typeFor(wanted: GgufType, shape: Shape): GgufType {
  if (shape.length < 2) return "f32";
  return shape.at(-1)! % GGML_TYPES[wanted].elements === 0 ? wanted : "f16";
}

/** Gives the matrix that makes the logits 8 bits in a model of 4, as `llama-quantize` too gives it more. */
export function headType(wanted: GgufType): GgufType {
  return wanted === "q4_0" ? "q8_0" : wanted;
}

/** The greatest |x| that a type holds: scales of blocks are f16, of which 65504 is the greatest. */
const GREATEST: Readonly<Record<GgufType, number>> = {
  f32: Infinity,
  bf16: Infinity,
  f16: 65504,
  q8_0: 65504 * 127,
  q4_0: 65504 * 8,
};

/** @throws {UserError} a number that the type does not hold; `name` is the tensor's */
export function encode(values: Float32Array, type: GgufType, name: string): Uint8Array {
  const greatest = GREATEST[type];
  const beyond = greatest === Infinity ? undefined : values.find((value) => Math.abs(value) > greatest);
  if (beyond !== undefined) throw new UserError(`${name} holds ${beyond}, which ${type} does not: take --type bf16 or f32`);
  if (type === "q8_0") return quantise8(values);
  return type === "q4_0" ? quantise4(values) : fromFloat32(values, type);
}

/**
 * q8_0: blocks of 32 elements, d = greatest |x| / 127 as f16, then q = x / d rounded half away from zero, as i8; x ~ d q.
 */
function quantise8(values: Float32Array): Uint8Array {
  const blocks = values.length / 32;
  const bytes = new Uint8Array(blocks * 34);
  const signed = new Int8Array(bytes.buffer);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    const from = 32 * block;
    const to = 34 * block;
    let greatest = 0;
    for (let i = 0; i < 32; i++) greatest = Math.max(greatest, Math.abs(values[from + i]!));
    const d = Math.fround(greatest / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    view.setFloat16(to, d, true);
    for (let i = 0; i < 32; i++) {
      const scaled = Math.fround(values[from + i]! * inverse);
      signed[to + 2 + i] = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5);
    }
  }
  return bytes;
}

/**
 * q4_0: blocks of 32 elements, d = (the x of the greatest |x|, the first of equals) / -8 as f16, then q = x / d + 8 rounded half up,
 * at most 15; x ~ d (q - 8). Byte i holds element i in its low half and element i + 16 in its high half.
 */
function quantise4(values: Float32Array): Uint8Array {
  const blocks = values.length / 32;
  const bytes = new Uint8Array(blocks * 18);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    const from = 32 * block;
    const to = 18 * block;
    let greatest = 0;
    for (let i = 0; i < 32; i++) if (Math.abs(values[from + i]!) > Math.abs(greatest)) greatest = values[from + i]!;
    const d = greatest / -8;
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    view.setFloat16(to, d, true);
    const quant = (x: number) => Math.min(15, Math.floor(Math.fround(Math.fround(x * inverse) + 8.5)));
    for (let i = 0; i < 16; i++) bytes[to + 2 + i] = quant(values[from + i]!) | (quant(values[from + 16 + i]!) << 4);
  }
  return bytes;
}

/** A matrix, of which rows or columns are left out or change places; null: they stay. `values` is [rows, columns]. */
export function gathered(
  values: Float32Array,
  columns: number,
  rowOrder: readonly number[] | null,
  columnOrder: readonly number[] | null,
): Float32Array {
  const rows = rowOrder ?? run(values.length / columns);
  const width = columnOrder?.length ?? columns;
  const out = new Float32Array(rows.length * width);
  rows.forEach((row, at) => {
    const from = row * columns;
    if (columnOrder === null) out.set(values.subarray(from, from + columns), at * columns);
    else for (let i = 0; i < width; i++) out[at * width + i] = values[from + columnOrder[i]!]!;
  });
  return out;
}
