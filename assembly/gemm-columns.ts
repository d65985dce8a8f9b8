/**
 * Products of some rows by a native library, threads sharing the columns: where rows are few, each thread would pack all of B for its own. B is taken in
 * blocks of columns, each widened into the thread's scratch where it is not f32 in one piece, so no more of it need be f32 at a time.
 *
 * Blocks are fixed by the sizes: the order in which the library adds up the terms of an element may depend on the block's width.
 */
import { threadCount, threadIndex, THREAD_SCRATCH, threadScratch } from "./command";
import { F32, floatBytes, loadFloats } from "./half";
import { MATRIX, NO_ADDEND, product } from "./native";
import { BLOCK, codeBytes, dequantise } from "./quantised";

/** Columns of a block, multiples of those of a quantised one: so many fit into the scratch with k terms. */
const WIDE: i32 = 128;
const NARROW: i32 = 64;
/** Floats of a block of B, and behind it of the block's part of the output. */
const BLOCK_FLOATS: i32 = THREAD_SCRATCH / 4 / 8 * 7;
const OUT_FLOATS: i32 = THREAD_SCRATCH / 4 / 8;

/** The block's [columns][k], or [k][columns], as f32 without gaps. */
function blockOf(b: usize, type: i32, scales: usize, transB: bool, first: i32, columns: i32, n: i32, k: i32): usize {
  const lines = transB ? 1 : k, count = transB ? columns * k : columns;
  let from = transB ? <usize>first * <usize>k : <usize>first;
  if (type == F32 && transB) return b + (from << 2);
  let to = threadScratch;
  for (let line = 0; line < lines; line++, from += n, to += <usize>count << 2) widenRun(b, type, scales, from, count, to);
  return threadScratch;
}

/** Writes `count` elements of B, in memory one behind the other from `from` on, as f32. */
export function widenRun(b: usize, type: i32, scales: usize, from: usize, count: i32, to: usize): void {
  if (scales) dequantise(type, b + codeBytes(type, from), scales + (from / BLOCK << 2), to, count / BLOCK);
  else if (type == F32) memory.copy(to, b + (from << 2), <usize>count << 2);
  else widenLine(type, b + floatBytes(type, from), to, count);
}

function widenLine(type: i32, from: usize, to: usize, count: i32): void {
  // What is read behind an odd end lies within the 64 bytes that everything is rounded up to, and is written where the next line begins.
  for (const end = to + (<usize>count << 2); to < end; to += 16, from += 8) v128.store(to, loadFloats(from, type));
}

/**
 * This thread's columns of out[m, n] = A op(B), or of what is in out plus that with `isSum`, by a session for no addend, or for a matrix. A is f32
 * [m, k], B of a type of half.ts, or codes with `scales`; k at most what NARROW columns leave room for.
 */
export function columnProduct(
  session: f64, a: usize, b: usize, bType: i32, scales: usize, transB: bool, isSum: bool, out: usize, m: i32, n: i32, k: i32,
): void {
  const width = WIDE * k <= BLOCK_FLOATS ? WIDE : NARROW;
  const blocks = (n + width - 1) / width;
  const end = blocks * (threadIndex + 1) / threadCount;
  const part = threadScratch + (<usize>BLOCK_FLOATS << 2);
  const most = OUT_FLOATS / width;
  for (let i = blocks * threadIndex / threadCount; i < end; i++) {
    const first = i * width, columns = min(width, n - first);
    const bytes = <usize>columns << 2;
    const right = blockOf(b, bType, scales, transB, first, columns, n, k);
    for (let row = 0; row < m; row += most) {
      const rows = min(most, m - row);
      const target = out + ((<usize>row * n + first) << 2);
      if (isSum) for (let r = 0; r < rows; r++) memory.copy(part + <usize>r * bytes, target + (<usize>r * n << 2), bytes);
      product(session, a + ((<usize>row * k) << 2), right, isSum ? part : 0, part, rows, columns, k, false, transB, isSum ? MATRIX : NO_ADDEND);
      for (let r = 0; r < rows; r++) memory.copy(target + (<usize>r * n << 2), part + <usize>r * bytes, bytes);
    }
  }
}
