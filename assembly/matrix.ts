/**
 * The matrix module: `gemm`, a packed and blocked matrix product (Goto and van de Geijn 2008,
 * https://doi.org/10.1145/1356052.1356053). A block of B, K_BLOCK x N_BLOCK, is packed into the second-level cache; then panels of up
 * to 6 rows of A are packed into the first-level cache one after the other and multiplied with all of it.
 *
 * Every output element is alpha-scaled A times B summed over k in ascending order in blocks of at most K_BLOCK, each block's sum added to the
 * element in turn, starting from C (narrow products add C last). So the result does not depend on the number of threads or on the tile that an element falls into.
 * (Products of a few rows with a transposed B have an order of their own, which depends on their sizes alone as well.)
 */
import { BF16, F16, F32 } from "./half";
import { COLUMNS, ROWS, computeTile } from "./gemm-kernel";
import { mergeTile, mergeTransposed } from "./gemm-merge";
import { packColumns, packRows, panelBytes } from "./gemm-pack";
import { packQuantised } from "./gemm-pack-quantised";
import { fewRowsQuantised } from "./gemm-few-quantised";
import { FEW_ROWS, fewRows } from "./gemm-few-rows";
import { BLOCK } from "./quantised";
export { attentionScores, attentionSums, weightedSum } from "./attention-kernel";

/** Most rows of B in a block, a multiple of 8. A packed panel of A and one of B fit into 32 KiB, the usual first-level cache. */
const K_BLOCK: i32 = 192;
/** Most columns of a block, a multiple of COLUMNS. */
const N_BLOCK: i32 = 1024;
/** Elements of A that `fewRows` may copy: they must fit the scratch. */
const FEW_ELEMENTS: i32 = 1 << 17;
/** A product of at most so many columns and more rows is computed transposed: splatting A costs as much as 8 columns. */
const NARROW: i32 = 64;

// Layout of the scratch: a packed panel of A, a tile, a packed block of B, a block of a transposed output.
const PANEL_BYTES: usize = K_BLOCK * ROWS * 16;
const TILE_BYTES: usize = 256;
const BLOCK_BYTES: usize = K_BLOCK * N_BLOCK * 4;
/** Bytes of scratch that `gemm` needs, 64-byte aligned. */
export const GEMM_SCRATCH: i32 = <i32>(PANEL_BYTES + TILE_BYTES + BLOCK_BYTES) + NARROW * N_BLOCK * 4;

/** First row of row panel `i`: `rows` in `panels` panels of nearly equal height, so that no panel is nearly empty. */
// @ts-ignore: decorator
@inline
function panelStart(i: i32, rows: i32, panels: i32): i32 {
  return i * (rows / panels) + min(i, rows % panels);
}

/**
 * How many parts the rows are split into, a divisor of `threads`; the columns are split into the rest. Cost of one thread, in
 * vector operations per k: products, packing of B (once), packing of A (once per block of columns).
 */
function rowParts(rowPanels: i32, columnPanels: i32, threads: i32): i32 {
  let best = 1;
  let least = i64.MAX_VALUE;
  for (let parts = 1; parts <= threads; parts++) {
    if (threads % parts != 0) continue;
    const rows = <i64>((rowPanels + parts - 1) / parts);
    const columns = <i64>((columnPanels + threads / parts - 1) / (threads / parts));
    const cost = 6 * rows * columns + 5 * columns + 6 * rows * ((columns * COLUMNS + N_BLOCK - 1) / N_BLOCK);
    if (cost < least) {
      least = cost;
      best = parts;
    }
  }
  return best;
}

/** out[m, n] = c, or 0: the product of no columns with no rows. */
function fill(c: usize, cRow: usize, out: usize, outRow: usize, m: i32, n: i32, index: i32, count: i32): void {
  const end = <i32>(<i64>m * (index + 1) / count);
  for (let i = <i32>(<i64>m * index / count); i < end; i++) {
    const to = out + <usize>i * outRow;
    if (c) memory.copy(to, c + <usize>i * cRow, <usize>n << 2);
    else memory.fill(to, 0, <usize>n << 2);
  }
}

/**
 * The part of thread `index` of `count`; all sizes positive, all strides in bytes. If `transposed`, C and the output are [n, m] (m is at
 * most NARROW) instead of [m, n]: the product is formed in scratch and transposed when it is complete. With `scales` B is quantised, and
 * has no strides but `ldb` and `transB`.
 */
