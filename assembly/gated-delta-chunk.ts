/**
 * What forward and backward of the gated delta rule share: one piece of up to 64 rows of a text, of one head. See `gated-delta.ts` for the
 * formulas. All sizes and buffers of a thread are globals of its instance. Rows in buffers are `line` bytes apart, a multiple of 32, and what they
 * have behind a head's features is always 0.
 */
import { int, threadScratch } from "./command";
import { F32 } from "./half";
import { loadSome, storeSome } from "./lanes";
import { decay4, sum4 } from "./math";
import { GEMM_SCRATCH } from "./matrix";

// @ts-ignore: decorator
@external("matrix", "gemm")
declare function gemm(
  a: usize, aType: i32, lda: i32, transA: bool, b: usize, bType: i32, ldb: i32, transB: bool, c: usize, ldc: i32, out: usize, ldo: i32,
  m: i32, n: i32, k: i32, alpha: f32, index: i32, count: i32, scratch: usize, scales: usize,
): void;

/** Rows of a chunk; chunks begin at its multiples. */
export const CHUNK: i32 = 64;
/** Rows that are solved for one by one; what they see of rows before them is a product. */
export const SOLVED: i32 = 16;
/** Elements from row to row of the square matrices of a piece, and their bytes. */
export const SIDE: i32 = CHUNK;
export const SIDE_LINE: usize = SIDE * 4;
/** Powers of e below this are 0: their products would be subnormal, which cost a hundred cycles each. */
const LEAST: f32 = -64;

export let tokens: i32 = 0;
export let keyHeads: i32 = 0;
export let heads: i32 = 0;
export let keyDim: i32 = 0;
export let valueDim: i32 = 0;
/** Bytes, and elements, from row to row in buffers. */
export let line: usize = 0;
export let lineElements: i32 = 0;
/** Elements of a row of qkv. */
export let width: i32 = 0;

/** Queries, behind them the keys: unit vectors, queries times keyDim^-1/2. */
export let qk: usize = 0;
/** Products of those with the state before the piece. */
export let read: usize = 0;
/** Values without what is known of them, and those times beta: what a row adds to the state. */
export let news: usize = 0;
export let added: usize = 0;
/** D * Q K^T, behind its rows D * K K^T below the diagonal. */
export let scores: usize = 0;
export let decays: usize = 0;
/** For each row: beta, the sum of logarithms of decays from the piece's begin on in two parts, e^sum, decay up to the end of the piece. */
export let betas: usize = 0;
export let sums: usize = 0;
export let sumRests: usize = 0;
export let sinceBegin: usize = 0;
export let toEnd: usize = 0;
/** 1 / norm of each row of `qk` before it was a unit vector. */
export let factors: usize = 0;
/** The first byte behind. */
export let behind: usize = 0;

/** Reads the sizes that all commands begin with, and lays the buffers out behind the scratch of products. */
export function begin(): void {
  tokens = int(0);
  keyHeads = int(1);
  heads = int(2);
  keyDim = int(3);
  valueDim = int(4);
  width = 2 * keyHeads * keyDim + heads * valueDim;
  lineElements = (max(keyDim, valueDim) + 7) & ~7;
  line = <usize>lineElements << 2;
  const rows = <usize>CHUNK * line;
  qk = threadScratch + ((GEMM_SCRATCH + 63) & ~63);
  read = qk + 2 * rows;
  news = read + 2 * rows;
  added = news + rows;
  scores = added + rows;
  decays = scores + 2 * <usize>CHUNK * SIDE_LINE;
  betas = decays + <usize>CHUNK * SIDE_LINE;
  sums = betas + SIDE_LINE;
  sumRests = sums + SIDE_LINE;
  sinceBegin = sumRests + SIDE_LINE;
  toEnd = sinceBegin + SIDE_LINE;
  factors = toEnd + SIDE_LINE;
  behind = factors + 2 * SIDE_LINE;
  memory.fill(qk, 0, behind - qk);
}

