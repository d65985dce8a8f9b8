/**
 * Products of matrices by the routines of kernels.ts and amx.ts, on the calling thread: blocked as those of assembly/matrix.ts are. A block of B,
 * K_BLOCK x N_BLOCK, is packed into the second-level cache, and panels of rows of A, one after the other, are multiplied with all of it from the first-level
 * cache.
 *
 * An element of the result is a sum of its addend and of products of pairs of k, taken in ascending order in blocks of K_BLOCK. That
 * does not depend on the other elements, so rows may be shared by threads in any way.
 */
import type { Address } from "../../runtime/executor.ts";
import type { Bf16Addresses } from "./executable.ts";
import { ADDEND, LANES, MULTIPLY, TILE_COLUMNS } from "./layout.ts";
import { BF16_SCRATCH, type Bf16Operand, bits, BLOCK_AT, createPacker, K_BLOCK, K_UNIT, N_BLOCK, ONE_BITS } from "./pack.ts";
import { createPanels, padPanel } from "./panels.ts";

export { BF16_SCRATCH };

/** Kinds of addends, as assembly/native.ts has them. */
const KINDS = [
  { kind: ADDEND.none, rows: 0 },
  { kind: ADDEND.matrix, rows: 1 },
  { kind: ADDEND.matrix, rows: 0 },
  { kind: ADDEND.column, rows: 0 },
] as const;

/**
 * out[m, n] = factor op(A) op(B) + C, all in the shared memory; `factorBits` are those of an f32, `addend` is a kind of assembly/native.ts.
 * The factor is for an A of f32. `outStride` are the elements from one row of the output, and of a matrix C, to the next.
 */
export type Bf16Product = (
  a: Readonly<Bf16Operand>,
  b: Readonly<Bf16Operand>,
  c: Address,
  addend: number,
  out: Address,
  m: number,
  n: number,
  k: number,
  factorBits: number,
  outStride: number,
) => void;

/** Makes the products of one thread, with scratch of its own. `base` is the address of the shared memory in the process. */
export function createBf16Product(
  memory: WebAssembly.Memory,
  base: number,
  scratch: Address,
  addresses: Bf16Addresses,
): Bf16Product {
  const packer = createPacker(memory, base, scratch, addresses);
  const { words, pack } = packer;
  const panels = createPanels(packer, addresses);
  const block = scratch + BLOCK_AT;
  /** Packs columns of op(B) as panels of TILE_COLUMNS. */
  const packBlock = (
    b: Readonly<Bf16Operand>,
    column: number,
    columns: number,
    from: number,
    depth: number,
    panelBytes: number,
  ) => {
    for (let i = 0; i < columns; i += LANES) {
      const at = Math.floor(i / TILE_COLUMNS) * panelBytes;
      if (panels.isPadded && !b.transposed && i % TILE_COLUMNS === 0) padPanel(words, (BLOCK_AT + at) / 4, depth);
      const to = block + at + 4 * (i % TILE_COLUMNS);
      pack(b, b.transposed, column + i, Math.min(LANES, columns - i), from, depth, to, 4 * TILE_COLUMNS, ONE_BITS);
    }
  };

  return (a, b, c, addend, out, m, n, k, factorBits, outStride) => {
    const { kind, rows: addendRows } = KINDS[addend]!;
    const steps = Math.ceil(k / K_BLOCK);
    const step = Math.ceil(k / steps / K_UNIT) * K_UNIT;
    const blocks = Math.ceil(n / N_BLOCK);
    const width = Math.ceil(n / blocks / TILE_COLUMNS) * TILE_COLUMNS;
    // Panels of nearly equal height.
    const count = Math.ceil(m / panels.rows);
    const rowOf = (i: number) => Math.floor((i * m) / count);
    // With one block of columns a panel is packed when it is multiplied, and is in the first-level cache then; else once for all blocks.
    const isOnce = blocks > 1;
    const most = isOnce ? Math.ceil(count / Math.ceil(count / panels.count)) : count;
    for (let from = 0; from < k; from += step) {
      const depth = Math.min(step, k - from);
      const panelBytes = 4 * TILE_COLUMNS * ((K_UNIT / 2) * Math.ceil(depth / K_UNIT));
      const take = (panel: number, i: number) =>
        panels.take(panel, a, rowOf(i), rowOf(i + 1) - rowOf(i), from, depth, factorBits);
      for (let first = 0; first < count; first += most) {
        const end = Math.min(count, first + most);
        for (let i = first; isOnce && i < end; i++) take(i - first, i);
        for (let column = 0; column < n; column += width) {
          const columns = Math.min(width, n - column);
          packBlock(b, column, columns, from, depth, panelBytes);
          for (let i = first; i < end; i++) {
            if (!isOnce) take(0, i);
            const row = rowOf(i);
            const target = (out >>> 0) + 4 * (row * outStride + column);
            words[MULTIPLY.b / 4] = block;
            words[MULTIPLY.panelBytes / 4] = panelBytes;
            words[MULTIPLY.panels / 4] = Math.ceil(columns / TILE_COLUMNS);
            words[MULTIPLY.out / 4] = target;
            words[MULTIPLY.outStride / 4] = 4 * outStride;
            words[MULTIPLY.mask / 4] = bits(((columns - 1) % TILE_COLUMNS) + 1);
            if (from > 0) {
              words[MULTIPLY.addend / 4] = target;
              words[MULTIPLY.addendStride / 4] = 4 * outStride;
              words[MULTIPLY.kind / 4] = ADDEND.matrix;
            } else {
              const skipped = kind === ADDEND.column ? row : addendRows * row * outStride + column;
              words[MULTIPLY.addend / 4] = (c >>> 0) + 4 * skipped;
              words[MULTIPLY.addendStride / 4] = 4 * outStride * addendRows;
              words[MULTIPLY.kind / 4] = kind;
            }
            panels.multiply(isOnce ? i - first : 0, rowOf(i + 1) - row, depth);
          }
        }
      }
    }
  };
}
