/**
 * Products A^T B of which one side is short, a rank, by machine code (src/wasm/machine-code/thin.ts): gradients of adapters. Both operands have the terms of
 * a sum apart, as the code wants them, so they are read where they lie; threads share the long side. Where the short side is the columns, sums of the transposed
 * product are turned in the end.
 *
 * An element is C plus sums of at most CHAIN products each, in ascending order of k, whatever the threads: errors of a sum grow with its length.
 */
import { threadCount, threadIndex, threadScratch } from "./command";
import { ACROSS_COLUMNS, PIECE, PIECE_BYTES } from "./gemm-thin";
import { F32 } from "./half";
import { loadSome, storeSome } from "./lanes";
import { thinAcross, thinTurn } from "./native";

/** Terms that are summed one after the other. */
const CHAIN: i32 = 512;

/** Rows of a tile, as src/wasm/machine-code/layout.ts has it. */
const ACROSS_ROWS: i32 = 8;

/** Most rows, as src/ops/gemm-kernels.ts has it, and most columns at a time: sums and what they are turned into fit the scratch. */
const MOST_ROWS: i32 = 64;
const MOST_COLUMNS: i32 = 2016;
const LINED_BYTES: i32 = PIECE * MOST_ROWS * 4;
const SUMS_BYTES: i32 = MOST_ROWS * MOST_COLUMNS * 4;
/** Bytes of the long operand at a time, of which the next are asked for: the second-level cache has both. */
const CACHED_BYTES: i32 = 1 << 18;
const LEAST_PIECE: i32 = 16;

/** This thread's part of out[m, n] = alpha A^T B + C, all f32, A stored [k, m], B [k, n]; C is [m, n], may be out, or 0. */
export function shortProduct(a: usize, b: usize, c: usize, out: usize, m: i32, n: i32, k: i32, alpha: f32): void {
  const isTurned = n < m;
  const rows = isTurned ? n : m, columns = isTurned ? m : n;
  const units = (columns + ACROSS_COLUMNS - 1) / ACROSS_COLUMNS;
  const first = <i32>(<i64>units * threadIndex / threadCount) * ACROSS_COLUMNS;
  const end = min(columns, <i32>(<i64>units * (threadIndex + 1) / threadCount) * ACROSS_COLUMNS);
  for (let column = first; column < end; column += MOST_COLUMNS) {
    const count = min(MOST_COLUMNS, end - column);
    for (let term = 0; term < k; term += CHAIN) {
      const terms = min(CHAIN, k - term);
      const left = a + rowBytes(term, m), right = b + rowBytes(term, n), addend = term ? out : c;
      if (isTurned) turned(right, left, addend, out, rows, columns, terms, alpha, column, count);
      else straight(left, right, addend, out, rows, columns, terms, alpha, column, count);
    }
  }
}

// @ts-ignore: decorator
@inline
function rowBytes(row: i32, columns: i32): usize {
  return <usize>row * columns << 2;
}

/** out[rows][count] = alpha A^T B of `count` columns of B from `column` on: A [k][rows], B [k][columns]. */
function sum(
  a: usize, b: usize, out: usize, outStride: i32, rows: i32, columns: i32, k: i32, alpha: f32, column: i32, count: i32,
): void {
  const lined = threadScratch + PIECE_BYTES;
  const width = (rows + ACROSS_ROWS - 1) / ACROSS_ROWS * ACROSS_ROWS;
  const isLined = alpha == 1 && width == rows;
  const line = columns << 2;
  let depth = PIECE;
  while (depth > LEAST_PIECE && depth * count << 2 > CACHED_BYTES) depth >>= 1;
  for (let term = 0; term < k; term += depth) {
    const terms = min(depth, k - term);
    const from = a + rowBytes(term, rows);
    if (!isLined) lineUp(from, terms, rows, alpha, lined, width);
    const right = b + rowBytes(term, columns) + (<usize>column << 2);
    thinAcross(
      F32, isLined ? from : lined, width << 2, right, line, right + line * depth, out, outStride, rows, count, terms, term > 0, threadScratch,
    );
  }
}

/** to[terms][width] = alpha a[terms][rows]; what is behind the rows is never added to anything that is kept. */
function lineUp(a: usize, terms: i32, rows: i32, alpha: f32, to: usize, width: i32): void {
  const factor = f32x4.splat(alpha);
  for (let term = 0; term < terms; term++, to += <usize>width << 2) {
    for (let i = 0; i < rows; i += 4) {
      const lanes = min(4, rows - i), at = <usize>i << 2;
      v128.store(to + at, f32x4.mul(lanes == 4 ? v128.load(a + at) : loadSome(a + at, lanes), factor));
    }
    a += rowBytes(1, rows);
  }
}

/** Columns [column, column + count) of out[rows, columns] = alpha A^T B + C. */
function straight(
  a: usize, b: usize, c: usize, out: usize, rows: i32, columns: i32, k: i32, alpha: f32, column: i32, count: i32,
): void {
  const at = <usize>column << 2;
  if (!c) {
    sum(a, b, out + at, columns << 2, rows, columns, k, alpha, column, count);
    return;
  }
  const sums = threadScratch + PIECE_BYTES + LINED_BYTES;
  sum(a, b, sums, count << 2, rows, columns, k, alpha, column, count);
  for (let row = 0; row < rows; row++) {
    const line = sums + rowBytes(row, count), skipped = at + rowBytes(row, columns);
    add(line, c + skipped, out + skipped, count);
  }
}

/** y[n] = x[n] + c[n], without the addend where c is 0; y may be c. */
// @ts-ignore: decorator
@inline
function add(x: usize, c: usize, y: usize, n: i32): void {
  for (let i = 0; i < n; i += 4) {
    const lanes = min(4, n - i), at = <usize>i << 2;
    let value = v128.load(x + at);
    if (c) value = f32x4.add(value, lanes == 4 ? v128.load(c + at) : loadSome(c + at, lanes));
    if (lanes == 4) v128.store(y + at, value);
    else storeSome(y + at, value, lanes);
  }
}

/** Rows [column, column + count) of out[columns, rows] = alpha B^T A + C. */
function turned(
  a: usize, b: usize, c: usize, out: usize, rows: i32, columns: i32, k: i32, alpha: f32, column: i32, count: i32,
): void {
  const sums = threadScratch + PIECE_BYTES + LINED_BYTES, lines = sums + SUMS_BYTES;
  const lineBytes = <usize>(rows + 15) / 16 << 6;
  sum(a, b, sums, count << 2, rows, columns, k, alpha, column, count);
  thinTurn(sums, count << 2, rows, count, lines, <i32>lineBytes);
  const skipped = rowBytes(column, rows);
  out += skipped;
  if (c) c += skipped;
  for (let line = lines, last = lines + <usize>count * lineBytes; line < last; line += lineBytes) {
    add(line, c, out, rows);
    out += rowBytes(1, rows);
    if (c) c += rowBytes(1, rows);
  }
}