/** out[m, n] = alpha op(A) op(B) + C of f32, by this thread alone; leading dimensions in elements, `c` 0 or [m, n] with `ldo`. */
export function product(
  a: usize, lda: i32, transA: bool, b: usize, ldb: i32, transB: bool, c: usize, out: usize, ldo: i32,
  m: i32, n: i32, k: i32, alpha: f32 = 1,
): void {
  gemm(a, F32, lda, transA, b, F32, ldb, transB, c, ldo, out, ldo, m, n, k, alpha, 0, 1, threadScratch, 0);
}

/** A . B of two rows in buffers. */
export function dot(a: usize, b: usize): f32 {
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0);
  for (let at: usize = 0; at < line; at += 32) {
    s0 = f32x4.add(s0, f32x4.mul(v128.load(a + at), v128.load(b + at)));
    s1 = f32x4.add(s1, f32x4.mul(v128.load(a + at, 16), v128.load(b + at, 16)));
  }
  return sum4(f32x4.add(s0, s1));
}

/** A row times a factor, in place. */
export function scaleRow(row: usize, factor: f32): void {
  const f = f32x4.splat(factor);
  for (const end = row + line; row < end; row += 16) v128.store(row, f32x4.mul(v128.load(row), f));
}

/** to = factor * from, of `count` floats that lie anywhere. */
export function scaled(from: usize, to: usize, count: i32, factor: f32): void {
  const f = f32x4.splat(factor);
  for (; count >= 4; count -= 4, from += 16, to += 16) v128.store(to, f32x4.mul(v128.load(from), f));
  if (count) storeSome(to, f32x4.mul(loadSome(from, count), f), count);
}

/** A row minus `count` others times their weights, which are `step` bytes apart. */
export function subtractRows(row: usize, weights: usize, step: usize, others: usize, count: i32): void {
  for (let at: usize = 0; at < line; at += 32) {
    let s0 = v128.load(row + at), s1 = v128.load(row + at, 16);
    let weight = weights, other = others + at;
    for (let j = 0; j < count; j++, weight += step, other += line) {
      const w = v128.load32_splat(weight);
      s0 = f32x4.sub(s0, f32x4.mul(w, v128.load(other)));
      s1 = f32x4.sub(s1, f32x4.mul(w, v128.load(other, 16)));
    }
    v128.store(row + at, s0), v128.store(row + at, s1, 16);
  }
}

// @ts-ignore: decorator
@inline
function power(x: f32): f32 {
  return x < LEAST ? 0 : Mathf.exp(x);
}

/** log(1 + e^x) */
export function softplus(x: f32): f32 {
  return x > 20 ? x : Mathf.log1p(Mathf.exp(x));
}

export function sigmoid(x: f32): f32 {
  return 1 / (1 + Mathf.exp(-x));
}

/** Reads what gates `count` rows from `first` on of a head: a and b are [tokens, heads]. */
function readGates(a: usize, b: usize, rate: f32, shift: f32, first: i32, count: i32, head: i32): void {
  let sum: f64 = 0;
  let high: f32 = 0, low: f32 = 0;
  for (let i = 0; i < count; i++) {
    const at = <usize>((first + i) * heads + head) << 2, to = <usize>i << 2;
    sum += rate * softplus(load<f32>(a + at) + shift);
    high = <f32>sum;
    low = <f32>(sum - high);
    store<f32>(sums + to, high);
    store<f32>(sumRests + to, low);
    store<f32>(sinceBegin + to, power(high));
    store<f32>(betas + to, sigmoid(load<f32>(b + at)));
  }
  for (let i = 0; i < count; i++) {
    const at = <usize>i << 2;
    store<f32>(toEnd + at, power(high - load<f32>(sums + at) + (low - load<f32>(sumRests + at))));
  }
}

