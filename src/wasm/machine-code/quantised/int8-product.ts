/**
 * Products of f32 rows with a matrix of 8-bit codes by the routines of int8.ts, on the calling thread, blocked as those of ../product.ts are: panels of A are quantised
 * once for all columns, and a block of B is packed for all panels. An element of the result is a sum of its addend and of blocks of 64 terms in ascending order,
 * whatever else is computed with it.
 */
import type { Address } from "../../../runtime/executor.ts";
import type { Int8Addresses } from "../executable.ts";
import { ARGUMENT_BYTES, INT8, INT8_BLOCK, INT8_ROWS, LANES, PACK, QUANTISE, QUANTISED } from "../layout.ts";
import { bits, routineAt } from "../pack.ts";

/** Most blocks of terms, columns and panels of A at a time. */
const MOST_BLOCKS = 16;
const MOST_COLUMNS = 512;
const MOST_PANELS = 20;

const PANEL_OF_A = 2 * MOST_BLOCKS * QUANTISED.bytes;
/** Bytes of a block of a panel of B: codes, and scales. */
const [CODES, SCALES] = [INT8_BLOCK * LANES, 4 * LANES] as const;
const B_AT = MOST_PANELS * PANEL_OF_A;

/** Bytes of arguments, and of room for what is packed, that a thread needs, 64-byte aligned. */
export const INT8_SCRATCH = 4 * ARGUMENT_BYTES;
export const INT8_ROOM = B_AT + (MOST_COLUMNS / LANES) * MOST_BLOCKS * (CODES + SCALES);

/**
 * out[m, n] = alpha A B^T + C, all in the shared memory: A f32 [m, k], B codes i8 [n, k] with scales f32 [n, k / 64], C f32 [m, n] (maybe the output), one row [n]
 * (`cStride` 0), or absent (`c` 0).
 */
export type Int8Product = (
  a: Address,
  codes: Address,
  scales: Address,
  c: Address,
  cStride: number,
  out: Address,
  m: number,
  n: number,
  k: number,
  alpha: number,
) => void;

