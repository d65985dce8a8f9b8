/** Products of some rows with a large matrix by the routines of thin.ts, on the calling thread. */
import type { Address } from "../../runtime/executor.ts";
import type { ThinAddresses } from "./executable.ts";
import { ACROSS_COLUMNS, ALONG_COLUMNS, ARGUMENT_BYTES, LANES, PACK, THIN } from "./layout.ts";
import { BF16, bits, routineAt } from "./pack.ts";

/** Bytes of scratch of a thread for the arguments. */
export const THIN_SCRATCH = ARGUMENT_BYTES;

/** Routines as assembly/gemm-thin.ts calls them; strides in bytes. */
export interface ThinProduct {
  /** Turns `rows` rows of `k` terms: to[term][row], as many terms as are a multiple of 16, and rows. */
  turn(from: Address, stride: number, rows: number, k: number, to: Address, toStride: number): void;
  /** out[rows][columns] = A B^T, or what is there plus that: A turned, of up to 16 rows by 16, else of up to 32 by 32; B [columns][k]. */
  along(
    type: number,
    a: Address,
    b: Address,
    out: Address,
    outStride: number,
    rows: number,
    columns: number,
    k: number,
    isSum: number,
    piece: Address,
  ): void;
  /** out[rows][columns] = A B, or what is there plus that: A turned, B [terms][columns], which `next` is read after. */
  across(
    type: number,
    a: Address,
    aStride: number,
    b: Address,
    bStride: number,
    next: Address,
    out: Address,
    outStride: number,
    rows: number,
    columns: number,
    terms: number,
    isSum: number,
    piece: Address,
  ): void;
}

/** Makes the products of one thread. */
export function createThinProduct(
  memory: WebAssembly.Memory,
  base: number,
  scratch: Address,
  addresses: ThinAddresses,
): ThinProduct {
  const turnRows = routineAt(addresses.turn);
  const along = { f32: addresses.along.f32.map(routineAt), bf16: addresses.along.bf16.map(routineAt) };
  const across = { f32: routineAt(addresses.across.f32), bf16: routineAt(addresses.across.bf16) };
  const words = new Uint32Array(memory.buffer, scratch, THIN_SCRATCH / 4);
  const args = base + scratch;
  const lastOf = (count: number, unit: number) => ((count - 1) % unit) + 1;
  const place = (a: Address, b: Address, terms: number, out: Address, outStride: number, rows: number, columns: number) => {
    words[THIN.a / 4] = a;
    words[THIN.b / 4] = b;
    words[THIN.terms / 4] = terms;
    words[THIN.out / 4] = out;
    words[THIN.outStride / 4] = outStride;
    words[THIN.rows / 4] = rows;
    words[THIN.columns / 4] = columns;
  };
  return {
    turn(from, stride, rows, k, to, toStride) {
      for (let row = 0; row < rows; row += LANES) {
        words[PACK.from / 4] = from + row * stride;
        words[PACK.stride / 4] = stride;
        words[PACK.rows / 4] = Math.min(LANES, rows - row);
        words[PACK.steps / 4] = Math.ceil(k / LANES);
        words[PACK.mask / 4] = bits(lastOf(k, LANES));
        words[PACK.to / 4] = to + 4 * row;
        words[PACK.toStride / 4] = toStride;
        turnRows(args, base);
      }
    },
    along(type, a, b, out, outStride, rows, columns, k, isSum, piece) {
      place(a, b, Math.ceil(k / LANES), out, outStride, rows, columns);
      words[THIN.bStride / 4] = k * (type === BF16 ? 2 : 4);
      words[THIN.isSum / 4] = isSum;
      words[THIN.piece / 4] = piece;
      words[THIN.mask / 4] = bits(lastOf(columns, ALONG_COLUMNS));
      words[THIN.last / 4] = bits(lastOf(k, LANES));
      along[type === BF16 ? "bf16" : "f32"][rows > LANES ? 1 : 0]!(args, base);
    },
    across(type, a, aStride, b, bStride, next, out, outStride, rows, columns, terms, isSum, piece) {
      place(a, b, terms, out, outStride, rows, columns);
      words[THIN.aStride / 4] = aStride;
      words[THIN.bStride / 4] = bStride;
      words[THIN.isSum / 4] = isSum;
      words[THIN.piece / 4] = piece;
      words[THIN.next / 4] = next;
      const lines = Math.max(1, Math.floor((columns * (type === BF16 ? 2 : 4)) / 64));
      words[THIN.nextLines / 4] = lines;
      words[THIN.nextSkip / 4] = Math.max(0, bStride - 64 * lines);
      const last = lastOf(columns, ACROSS_COLUMNS);
      words[THIN.mask / 4] = bits(Math.min(32, last));
      words[THIN.mask / 4 + 1] = bits(Math.max(0, last - 32));
      across[type === BF16 ? "bf16" : "f32"](args, base);
    },
  };
}