/** The unit vectors of `count` rows, times a factor; a root takes 1e-6 with the sum of squares. */
function readUnits(from: usize, to: usize, norms: usize, count: i32, factor: f32): void {
  for (let i = 0; i < count; i++) {
    memory.copy(to, from, <usize>keyDim << 2);
    const r: f32 = 1 / Mathf.sqrt(dot(to, to) + 1e-6);
    store<f32>(norms, r);
    scaleRow(to, r * factor);
    from += <usize>width << 2;
    to += line;
    norms += 4;
  }
}

/** Makes D, and of the products of queries and keys with keys those with D; above the diagonal they are 0. */
function decayScores(count: i32): void {
  for (let i = 0; i < count; i++) {
    const row = <usize>i * SIDE_LINE, last = i32x4.splat(i);
    const high = v128.load32_splat(sums + (<usize>i << 2)), low = v128.load32_splat(sumRests + (<usize>i << 2));
    const mine = scores + row, known = scores + <usize>count * SIDE_LINE + row;
    let places = i32x4(0, 1, 2, 3);
    for (let at: usize = 0; at < SIDE_LINE; at += 16) {
      const x = f32x4.add(f32x4.sub(high, v128.load(sums + at)), f32x4.sub(low, v128.load(sumRests + at)));
      const seen = v128.andnot(i32x4.le_s(places, last), f32x4.lt(x, f32x4.splat(LEAST)));
      const d = v128.and(decay4(x), seen);
      v128.store(decays + row + at, d);
      v128.store(mine + at, v128.and(f32x4.mul(v128.load(mine + at), d), seen));
      const before = v128.andnot(seen, i32x4.eq(places, last));
      v128.store(known + at, v128.and(f32x4.mul(v128.load(known + at), d), before));
      places = i32x4.add(places, i32x4.splat(4));
    }
  }
}

/**
 * Reads and computes what a piece of `count` rows from `first` on adds to the state, given the state before it (0: it begins a text, and the
 * state is 0).
 */
export function preparePiece(
  qkv: usize, a: usize, b: usize, rate: f32, shift: f32, state: usize, first: i32, count: i32, keyHead: i32, head: i32,
): void {
  readGates(a, b, rate, shift, first, count, head);
  const row = qkv + (<usize>first * <usize>width << 2);
  const keys = qk + <usize>count * line;
  readUnits(row + (<usize>(keyHead * keyDim) << 2), qk, factors, count, 1 / Mathf.sqrt(<f32>keyDim));
  readUnits(row + (<usize>((keyHeads + keyHead) * keyDim) << 2), keys, factors + SIDE_LINE, count, 1);
  product(qk, lineElements, false, keys, lineElements, true, 0, scores, SIDE, 2 * count, count, keyDim);
  decayScores(count);
  if (state) product(qk, lineElements, false, state, valueDim, false, 0, read, lineElements, 2 * count, valueDim, keyDim);

  let value = row + (<usize>(2 * keyHeads * keyDim + head * valueDim) << 2);
  for (let i = 0; i < count; i++, value += <usize>width << 2) {
    const to = news + <usize>i * line;
    memory.copy(to, value, <usize>valueDim << 2);
    if (state) subtractRows(to, sinceBegin + (<usize>i << 2), 4, read + <usize>(count + i) * line, 1);
  }
  const known = scores + <usize>count * SIDE_LINE;
  for (let i = 0; i < count; i++) {
    const begin = i - i % SOLVED;
    if (i == begin && i > 0) {
      const rows = news + <usize>i * line, part = known + <usize>i * SIDE_LINE;
      product(part, SIDE, false, added, lineElements, false, rows, rows, lineElements, min(SOLVED, count - i), valueDim, i, -1);
    }
    const at = <usize>i * line;
    subtractRows(news + at, known + <usize>i * SIDE_LINE + (<usize>begin << 2), 4, added + <usize>begin * line, i - begin);
    scaled(news + at, added + at, lineElements, load<f32>(betas + (<usize>i << 2)));
  }
}
