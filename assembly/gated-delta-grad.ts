/**
 * The gradient of the gated delta rule: pieces from the last to the first, with the gradient dS of the state behind a piece, the state S before it
 * (kept by the forward pass where a chunk begins), and everything in between computed again. With U, P, L, D, e and G as in gated-delta.ts, r_j = D_last,j
 * and A = beta U:
 *
 *     dA = P^T dO + r K dS - L^T dV,  dV = beta dA               row by row, from the last one
 *     dbeta = sum of dA * U;  dP = dO A^T;  dL = -dV A^T;  Y = -e dV
 *     dQ = e dO S^T + (D dP) K
 *     dK = Y S^T + (D dP)^T Q + (D dL + (D dL)^T) K + r A dS^T
 *     dG = Q (e dO S^T) + K (Y S^T) + rows and minus columns of (dP P + dL L) - K (r A dS^T), and at the last row
 *          + sum of K (r A dS^T) + e_last <dS, S>
 *     dS <- e_last dS + Q^T (e dO) + K^T Y
 *
 * dg is the sum of dG from a row on.
 */
import { int, partEnd, partStart, pointer } from "./command";
import {
  added, behind, betas, CHUNK, decays, dot, factors, heads, keyDim, keyHeads, line, lineElements, news, preparePiece, product, qk, read,
  scaled, scaleRow, scores, SIDE, SIDE_LINE, sigmoid, sinceBegin, softplus, SOLVED, subtractRows, toEnd, tokens, valueDim, width,
} from "./gated-delta-chunk";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";

/** dA, then dV. */
let dValues: usize = 0;
/** e dO, behind its rows Y. */
let z: usize = 0;
/** A dS^T */
let pulled: usize = 0;
/** dQ, behind its rows dK. */
let dqk: usize = 0;
/** dP, behind its rows dL; both with D in the end. */
let dScores: usize = 0;
/** For each row: dbeta, dG in f64, sums over columns. */
let dBetas: usize = 0;
let dSums: usize = 0;
let columnSums: usize = 0;

function layOut(): void {
  const rows = <usize>CHUNK * line;
  dValues = behind;
  pulled = dValues + rows;
  z = pulled + rows;
  dqk = z + 2 * rows;
  dScores = dqk + 2 * rows;
  dBetas = dScores + 2 * <usize>CHUNK * SIDE_LINE;
  dSums = dBetas + SIDE_LINE;
  columnSums = dSums + 2 * SIDE_LINE;
  memory.fill(behind, 0, columnSums + SIDE_LINE - behind);
}

// @ts-ignore: decorator
@inline
function addToSum(row: i32, x: f64): void {
  const at = dSums + (<usize>row << 3);
  store<f64>(at, load<f64>(at) + x);
}

/** row += factor * other */
// @ts-ignore: decorator
@inline
function addRow(row: usize, other: usize, factor: f32): void {
  const f = f32x4.splat(factor);
  for (let at: usize = 0; at < line; at += 16) v128.store(row + at, f32x4.add(v128.load(row + at), f32x4.mul(f, v128.load(other + at))));
}

/** Solves for dA, which `dValues` begins as without L, and leaves dV and dbeta. */
function solve(count: i32): void {
  const known = scores + <usize>count * SIDE_LINE;
  for (let i = count - 1; i >= 0; i--) {
    const begin = i - i % SOLVED, end = min(begin + SOLVED, count);
    const at = dValues + <usize>i * line;
    if (i == end - 1 && end < count) {
      const rows = dValues + <usize>begin * line, part = known + <usize>end * SIDE_LINE + (<usize>begin << 2);
      product(part, SIDE, true, dValues + <usize>end * line, lineElements, false, rows, rows, lineElements, end - begin, valueDim, count - end, -1);
    }
    subtractRows(at, known + <usize>(i + 1) * SIDE_LINE + (<usize>i << 2), SIDE_LINE, at + line, end - 1 - i);
    store<f32>(dBetas + (<usize>i << 2), dot(at, news + <usize>i * line));
    scaleRow(at, load<f32>(betas + (<usize>i << 2)));
  }
}

