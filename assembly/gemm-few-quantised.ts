/**
 * Products of a few rows with a quantised matrix (quantised.ts), as gemm-few-rows.ts has them for floats: the codes are
 * widened in registers, where they lie. The products of a block are summed before its scale is applied.
 */
import { BLOCK, NF4, Q8, codeBytes, nf4Value } from "./quantised";

/** Bytes of a table of the two numbers that a byte of NF4's codes stands for. */
const PAIRS: usize = 256 * 8;

function writePairs(table: usize): void {
  for (let code: usize = 0; code < 16; code++) {
    const value = nf4Value(code);
    for (let other: usize = 0; other < 16; other++) {
      store<f32>(table + (((other << 4) | code) << 3), value);
      store<f32>(table + (((code << 4) | other) << 3), value, 4);
    }
  }
}

/** Returns what the codes of two bytes stand for. Looked up in memory: putting four bytes together in registers takes three times as long. */
// @ts-ignore: decorator
@inline
function four(table: usize, codes: usize): v128 {
  const low = v128.load64_zero(table + (<usize>load<u8>(codes) << 3));
  return v128.load64_lane(table + (<usize>load<u8>(codes, 1) << 3), low, 1);
}

/** 1 for the lower and for the upper half of each word. */
const HALVES: usize = memory.data<i32>([1, 1, 1, 1, 1 << 16, 1 << 16, 1 << 16, 1 << 16], 16);

/** x[k] in the order in which Q8 is widened: of each eight those at even places first. */
function prepare(x: usize, k: i32, out: usize): void {
  for (const end = x + (<usize>k << 2); x != end; x += 32, out += 32) {
    const a = v128.load(x), b = v128.load(x, 16);
    v128.store(out, v128.shuffle<f32>(a, b, 0, 2, 4, 6));
    v128.store(out, v128.shuffle<f32>(a, b, 1, 3, 5, 7), 16);
  }
}

/** Returns what the first four of eight codes stand for (Q8: those at even places). `table` is that of the pairs, or HALVES. */
// @ts-ignore: decorator
@inline
function first(type: i32, table: usize, codes: usize): v128 {
  if (type == NF4) return four(table, codes);
  return f32x4.convert_i32x4_s(i32x4.dot_i16x8_s(v128.load8x8_s(codes), v128.load(table)));
}

/** The others. */
// @ts-ignore: decorator
@inline
function last(type: i32, table: usize, codes: usize): v128 {
  if (type == NF4) return four(table, codes + 2);
  return f32x4.convert_i32x4_s(i32x4.dot_i16x8_s(v128.load8x8_s(codes), v128.load(table, 16)));
}

