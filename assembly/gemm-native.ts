/**
 * Products by a native library that works on the same memory: each thread has it compute its own rows. In the library an
 * element's arithmetic depends neither on how many rows there are, as long as there are two, nor on which they are.
 */
import { THREAD_SCRATCH, threadCount, threadIndex, threadScratch } from "./command";
import { F32 } from "./half";
import { MATRIX, product, takesBf16, typedProduct } from "./native";

/** Fewest rows of a native product. */
export const NATIVE_ROWS: i32 = 16;
/** Rows are handed out four by four, and what remains goes with the last four, so that nobody gets a single row. */
const UNIT: i32 = 4;

/** First row of part `index` of `count`: rows of `units` units, of which the last holds the remainder of `m`. */
// @ts-ignore: decorator
@inline
function partRow(m: i32, units: i32, index: i32, count: i32): i32 {
  return index == count ? m : <i32>(<i64>units * index / count) * UNIT;
}

/**
 * This thread's rows of the product; m is at least NATIVE_ROWS. With `transA` the columns of A are copied to scratch in blocks, but for a product
 * of bf16, whose operands may be of other types.
 */
export function nativeProduct(
  session: f64, a: usize, transA: bool, b: usize, transB: bool, c: usize, addend: i32, out: usize, m: i32, n: i32, k: i32, bType: i32,
): void {
  const units = m / UNIT;
  const first = partRow(m, units, threadIndex, threadCount);
  const rows = partRow(m, units, threadIndex + 1, threadCount) - first;
  if (rows == 0) return;
  const rowBytes = <usize>n << 2;
  out += <usize>first * rowBytes;
  if (addend == MATRIX) c += <usize>first * rowBytes;
  if (takesBf16(session)) {
    const skipped = transA ? <usize>first << 2 : (<usize>first * k) << 2;
    typedProduct(session, a + skipped, b, c, out, rows, n, k, transA, transB, addend, F32, bType, transA ? m : k);
    return;
  }
  if (!transA) {
    product(session, a + ((<usize>first * k) << 2), b, c, out, rows, n, k, false, transB, addend);
    return;
  }
  a += <usize>first << 2;
  const partUnits = rows / UNIT;
  const most = max(1, THREAD_SCRATCH / 4 / k / UNIT - 1);
  const blocks = (partUnits + most - 1) / most;
  for (let i = 0; i < blocks; i++) {
    const row = partRow(rows, partUnits, i, blocks);
    const width = partRow(rows, partUnits, i + 1, blocks) - row;
    const bytes = <usize>width << 2;
    for (let p = 0; p < k; p++) memory.copy(threadScratch + <usize>p * bytes, a + ((<usize>p * m + row) << 2), bytes);
    const skipped = <usize>row * rowBytes;
    product(session, threadScratch, b, addend == MATRIX ? c + skipped : c, out + skipped, width, n, k, true, transB, addend);
  }
}