/** Multiplies dP and dL by D, and adds what they say of the sums. */
function decayGradients(count: i32): void {
  const below = <usize>count * SIDE_LINE;
  memory.fill(columnSums, 0, SIDE_LINE);
  for (let i = 0; i < count; i++) {
    const row = <usize>i * SIDE_LINE, last = i32x4.splat(i);
    let places = i32x4(0, 1, 2, 3);
    let sum = f32x4.splat(0);
    for (let at = row; at < row + SIDE_LINE; at += 16) {
      // Scores and D are 0 where nothing is seen, the products may be anything there.
      const seen = i32x4.le_s(places, last), before = i32x4.lt_s(places, last);
      const d = v128.load(decays + at);
      const dP = v128.and(v128.load(dScores + at), seen), dL = v128.and(v128.load(dScores + below + at), before);
      const both = f32x4.add(f32x4.mul(dP, v128.load(scores + at)), f32x4.mul(dL, v128.load(scores + below + at)));
      sum = f32x4.add(sum, both);
      const column = columnSums + (at - row);
      v128.store(column, f32x4.add(v128.load(column), both));
      v128.store(dScores + at, f32x4.mul(dP, d));
      v128.store(dScores + below + at, f32x4.mul(dL, d));
      places = i32x4.add(places, i32x4.splat(4));
    }
    addToSum(i, sum4(sum));
  }
  for (let i = 0; i < count; i++) addToSum(i, -load<f32>(columnSums + (<usize>i << 2)));
}

/** Sum of products of `count` floats. */
function dotOf(a: usize, b: usize, count: i32): f64 {
  let sum: f64 = 0;
  let part = f32x4.splat(0);
  for (; count >= 4; count -= 4, a += 16, b += 16) {
    part = f32x4.add(part, f32x4.mul(v128.load(a), v128.load(b)));
    if ((count & 255) < 4) sum += sum4(part), part = f32x4.splat(0);
  }
  if (count) part = f32x4.add(part, f32x4.mul(loadSome(a, count), loadSome(b, count)));
  return sum + sum4(part);
}

/** The gradients of a piece with respect to its queries, keys, values, beta and G, and to the state before it (in `dState`). */
function differentiate(dOut: usize, state: usize, dState: usize, hasNext: bool, count: i32): void {
  const below = <usize>count * line, keys = qk + below, outLine = heads * valueDim;
  const last = count - 1;
  memory.fill(dSums, 0, 2 * SIDE_LINE);
  product(scores, SIDE, true, dOut, outLine, false, 0, dValues, lineElements, count, valueDim, count);
  if (hasNext) {
    product(keys, lineElements, false, dState, valueDim, false, 0, read, lineElements, count, valueDim, keyDim);
    for (let i = 0; i < count; i++) addRow(dValues + <usize>i * line, read + <usize>i * line, load<f32>(toEnd + (<usize>i << 2)));
  }
  solve(count);
  product(dOut, outLine, false, added, lineElements, true, 0, dScores, SIDE, count, count, valueDim);
  const dKnown = dScores + <usize>count * SIDE_LINE;
  product(dValues, lineElements, false, added, lineElements, true, 0, dKnown, SIDE, count, count, valueDim, -1);
  decayGradients(count);

  if (state) {
    for (let i = 0; i < count; i++) {
      const since = load<f32>(sinceBegin + (<usize>i << 2)), at = z + <usize>i * line;
      scaled(dOut + (<usize>(i * outLine) << 2), at, valueDim, since);
      scaled(dValues + <usize>i * line, at + below, lineElements, -since);
    }
    product(z, lineElements, false, state, valueDim, true, 0, dqk, lineElements, 2 * count, keyDim, valueDim);
    for (let i = 0; i < count; i++) {
      const at = <usize>i * line;
      addToSum(i, <f64>dot(qk + at, dqk + at) + dot(keys + at, dqk + below + at));
    }
  }
  const dKeys = dqk + below;
  product(dScores, SIDE, false, keys, lineElements, false, state ? dqk : 0, dqk, lineElements, count, keyDim, count);
  product(dScores, SIDE, true, qk, lineElements, false, state ? dKeys : 0, dKeys, lineElements, count, keyDim, count);
  product(dKnown, SIDE, false, keys, lineElements, false, dKeys, dKeys, lineElements, count, keyDim, count);
  product(dKnown, SIDE, true, keys, lineElements, false, dKeys, dKeys, lineElements, count, keyDim, count);
  const kept = load<f32>(sinceBegin + (<usize>last << 2));
  if (hasNext) {
    product(added, lineElements, false, dState, valueDim, true, 0, pulled, lineElements, count, keyDim, valueDim);
    for (let i = 0; i < count; i++) {
      const at = <usize>i * line, decay = load<f32>(toEnd + (<usize>i << 2));
      const change = <f64>decay * dot(keys + at, pulled + at);
      addToSum(i, -change);
      addToSum(last, change);
      addRow(dKeys + at, pulled + at, decay);
    }
    if (state) {
      addToSum(last, <f64>kept * dotOf(dState, state, keyDim * valueDim));
      scaled(dState, dState, keyDim * valueDim, kept);
    }
  }
  if (state) product(qk, lineElements, true, z, lineElements, false, hasNext ? dState : 0, dState, valueDim, keyDim, valueDim, 2 * count);
}