// @ts-ignore: decorator
@inline
function sum(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

// @ts-ignore: decorator
@inline
function put(out: usize, c: usize, at: usize, alpha: f32, product: f32): void {
  store<f32>(out + at, alpha * product + (c ? load<f32>(c + at) : 0));
}

/**
 * The columns `j`, `j + apart`, ... of one row: four streams of codes that share the loads of the row. A column's products are summed
 * block by block in ascending order, in four lanes.
 */
// @ts-ignore: decorator
@inline
function fourColumns(
  type: i32, table: usize, x: usize, b: usize, line: usize, scales: usize, scaleLine: usize, c: usize, out: usize, j: i32, apart: i32,
  k: i32, alpha: f32,
): void {
  const stream = <usize>apart * line, scaleStream = <usize>apart * scaleLine;
  const b1 = stream, b2 = 2 * stream, b3 = 3 * stream;
  let at = b + <usize>j * line;
  let s = scales + <usize>j * scaleLine;
  let t0 = f32x4.splat(0), t1 = f32x4.splat(0), t2 = f32x4.splat(0), t3 = f32x4.splat(0);
  const step = codeBytes(type, 8);
  for (const end = x + (<usize>k << 2); x != end; s += 4) {
    let s0 = f32x4.splat(0), s1 = f32x4.splat(0), s2 = f32x4.splat(0), s3 = f32x4.splat(0);
    for (const blockEnd = x + BLOCK * 4; x != blockEnd; x += 32, at += step) {
      let y = v128.load(x);
      s0 = f32x4.add(s0, f32x4.mul(y, first(type, table, at)));
      s1 = f32x4.add(s1, f32x4.mul(y, first(type, table, at + b1)));
      s2 = f32x4.add(s2, f32x4.mul(y, first(type, table, at + b2)));
      s3 = f32x4.add(s3, f32x4.mul(y, first(type, table, at + b3)));
      y = v128.load(x, 16);
      s0 = f32x4.add(s0, f32x4.mul(y, last(type, table, at)));
      s1 = f32x4.add(s1, f32x4.mul(y, last(type, table, at + b1)));
      s2 = f32x4.add(s2, f32x4.mul(y, last(type, table, at + b2)));
      s3 = f32x4.add(s3, f32x4.mul(y, last(type, table, at + b3)));
    }
    t0 = f32x4.add(t0, f32x4.mul(s0, v128.load32_splat(s)));
    t1 = f32x4.add(t1, f32x4.mul(s1, v128.load32_splat(s + scaleStream)));
    t2 = f32x4.add(t2, f32x4.mul(s2, v128.load32_splat(s + 2 * scaleStream)));
    t3 = f32x4.add(t3, f32x4.mul(s3, v128.load32_splat(s + 3 * scaleStream)));
  }
  const column = <usize>j << 2, next = <usize>apart << 2;
  put(out, c, column, alpha, sum(t0));
  put(out, c, column + next, alpha, sum(t1));
  put(out, c, column + 2 * next, alpha, sum(t2));
  put(out, c, column + 3 * next, alpha, sum(t3));
}

/** One column, with the same arithmetic. */
// @ts-ignore: decorator
@inline
function oneColumn(type: i32, table: usize, x: usize, codes: usize, scales: usize, k: i32): f32 {
  let total = f32x4.splat(0);
  const step = codeBytes(type, 8);
  for (const end = x + (<usize>k << 2); x != end; scales += 4) {
    let block = f32x4.splat(0);
    for (const blockEnd = x + BLOCK * 4; x != blockEnd; x += 32, codes += step) {
      block = f32x4.add(block, f32x4.mul(v128.load(x), first(type, table, codes)));
      block = f32x4.add(block, f32x4.mul(v128.load(x, 16), last(type, table, codes)));
    }
    total = f32x4.add(total, f32x4.mul(block, v128.load32_splat(scales)));
  }
  return sum(total);
}

/** Most rows that share what is widened. */
const GROUP: i32 = 3;

/** The columns `j` and `j + apart` of two or three rows, with the same arithmetic. */
// @ts-ignore: decorator
@inline
function twoColumns(
  type: i32, rows: i32, table: usize, x: usize, xLine: usize, b: usize, line: usize, scales: usize, scaleLine: usize,
  c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  const stream = <usize>apart * line, scaleStream = <usize>apart * scaleLine;
  const x1 = xLine, x2 = 2 * xLine;
  const step = codeBytes(type, 8);
  let at = b + <usize>j * line;
  let s = scales + <usize>j * scaleLine;
  let t00 = f32x4.splat(0), t01 = f32x4.splat(0), t10 = f32x4.splat(0), t11 = f32x4.splat(0);
  let t20 = f32x4.splat(0), t21 = f32x4.splat(0);
  for (const end = x + (<usize>k << 2); x != end; s += 4) {
    let s00 = f32x4.splat(0), s01 = f32x4.splat(0), s10 = f32x4.splat(0), s11 = f32x4.splat(0);
    let s20 = f32x4.splat(0), s21 = f32x4.splat(0);
    let y: v128;
    for (const blockEnd = x + BLOCK * 4; x != blockEnd; x += 32, at += step) {
      let w0 = first(type, table, at), w1 = first(type, table, at + stream);
      y = v128.load(x), s00 = f32x4.add(s00, f32x4.mul(y, w0)), s01 = f32x4.add(s01, f32x4.mul(y, w1));
      y = v128.load(x + x1), s10 = f32x4.add(s10, f32x4.mul(y, w0)), s11 = f32x4.add(s11, f32x4.mul(y, w1));
      if (rows > 2) y = v128.load(x + x2), s20 = f32x4.add(s20, f32x4.mul(y, w0)), s21 = f32x4.add(s21, f32x4.mul(y, w1));
      w0 = last(type, table, at), w1 = last(type, table, at + stream);
      y = v128.load(x, 16), s00 = f32x4.add(s00, f32x4.mul(y, w0)), s01 = f32x4.add(s01, f32x4.mul(y, w1));
      y = v128.load(x + x1, 16), s10 = f32x4.add(s10, f32x4.mul(y, w0)), s11 = f32x4.add(s11, f32x4.mul(y, w1));
      if (rows > 2) y = v128.load(x + x2, 16), s20 = f32x4.add(s20, f32x4.mul(y, w0)), s21 = f32x4.add(s21, f32x4.mul(y, w1));
    }
    const scale0 = v128.load32_splat(s), scale1 = v128.load32_splat(s + scaleStream);
    t00 = f32x4.add(t00, f32x4.mul(s00, scale0)), t01 = f32x4.add(t01, f32x4.mul(s01, scale1));
    t10 = f32x4.add(t10, f32x4.mul(s10, scale0)), t11 = f32x4.add(t11, f32x4.mul(s11, scale1));
    if (rows > 2) t20 = f32x4.add(t20, f32x4.mul(s20, scale0)), t21 = f32x4.add(t21, f32x4.mul(s21, scale1));
  }
  const column = <usize>j << 2, next = <usize>(j + apart) << 2;
  put(out, c, column, alpha, sum(t00));
  put(out, c, next, alpha, sum(t01));
  out += ldo;
  if (c) c += ldc;
  put(out, c, column, alpha, sum(t10));
  put(out, c, next, alpha, sum(t11));
  if (rows > 2) {
    out += ldo;
    if (c) c += ldc;
    put(out, c, column, alpha, sum(t20));
    put(out, c, next, alpha, sum(t21));
  }
}

// Small functions, because the JIT slows down on large ones.
function fourColumnsQ8(
  x: usize, b: usize, line: usize, scales: usize, scaleLine: usize, c: usize, out: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  fourColumns(Q8, HALVES, x, b, line, scales, scaleLine, c, out, j, apart, k, alpha);
}

function fourColumnsNF4(
  table: usize, x: usize, b: usize, line: usize, scales: usize, scaleLine: usize, c: usize, out: usize, j: i32, apart: i32,
  k: i32, alpha: f32,
): void {
  fourColumns(NF4, table, x, b, line, scales, scaleLine, c, out, j, apart, k, alpha);
}

function twoRowsQ8(
  x: usize, xLine: usize, b: usize, line: usize, scales: usize, scaleLine: usize,
  c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  twoColumns(Q8, 2, HALVES, x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
}

function threeRowsQ8(
  x: usize, xLine: usize, b: usize, line: usize, scales: usize, scaleLine: usize,
  c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  twoColumns(Q8, 3, HALVES, x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
}

function twoRowsNF4(
  table: usize, x: usize, xLine: usize, b: usize, line: usize, scales: usize, scaleLine: usize,
  c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  twoColumns(NF4, 2, table, x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
}

function threeRowsNF4(
  table: usize, x: usize, xLine: usize, b: usize, line: usize, scales: usize, scaleLine: usize,
  c: usize, ldc: usize, out: usize, ldo: usize, j: i32, apart: i32, k: i32, alpha: f32,
): void {
  twoColumns(NF4, 3, table, x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
}

function oneColumnOf(type: i32, table: usize, x: usize, codes: usize, scales: usize, k: i32): f32 {
  return type == Q8 ? oneColumn(Q8, HALVES, x, codes, scales, k) : oneColumn(NF4, table, x, codes, scales, k);
}

/** Up to GROUP rows, prepared. */
function someRows(
  type: i32, table: usize, rows: i32, x: usize, xLine: usize, b: usize, line: usize, scales: usize, scaleLine: usize,
  c: usize, ldc: usize, out: usize, ldo: usize, from: i32, to: i32, k: i32, alpha: f32,
): void {
  const streams = rows == 1 ? 4 : 2;
  const apart = (to - from) / streams;
  for (let j = from; j < from + apart; j++) {
    if (rows == 1) {
      if (type == Q8) fourColumnsQ8(x, b, line, scales, scaleLine, c, out, j, apart, k, alpha);
      else fourColumnsNF4(table, x, b, line, scales, scaleLine, c, out, j, apart, k, alpha);
    } else if (rows == 2) {
      if (type == Q8) twoRowsQ8(x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
      else twoRowsNF4(table, x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
    } else {
      if (type == Q8) threeRowsQ8(x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
      else threeRowsNF4(table, x, xLine, b, line, scales, scaleLine, c, ldc, out, ldo, j, apart, k, alpha);
    }
  }
  for (let j = from + streams * apart; j < to; j++) {
    const codes = b + <usize>j * line, s = scales + <usize>j * scaleLine;
    for (let i = 0; i < rows; i++) {
      const row = <usize>i;
      put(out + row * ldo, c ? c + row * ldc : 0, <usize>j << 2, alpha, oneColumnOf(type, table, x + row * xLine, codes, s, k));
    }
  }
}

/**
 * out[m, from..to) = alpha A B^T + c, A f32[m, k], B [n, k] of codes with their scales. Leading dimensions in bytes; `scratch` has
 * room for PAIRS bytes and `room` elements of A, at least k. A row has the bits that it has alone.
 */
export function fewRowsQuantised(
  type: i32, a: usize, lda: usize, b: usize, scales: usize, c: usize, ldc: usize, out: usize, ldo: usize,
  m: i32, from: i32, to: i32, k: i32, alpha: f32, scratch: usize, room: i32,
): void {
  const codeLine = codeBytes(type, k);
  const scaleLine = <usize>(k / BLOCK) << 2;
  const prepared = scratch + PAIRS;
  const xLine = type == Q8 ? <usize>k << 2 : lda;
  if (type == NF4) writePairs(scratch);
  const most = min(GROUP, max(1, room / k));
  const groups = (m + most - 1) / most;
  for (let group = 0; group < groups; group++) {
    const start = m * group / groups, rows = m * (group + 1) / groups - start;
    const first = <usize>start;
    const x = a + first * lda;
    if (type == Q8) for (let i = 0; i < rows; i++) prepare(x + <usize>i * lda, k, prepared + <usize>i * xLine);
    someRows(
      type, scratch, rows, type == Q8 ? prepared : x, xLine, b, codeLine, scales, scaleLine,
      c ? c + first * ldc : 0, ldc, out + first * ldo, ldo, from, to, k, alpha,
    );
  }
}
