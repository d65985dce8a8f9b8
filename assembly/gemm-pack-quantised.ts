/** Packing of a quantised B (quantised.ts) for the tile kernel, as gemm-pack.ts does it for floats. */
import { COLUMNS } from "./gemm-kernel";
import { panelBytes } from "./gemm-pack";
import { BLOCK, NF4, Q8, codeBytes, loadCodes, storeSixteenColumns, storeValues } from "./quantised";

/** The scale of four rows as lanes. */
// @ts-ignore: decorator
@inline
function fourScales(s0: usize, s1: usize, s2: usize, s3: usize): v128 {
  return v128.load32_lane(s3, v128.load32_lane(s2, v128.load32_lane(s1, v128.load32_zero(s0), 1), 2), 3);
}

/** Columns of B are rows of codes: `columns` of them, `k` elements of each, a multiple of BLOCK. Lines in bytes. */
// @ts-ignore: decorator
@inline
function packLinesOf(type: i32, b: usize, line: usize, scales: usize, scaleLine: usize, columns: i32, k: i32, to: usize): void {
  const step = codeBytes(type, 16);
  for (let j = 0; j < columns; j += COLUMNS) {
    // Beyond the last column it stands for the missing ones, which nobody reads.
    const last = columns - 1 - j;
    const n1 = <usize>min(1, last), n2 = <usize>min(2, last), n3 = <usize>min(3, last), n4 = <usize>min(4, last);
    const n5 = <usize>min(5, last), n6 = <usize>min(6, last), n7 = <usize>min(7, last);
    let r0 = b + <usize>j * line;
    let r1 = r0 + n1 * line, r2 = r0 + n2 * line, r3 = r0 + n3 * line, r4 = r0 + n4 * line;
    let r5 = r0 + n5 * line, r6 = r0 + n6 * line, r7 = r0 + n7 * line;
    let s = scales + <usize>j * scaleLine;
    for (let p = 0; p < k; p += BLOCK, s += 4) {
      const s03 = fourScales(s, s + n1 * scaleLine, s + n2 * scaleLine, s + n3 * scaleLine);
      const s47 = fourScales(s + n4 * scaleLine, s + n5 * scaleLine, s + n6 * scaleLine, s + n7 * scaleLine);
      for (const end = to + BLOCK * COLUMNS * 4; to != end; to += 16 * COLUMNS * 4) {
        storeSixteenColumns(type, r0, r1, r2, r3, r4, r5, r6, r7, s03, s47, to);
        r0 += step, r1 += step, r2 += step, r3 += step, r4 += step, r5 += step, r6 += step, r7 += step;
      }
    }
  }
}

/** Rows of B are rows of codes: `columns` of them from column `first` on, both multiples of 8. */
// @ts-ignore: decorator
@inline
function packRowsOf(type: i32, b: usize, line: usize, scales: usize, scaleLine: usize, first: i32, columns: i32, k: i32, to: usize): void {
  const panel = panelBytes(k);
  const whole = <usize>k * COLUMNS * 4;
  for (let j = first; j < first + columns; j += 2 * COLUMNS) {
    const both = j + COLUMNS < first + columns;
    let from = b + codeBytes(type, j);
    // Eight columns that begin at a multiple of 8 are in one block.
    let s = scales + (<usize>(j / BLOCK) << 2);
    const next = (<usize>((j + COLUMNS) / BLOCK) << 2) - (<usize>(j / BLOCK) << 2);
    const end = to + whole;
    if (both) {
      for (let at = to; at != end; at += 32, from += line, s += scaleLine) {
        const s0 = v128.load32_splat(s), s1 = v128.load32_splat(s + next);
        storeValues(type, loadCodes(type, from, false), s0, s0, at, true, s1, s1, at + panel);
      }
    } else {
      for (let at = to; at != end; at += 32, from += line, s += scaleLine) {
        const s0 = v128.load32_splat(s);
        storeValues(type, loadCodes(type, from, true), s0, s0, at, false, s0, s0, 0);
      }
    }
    memory.fill(end, 0, panel - whole);
    if (both) memory.fill(end + panel, 0, panel - whole);
    to += panel << 1;
  }
}

// Small functions, because the JIT slows down on large ones.
function packLinesQ8(b: usize, line: usize, scales: usize, scaleLine: usize, columns: i32, k: i32, to: usize): void {
  packLinesOf(Q8, b, line, scales, scaleLine, columns, k, to);
}

function packLinesNF4(b: usize, line: usize, scales: usize, scaleLine: usize, columns: i32, k: i32, to: usize): void {
  packLinesOf(NF4, b, line, scales, scaleLine, columns, k, to);
}

function packRowsQ8(b: usize, line: usize, scales: usize, scaleLine: usize, first: i32, columns: i32, k: i32, to: usize): void {
  packRowsOf(Q8, b, line, scales, scaleLine, first, columns, k, to);
}

function packRowsNF4(b: usize, line: usize, scales: usize, scaleLine: usize, first: i32, columns: i32, k: i32, to: usize): void {
  packRowsOf(NF4, b, line, scales, scaleLine, first, columns, k, to);
}

/**
 * Panels of 8 columns, each to[k padded][8], of the block of op(B) with rows p..p + k and columns j..j + columns. The codes are [n, K]
 * if `trans`, else [K, n], with `ldb` in a row, a multiple of BLOCK; p and j are multiples of BLOCK along it or, without `trans`, j of 8.
 */
export function packQuantised(
  type: i32, b: usize, ldb: i32, trans: bool, scales: usize, j: i32, p: i32, columns: i32, k: i32, to: usize,
): void {
  const line = codeBytes(type, ldb);
  const scaleLine = <usize>(ldb / BLOCK) << 2;
  const row = <usize>(trans ? j : p);
  b += row * line;
  scales += row * scaleLine;
  if (trans) {
    b += codeBytes(type, p);
    scales += <usize>(p / BLOCK) << 2;
    if (type == Q8) packLinesQ8(b, line, scales, scaleLine, columns, k, to);
    else packLinesNF4(b, line, scales, scaleLine, columns, k, to);
  } else {
    if (type == Q8) packRowsQ8(b, line, scales, scaleLine, j, columns, k, to);
    else packRowsNF4(b, line, scales, scaleLine, j, columns, k, to);
  }
}
