/**
 * Products by a native library that works on the same memory: each thread has it compute its own rows, or its own columns of a product of bf16. In the library an
 * element's arithmetic depends neither on how many rows there are, as long as there are two, nor on which they are.
 */
import { partEnd, partStart, THREAD_SCRATCH, threadCount, threadIndex, threadScratch } from "./command";
import { F32, floatBytes } from "./half";
import { int8Product, MATRIX, product, ROW, takesBf16, typedProduct } from "./native";

/** Fewest rows of a native product. */
export const NATIVE_ROWS: i32 = 16;
/** Rows of a call, and numbers of A in them: the library passes over A once for every few columns, and finds it in the second-level cache then. */
const LEAST_BLOCK: i32 = 128;
const MOST_BLOCK: i32 = 512;
const BLOCK_FLOATS: i32 = 1 << 17;
/** Terms of a sum that a product with a transposed A takes at a time: fixed, since sums go on from one to the next. */
const NATIVE_TERMS: i32 = 512;
/** Rows are handed out four by four, and what remains goes with the last four, so that nobody gets a single row. */
const UNIT: i32 = 4;

/** First row of part `index` of `count`: rows of `units` units, of which the last holds the remainder of `m`. */
// @ts-ignore: decorator
@inline
function partRow(m: i32, units: i32, index: i32, count: i32): i32 {
  return index == count ? m : <i32>(<i64>units * index / count) * UNIT;
}

/** Columns of a tile of a product of bf16. */
const TILE_COLUMNS: i32 = 32;
/** Terms from which threads share columns: with fewer, calls of many panels of rows cost more than packing. */
const LEAST_SHARED_TERMS: i32 = 128;
/** Most tiles, of a hundred, that a thread may have more than its share. */
const MOST_UNEVEN: i32 = 3;

/** Tells whether threads get nearly as many tiles of `n` columns each. */
// @ts-ignore: decorator
@inline
function areShared(n: i32): bool {
  const tiles = (n + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const most = (tiles + threadCount - 1) / threadCount;
  return 100 * (most * threadCount - tiles) <= MOST_UNEVEN * tiles;
}

/** This thread's columns of a product of bf16: a thread packs all of one operand and its part of the other, the larger one here. */
function bf16Columns(
  session: f64, a: usize, transA: bool, b: usize, transB: bool, c: usize, addend: i32, out: usize, m: i32, n: i32, k: i32, bType: i32,
): void {
  const first = partStart(n, TILE_COLUMNS), columns = partEnd(n, TILE_COLUMNS) - first;
  if (columns <= 0) return;
  const skipped = <usize>first << 2;
  const right = b + floatBytes(bType, transB ? <usize>first * k : <usize>first);
  typedProduct(
    session, a, right, addend == MATRIX || addend == ROW ? c + skipped : c, out + skipped, m, columns, k, transA, transB, addend, F32, bType,
    transA ? m : k, n,
  );
}

/**
 * This thread's rows of the product; m is at least NATIVE_ROWS. With `transA` the columns of A are copied to scratch, so many terms at a time that
 * a thread's rows are there together, as a rule: fewer rows use the library badly, which packs B for each product. `more` is the session
 * that adds to what is there. A product of bf16, whose operands may be of other types, takes everything as it is.
 */
export function nativeProduct(
  session: f64, more: f64, a: usize, transA: bool, b: usize, transB: bool, c: usize, addend: i32, out: usize, m: i32, n: i32, k: i32, bType: i32,
): void {
  if (takesBf16(session) && n > m && k >= LEAST_SHARED_TERMS && areShared(n)) {
    bf16Columns(session, a, transA, b, transB, c, addend, out, m, n, k, bType);
    return;
  }
  const units = m / UNIT;
  const first = partRow(m, units, threadIndex, threadCount);
  const rows = partRow(m, units, threadIndex + 1, threadCount) - first;
  if (rows == 0) return;
  const rowBytes = <usize>n << 2;
  out += <usize>first * rowBytes;
  if (addend == MATRIX) c += <usize>first * rowBytes;
  if (takesBf16(session)) {
    const skipped = transA ? <usize>first << 2 : (<usize>first * k) << 2;
    typedProduct(session, a + skipped, b, c, out, rows, n, k, transA, transB, addend, F32, bType, transA ? m : k, n);
    return;
  }
  if (!transA) {
    const most = max(LEAST_BLOCK, min(MOST_BLOCK, BLOCK_FLOATS / k));
    const blocks = (rows + most - 1) / most, partUnits = rows / UNIT;
    for (let i = 0; i < blocks; i++) {
      const row = partRow(rows, partUnits, i, blocks);
      const skipped = <usize>row * rowBytes;
      const count = partRow(rows, partUnits, i + 1, blocks) - row;
      product(session, a + ((<usize>(first + row) * k) << 2), b, addend == MATRIX ? c + skipped : c, out + skipped, count, n, k, false, transB, addend);
    }
    return;
  }
  a += <usize>first << 2;
  // The terms of a stored B are apart where it is transposed.
  const terms = transB ? k : min(k, NATIVE_TERMS);
  const partUnits = rows / UNIT;
  const most = max(1, THREAD_SCRATCH / 4 / terms / UNIT - 1);
  const blocks = (partUnits + most - 1) / most;
  for (let i = 0; i < blocks; i++) {
    const row = partRow(rows, partUnits, i, blocks);
    const width = partRow(rows, partUnits, i + 1, blocks) - row;
    const bytes = <usize>width << 2;
    const skipped = <usize>row * rowBytes;
    for (let from = 0; from < k; from += terms) {
      const count = min(terms, k - from);
      let column = a + ((<usize>from * m + row) << 2);
      for (let p = 0; p < count; p++, column += <usize>m << 2) memory.copy(threadScratch + <usize>p * bytes, column, bytes);
      const right = b + (transB ? 0 : <usize>from * rowBytes);
      if (from == 0) product(session, threadScratch, right, addend == MATRIX ? c + skipped : c, out + skipped, width, n, count, true, transB, addend);
      else product(more, threadScratch, right, out + skipped, out + skipped, width, n, count, true, transB, MATRIX);
    }
  }
}

/**
 * out[m, n] = alpha A B^T + c of 8-bit codes, B [n, k] with its scales: this thread's rows, since quantising those of A costs more than packing B. `ldc` is 0 for one
 * row that is added to all.
 */
export function int8Rows(
  a: usize, codes: usize, scales: usize, c: usize, ldc: i32, out: usize, m: i32, n: i32, k: i32, alpha: f32,
): void {
  const first = partRow(m, m / UNIT, threadIndex, threadCount);
  const rows = partRow(m, m / UNIT, threadIndex + 1, threadCount) - first;
  if (rows == 0) return;
  const added = c ? c + ((<usize>first * ldc) << 2) : 0;
  int8Product(
    a + ((<usize>first * k) << 2), codes, scales, added, ldc << 2, out + ((<usize>first * n) << 2), rows, n, k, alpha,
  );
}