function blocked(
  a: usize, aType: i32, aRow: usize, aK: usize, b: usize, bType: i32, bColumn: usize, bK: usize,
  scales: usize, ldb: i32, transB: bool, c: usize, cRow: usize, out: usize, outRow: usize, transposed: bool,
  m: i32, n: i32, k: i32, alpha: f32, index: i32, count: i32, scratch: usize,
): void {
  const rowPanels = (m + ROWS - 1) / ROWS;
  const columnPanels = (n + COLUMNS - 1) / COLUMNS;
  const parts = rowParts(rowPanels, columnPanels, count);
  const across = count / parts;
  const firstPanel = <i32>(<i64>rowPanels * (index / across) / parts);
  const endPanel = <i32>(<i64>rowPanels * (index / across + 1) / parts);
  const part = index % across;
  const firstColumn = <i32>(<i64>columnPanels * part / across) * COLUMNS;
  const endColumn = min(n, <i32>(<i64>columnPanels * (part + 1) / across) * COLUMNS);
  if (firstPanel == endPanel || firstColumn >= endColumn) return;

  const packedRows = scratch;
  const tile = scratch + PANEL_BYTES;
  const packedColumns = tile + TILE_BYTES;
  const block = packedColumns + BLOCK_BYTES;
  // Blocks of nearly equal width, so that no narrow one pays for packing A.
  const blocks = (endColumn - firstColumn + N_BLOCK - 1) / N_BLOCK;
  const width = ((endColumn - firstColumn + blocks - 1) / blocks + COLUMNS - 1) & ~(COLUMNS - 1);

  const steps = (k + K_BLOCK - 1) / K_BLOCK;
  // A multiple of 8: only the last block has a remainder to pack, of 8 halves or of 4 rows. Blocks of codes are not cut.
  const unit = scales ? BLOCK : 8;
  const step = ((k + steps - 1) / steps + unit - 1) & ~(unit - 1);

  for (let j = firstColumn; j < endColumn; j += width) {
    const columns = min(width, endColumn - j);
    const target = transposed ? block : out + (<usize>j << 2);
    const targetRow = transposed ? <usize>width << 2 : outRow;
    for (let p = 0; p < k; p += step) {
      const depth = min(step, k - p);
      const panel = panelBytes(depth);
      if (scales) packQuantised(bType, b, ldb, transB, scales, j, p, columns, depth, packedColumns);
      else packColumns(bType, b + <usize>j * bColumn + <usize>p * bK, bColumn, bK, columns, depth, packedColumns);
      // After the first block of k the target itself holds what the next is added to.
      const addend = p ? target : transposed || !c ? 0 : c + (<usize>j << 2);
      const addRow = p ? targetRow : cRow;
      for (let i = firstPanel; i < endPanel; i++) {
        const row = panelStart(i, m, rowPanels);
        const rows = panelStart(i + 1, m, rowPanels) - row;
        packRows(aType, a + <usize>row * aRow + <usize>p * aK, aRow, aK, rows, depth, alpha, packedRows);
        let pb = packedColumns;
        let add = addend ? addend + <usize>row * addRow : 0;
        let to = target + <usize>row * targetRow;
        for (let left = columns; left > 0; left -= COLUMNS) {
          if (left >= COLUMNS || transposed) {
            computeTile(rows, packedRows, pb, pb + panel, add, addRow, to, targetRow);
          } else {
            computeTile(rows, packedRows, pb, pb + panel, 0, 0, tile, COLUMNS * 4);
            mergeTile(tile, rows, left, add, addRow, to, targetRow);
          }
          pb += panel;
          if (add) add += COLUMNS * 4;
          to += COLUMNS * 4;
        }
      }
    }
    if (transposed) {
      const row = panelStart(firstPanel, m, rowPanels);
      const from = block + <usize>row * targetRow;
      const add = c ? c + <usize>j * cRow + (<usize>row << 2) : 0;
      const to = out + <usize>j * outRow + (<usize>row << 2);
      mergeTransposed(from, targetRow, panelStart(endPanel, m, rowPanels) - row, columns, add, cRow, to, outRow);
    }
  }
}

/**
 * out[m, n] = alpha op(A) op(B) + C, the part of thread `index` of `count`.
 *
 * op(A) is [m, k]: A is stored [m, k], or [k, m] if `transA`; op(B) is [k, n]: B is stored [k, n], or [n, k] if `transB`; both row-major with
 * leading dimensions lda, ldb and element types of half.ts. C (f32) is absent (0), [m, n] with leading dimension ldc, or one row for all (ldc = 0); it may
 * be `out`. Leading dimensions are in elements. `scratch`: GEMM_SCRATCH bytes, this thread's own. With `scales` B is quantised (quantised.ts).
 */
export function gemm(
  a: usize, aType: i32, lda: i32, transA: bool, b: usize, bType: i32, ldb: i32, transB: bool, c: usize, ldc: i32, out: usize, ldo: i32,
  m: i32, n: i32, k: i32, alpha: f32, index: i32, count: i32, scratch: usize, scales: usize,
): void {
  if (m <= 0 || n <= 0) return;
  const cRow = <usize>ldc << 2;
  const outRow = <usize>ldo << 2;
  if (k <= 0) {
    if (c != out) fill(c, cRow, out, outRow, m, n, index, count);
    return;
  }
  const aWidth: usize = aType == F32 ? 4 : 2;
  const lineA = <usize>lda * aWidth;
  const isFew = m <= FEW_ROWS && transB && !transA && aType == F32 && k <= FEW_ELEMENTS;
  const from = <i32>(<i64>n * index / count), to = <i32>(<i64>n * (index + 1) / count);
  const aRow = transA ? aWidth : lineA, aK = transA ? lineA : aWidth;
  if (scales) {
    if (isFew) fewRowsQuantised(bType, a, lineA, b, scales, c, cRow, out, outRow, m, from, to, k, alpha, scratch, FEW_ELEMENTS);
    else blocked(a, aType, aRow, aK, b, bType, 0, 0, scales, ldb, transB, c, cRow, out, outRow, false, m, n, k, alpha, index, count, scratch);
    return;
  }
  const bWidth: usize = bType == F32 ? 4 : 2;
  const lineB = <usize>ldb * bWidth;
  if (isFew) {
    fewRows(bType, a, lineA, b, lineB, c, cRow, out, outRow, m, from, to, k, alpha, scratch, FEW_ELEMENTS);
    return;
  }
  const bColumn = transB ? lineB : bWidth, bK = transB ? bWidth : lineB;
  // With few k packing A costs little compared with writing the output.
  if (n <= NARROW && n < m && k > NARROW) {
    blocked(b, bType, bColumn, bK, a, aType, aRow, aK, 0, 0, false, c, cRow, out, outRow, true, n, m, k, alpha, index, count, scratch);
  } else {
    blocked(a, aType, aRow, aK, b, bType, bColumn, bK, 0, 0, false, c, cRow, out, outRow, false, m, n, k, alpha, index, count, scratch);
  }
}
