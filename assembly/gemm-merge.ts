/** From tiles to the output matrix, where the tile kernel cannot write there itself. Strides are in bytes. */
import { COLUMNS } from "./gemm-kernel";

/** out = tile + c (where there is one) for the first rows and columns of a tile. */
export function mergeTile(tile: usize, rows: i32, columns: i32, c: usize, cRow: usize, out: usize, outRow: usize): void {
  for (let r = 0; r < rows; r++) {
    for (let j: usize = 0, end = <usize>columns << 2; j < end; j += 4) {
      const sum = load<f32>(tile + j);
      store<f32>(out + j, c ? sum + load<f32>(c + j) : sum);
    }
    tile += COLUMNS * 4;
    if (c) c += cRow;
    out += outRow;
  }
}

// @ts-ignore: decorator
@inline
function addAndStore(out: usize, x: v128, c: usize): void {
  v128.store(out, c ? f32x4.add(x, v128.load(c)) : x);
}

/** out[columns, rows] = transposed block[rows, columns] + c[columns, rows] (where there is one). */
export function mergeTransposed(
  block: usize, blockRow: usize, rows: i32, columns: i32, c: usize, cRow: usize, out: usize, outRow: usize,
): void {
  let j = 0;
  for (; j + 4 <= columns; j += 4) {
    let i = 0;
    for (; i + 4 <= rows; i += 4) {
      const at = block + <usize>i * blockRow;
      const x0 = v128.load(at), x1 = v128.load(at + blockRow), x2 = v128.load(at + 2 * blockRow), x3 = v128.load(at + 3 * blockRow);
      const low01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5), low23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5);
      const high01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7), high23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
      const to = out + (<usize>i << 2);
      const add = c ? c + (<usize>i << 2) : 0;
      addAndStore(to, v128.shuffle<i64>(low01, low23, 0, 2), add);
      addAndStore(to + outRow, v128.shuffle<i64>(low01, low23, 1, 3), add ? add + cRow : 0);
      addAndStore(to + 2 * outRow, v128.shuffle<i64>(high01, high23, 0, 2), add ? add + 2 * cRow : 0);
      addAndStore(to + 3 * outRow, v128.shuffle<i64>(high01, high23, 1, 3), add ? add + 3 * cRow : 0);
    }
    for (let q: usize = 0; q < 4; q++) mergeColumn(block + (q << 2), blockRow, i, rows, c ? c + q * cRow : 0, out + q * outRow);
    block += 16;
    out += 4 * outRow;
    if (c) c += 4 * cRow;
  }
  for (; j < columns; j++) {
    mergeColumn(block, blockRow, 0, rows, c, out);
    block += 4;
    out += outRow;
    if (c) c += cRow;
  }
}

/** Rows from, ..., rows - 1 of one column. */
// @ts-ignore: decorator
@inline
function mergeColumn(block: usize, blockRow: usize, from: i32, rows: i32, c: usize, out: usize): void {
  for (let i = from; i < rows; i++) {
    const sum = load<f32>(block + <usize>i * blockRow);
    const at = <usize>i << 2;
    store<f32>(out + at, c ? sum + load<f32>(c + at) : sum);
  }
}
