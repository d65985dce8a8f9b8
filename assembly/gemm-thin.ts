/**
 * Products of some rows with a large matrix by machine code (src/wasm/machine-code/thin.ts), threads sharing the columns. A is turned by each thread for
 * itself, so many rows at a time that they stay in the second-level cache. B is read as it is stored, or, where the code does not know its type, widened
 * before.
 *
 * An element is a sum in ascending order of k, to which what was there is added at last (`transB`) or first, whatever the rows, columns and threads.
 */
import { threadCount, threadIndex, THREAD_SCRATCH, threadScratch } from "./command";
import { widenRun } from "./gemm-columns";
import { BF16, F32, floatBytes } from "./half";
import { thinAcross, thinAlong, thinTurn } from "./native";

/** Terms of a piece, room for one, and columns of tiles: as src/wasm/machine-code/layout.ts has them. */
export const PIECE: i32 = 128;
const LEAST_PIECE: i32 = 32;
export const PIECE_BYTES: i32 = 24576;
const ALONG_COLUMNS: i32 = 14;
export const ACROSS_COLUMNS: i32 = 48;
/** Columns at which tiles and blocks of codes both begin. */
const CODE_COLUMNS: i32 = 192;

/** Rows of a tile, where terms lie side by side. */
const GROUP: i32 = 32;
/** Most terms of a product, and bytes of A turned. */
const MOST_TERMS: i32 = 7168;
const TURNED_BYTES: i32 = MOST_TERMS * GROUP * 4;
/** Bytes of B that are multiplied with all rows before the next are read: the second-level cache has them with A. */
const CACHED_BYTES: i32 = 1 << 19;
const WIDENED_BYTES: i32 = THREAD_SCRATCH - PIECE_BYTES - TURNED_BYTES;
/** Most rows that are turned where only a piece of k is. */
const MOST_ROWS: i32 = 1024;

/** This thread's columns of out[m, n] = A op(B), or with `isSum` of what is there plus that. A is f32 [m, k], B as in gemm-columns.ts. */
export function thinProduct(
  a: usize, b: usize, bType: i32, scales: usize, transB: bool, isSum: bool, out: usize, m: i32, n: i32, k: i32,
): void {
  if (m <= 0) return;
  const unit = transB ? ALONG_COLUMNS : scales ? CODE_COLUMNS : ACROSS_COLUMNS;
  const units = (n + unit - 1) / unit;
  const first = <i32>(<i64>units * threadIndex / threadCount) * unit;
  const end = min(n, <i32>(<i64>units * (threadIndex + 1) / threadCount) * unit);
  if (first >= end) return;
  if (transB) along(a, b, bType, scales, isSum, out, m, n, k, first, end);
  else across(a, b, bType, scales, isSum, out, m, n, k, first, end);
}

// @ts-ignore: decorator
@inline
function isStored(type: i32, scales: usize): bool {
  return !scales && (type == F32 || type == BF16);
}

function along(
  a: usize, b: usize, bType: i32, scales: usize, isSum: bool, out: usize, m: i32, n: i32, k: i32, first: i32, end: i32,
): void {
  const turned = threadScratch + PIECE_BYTES, widened = turned + TURNED_BYTES;
  const stored = isStored(bType, scales);
  const termBytes = (k + 15) / 16 * 64;
  const most = max(GROUP, TURNED_BYTES / termBytes / GROUP * GROUP);
  const width = stored && m <= GROUP ? n : max(1, (stored ? CACHED_BYTES : WIDENED_BYTES) / 4 / k / ALONG_COLUMNS) * ALONG_COLUMNS;
  for (let row = 0; row < m; row += most) {
    const last = min(m, row + most);
    for (let r = row; r < last; r += GROUP) {
      const rows = min(GROUP, last - r);
      thinTurn(a + (<usize>(r * k) << 2), k << 2, rows, k, turned + (r - row) * termBytes, rows > 16 ? 128 : 64);
    }
    for (let column = first; column < end; column += width) {
      const columns = min(width, end - column);
      const from = <usize>column * k;
      if (!stored) widenRun(b, bType, scales, from, columns * k, widened);
      const right = stored ? b + floatBytes(bType, from) : widened;
      for (let r = row; r < last; r += GROUP) {
        const target = out + (<usize>(r * n + column) << 2);
        thinAlong(
          stored ? bType : F32, turned + (r - row) * termBytes, right, target, n << 2, min(GROUP, last - r), columns, k, isSum, threadScratch,
        );
      }
    }
  }
}

function across(
  a: usize, b: usize, bType: i32, scales: usize, isSum: bool, out: usize, m: i32, n: i32, k: i32, first: i32, end: i32,
): void {
  const turned = threadScratch + PIECE_BYTES, widened = turned + TURNED_BYTES;
  const stored = isStored(bType, scales);
  const width = stored ? n : WIDENED_BYTES / 4 / PIECE / CODE_COLUMNS * CODE_COLUMNS;
  // This block and the next are in the second-level cache, in which the next is asked for.
  let depth = PIECE;
  while (stored && depth > LEAST_PIECE && <i32>floatBytes(bType, (end - first) * depth) > CACHED_BYTES) depth >>= 1;
  for (let row = 0; row < m; row += MOST_ROWS) {
    const rows = min(MOST_ROWS, m - row);
    const rowBytes = (rows + 15) / 16 * 64;
    for (let term = 0; term < k; term += depth) {
      const terms = min(depth, k - term);
      thinTurn(a + (<usize>(row * k + term) << 2), k << 2, rows, terms, turned, rowBytes);
      for (let column = first; column < end; column += width) {
        const columns = min(width, end - column);
        const from = <usize>term * n + column;
        const target = out + (<usize>(row * n + column) << 2);
        const adds = isSum || term > 0;
        if (stored) {
          const right = b + floatBytes(bType, from), line = <i32>floatBytes(bType, n);
          thinAcross(bType, turned, rowBytes, right, line, right + line * depth, target, n << 2, rows, columns, terms, adds, threadScratch);
          continue;
        }
        for (let p = 0; p < terms; p++) widenRun(b, bType, scales, from + <usize>p * n, columns, widened + (<usize>(p * columns) << 2));
        thinAcross(F32, turned, rowBytes, widened, columns << 2, widened, target, n << 2, rows, columns, terms, adds, threadScratch);
      }
    }
  }
}