/** The gradient of a row before it became a unit vector times `factor`, added to what is there unless `isFirst`. */
function writeUnit(unit: usize, dUnit: usize, r: f32, factor: f32, out: usize, isFirst: bool): void {
  const along = f32x4.splat(r / factor * dot(unit, dUnit)), whole = f32x4.splat(r * factor);
  let left = keyDim;
  for (; left >= 4; left -= 4, unit += 16, dUnit += 16, out += 16) {
    const x = f32x4.sub(f32x4.mul(whole, v128.load(dUnit)), f32x4.mul(along, v128.load(unit)));
    v128.store(out, isFirst ? x : f32x4.add(v128.load(out), x));
  }
  if (left) {
    const x = f32x4.sub(f32x4.mul(whole, v128.load(dUnit)), f32x4.mul(along, v128.load(unit)));
    storeSome(out, isFirst ? x : f32x4.add(loadSome(out, left), x), left);
  }
}

/**
 * dout, qkv, a, b, A, dt, starts, states, dqkv, da, db, dA, ddt, scratch [heads, keyDim, valueDim]; states is [slots, heads, keyDim, valueDim],
 * the state behind chunk c in slot c. Scalars as GatedDelta.
 */
export function gatedDeltaGrad(): void {
  layOut();
  const dOut = pointer(0), qkv = pointer(1), a = pointer(2), b = pointer(3), starts = pointer(6), states = pointer(7);
  const dqkv = pointer(8), da = pointer(9), db = pointer(10);
  const group = heads / keyHeads, end = partEnd(keyHeads, 1) * group;
  const stateBytes = <usize>(keyDim * valueDim) << 2;
  for (let head = partStart(keyHeads, 1) * group; head < end; head++) {
    const place = <usize>head << 2, keyHead = head / group;
    const rate = -Mathf.exp(load<f32>(pointer(4) + place)), shift = load<f32>(pointer(5) + place);
    const dState = pointer(13) + <usize>head * stateBytes;
    let dRate: f64 = 0, dShift: f64 = 0;
    let hasNext = false;
    for (let last = tokens; last > 0;) {
      let first = last - 1;
      while (first % CHUNK != 0 && load<i32>(starts + (<usize>first << 2)) != first) first--;
      const begins = load<i32>(starts + (<usize>first << 2)) == first;
      const state = begins ? <usize>0 : states + <usize>((first / CHUNK - 1) * heads + head) * stateBytes;
      const count = last - first;
      preparePiece(qkv, a, b, rate, shift, state, first, count, keyHead, head);
      differentiate(dOut + (<usize>((first * heads + head) * valueDim) << 2), state, dState, hasNext, count);

      let dg: f64 = 0;
      for (let i = count - 1; i >= 0; i--) {
        const at = <usize>((first + i) * heads + head) << 2, x = load<f32>(a + at) + shift;
        dg += load<f64>(dSums + (<usize>i << 3));
        const dx = dg * rate * sigmoid(x);
        dRate += dg * rate * softplus(x);
        dShift += dx;
        store<f32>(da + at, <f32>dx);
        const beta = load<f32>(betas + (<usize>i << 2));
        store<f32>(db + at, load<f32>(dBetas + (<usize>i << 2)) * beta * (1 - beta));
        const from = <usize>i * line, to = dqkv + (<usize>(first + i) * <usize>width << 2);
        const isFirst = head % group == 0;
        const below = <usize>count * line, norms = factors + (<usize>i << 2);
        writeUnit(qk + from, dqk + from, load<f32>(norms), 1 / Mathf.sqrt(<f32>keyDim), to + (<usize>(keyHead * keyDim) << 2), isFirst);
        const keyAt = to + (<usize>((keyHeads + keyHead) * keyDim) << 2);
        writeUnit(qk + below + from, dqk + below + from, load<f32>(norms + SIDE_LINE), 1, keyAt, isFirst);
        memory.copy(to + (<usize>(2 * keyHeads * keyDim + head * valueDim) << 2), dValues + from, <usize>valueDim << 2);
      }
      hasNext = !begins;
      last = first;
    }
    store<f32>(pointer(11) + place, <f32>dRate);
    store<f32>(pointer(12) + place, <f32>dShift);
  }
}