/** Makes the products of one thread, with scratch and room of its own. `base` is the address of the shared memory in the process. */
export function createInt8Product(
  memory: WebAssembly.Memory,
  base: number,
  scratch: Address,
  room: Address,
  addresses: Int8Addresses,
): Int8Product {
  const [quantise, packCodes, packScales] = [
    routineAt(addresses.quantise),
    routineAt(addresses.packCodes),
    routineAt(addresses.packScales),
  ];
  const multiply = addresses.multiply.map(routineAt);
  const words = new Uint32Array(memory.buffer, scratch, INT8_SCRATCH / 4);
  const floats = new Float32Array(memory.buffer, scratch, INT8_SCRATCH / 4);
  const args = base + scratch;
  const panelOfA = (i: number): Address => room + i * PANEL_OF_A;
  const blockOfB = room + B_AT;

  const entries = new Uint8Array(MOST_PANELS);
  words[QUANTISE.ones / 4] = 0x01010101;
  floats[QUANTISE.one / 4] = 1;
  floats[QUANTISE.nothing / 4] = -0;

  /** Rows of A from `row` on, and `blocks` blocks of their terms. */
  const take = (panel: number, a: Address, k: number, row: number, rows: number, from: number, blocks: number, alpha: number) => {
    words[QUANTISE.from / 4] = (a >>> 0) + 4 * (row * k + from);
    words[QUANTISE.stride / 4] = 4 * k;
    words[QUANTISE.rows / 4] = rows;
    words[QUANTISE.steps / 4] = blocks;
    words[QUANTISE.to / 4] = panelOfA(panel);
    floats[QUANTISE.factor / 4] = alpha;
    floats[QUANTISE.most / 4] = MOST_CODE;
    floats[QUANTISE.perMost / 4] = 1 / MOST_CODE;
    floats[QUANTISE.least / 4] = LEAST_MAGNITUDE;
    words[QUANTISE.absolute / 4] = 0x7fffffff;
    words[QUANTISE.excess / 4] = EXCESS;
    floats[QUANTISE.uneven / 4] = UNEVEN;
    floats[QUANTISE.finer / 4] = FINER;
    floats[QUANTISE.perFiner / 4] = 1 / FINER;
    quantise(args, base);
    entries[panel] = words[QUANTISE.entries / 4]!;
  };
  /** Columns of B, and `blocks` blocks of their terms, as panels of 16. */
  const packB = (codes: Address, scales: Address, k: number, column: number, columns: number, from: number, blocks: number) => {
    words[PACK.mask / 4] = bits(blocks);
    words[QUANTISE.excess / 4] = EXCESS;
    for (let i = 0; i < columns; i += LANES) {
      const to = blockOfB + (i / LANES) * blocks * (CODES + SCALES);
      words[PACK.rows / 4] = Math.min(LANES, columns - i);
      // A panel's scales are written as if there were 16 blocks, over what is packed next.
      words[PACK.from / 4] = (scales >>> 0) + 4 * (((column + i) * k + from) / INT8_BLOCK);
      words[PACK.stride / 4] = 4 * (k / INT8_BLOCK);
      words[PACK.steps / 4] = 1;
      words[PACK.to / 4] = to + blocks * CODES;
      words[PACK.toStride / 4] = SCALES;
      packScales(args, base);
      words[PACK.from / 4] = (codes >>> 0) + (column + i) * k + from;
      words[PACK.stride / 4] = k;
      words[PACK.steps / 4] = blocks;
      words[PACK.to / 4] = to;
      words[PACK.toStride / 4] = 4 * LANES;
      packCodes(args, base);
    }
  };

  return (a, codes, scales, c, cStride, out, m, n, k, alpha) => {
    const all = k / INT8_BLOCK;
    const step = Math.ceil(all / Math.ceil(all / MOST_BLOCKS));
    const width = LANES * Math.ceil(n / Math.ceil(n / MOST_COLUMNS) / LANES);
    // Panels of nearly equal height.
    const count = Math.ceil(m / INT8_ROWS);
    const rowOf = (i: number) => Math.floor((i * m) / count);
    const most = Math.ceil(count / Math.ceil(count / MOST_PANELS));
    for (let block = 0; block < all; block += step) {
      const [from, blocks] = [block * INT8_BLOCK, Math.min(step, all - block)];
      for (let first = 0; first < count; first += most) {
        const end = Math.min(count, first + most);
        for (let i = first; i < end; i++) take(i - first, a, k, rowOf(i), rowOf(i + 1) - rowOf(i), from, blocks, alpha);
        for (let column = 0; column < n; column += width) {
          const columns = Math.min(width, n - column);
          packB(codes, scales, k, column, columns, from, blocks);
          for (let i = first; i < end; i++) {
            const row = rowOf(i);
            const target = (out >>> 0) + 4 * (row * n + column);
            words[INT8.a / 4] = panelOfA(i - first);
            words[INT8.b / 4] = blockOfB;
            words[INT8.toScales / 4] = blocks * CODES;
            words[INT8.panelBytes / 4] = blocks * (CODES + SCALES);
            words[INT8.panels / 4] = Math.ceil(columns / LANES);
            words[INT8.entries / 4] = entries[i - first]!;
            words[INT8.isSum / 4] = Number(block > 0 || c !== 0);
            words[INT8.addend / 4] = block > 0 ? target : (c >>> 0) + cStride * row + 4 * column;
            words[INT8.addendStride / 4] = block > 0 ? 4 * n : cStride;
            words[INT8.out / 4] = target;
            words[INT8.outStride / 4] = 4 * n;
            words[INT8.mask / 4] = bits(((columns - 1) % LANES) + 1);
            multiply[rowOf(i + 1) - row - 1]!(args, base);
          }
        }
      }
    }
  };
}

const MOST_CODE = 127;
/** Codes of rests in a step. */
const FINER = 254;
/** A block's mean magnitude is less than a sixteenth of its greatest one then; of normally distributed values it is a third, of products of two such an eighth. */
const UNEVEN = (INT8_BLOCK * MOST_CODE) / 16;
/** 127 over less than this is no f32. */
const LEAST_MAGNITUDE = 2 ** -120;
/** 128 in each byte. */
const EXCESS = 0x80808080;
