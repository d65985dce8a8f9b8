/**
 * Linear layer and cross entropy by a native library. The logits are held transposed, [vocabulary][rows], so that a *block* of the
 * vocabulary is contiguous in W and in the logits alike: threads take blocks, W is never packed whole, and a half-precision W is
 * widened block by block. Blocks are fixed by the sizes, and sums over them are taken in a fixed order.
 *
 * A chunk of the rows with a label is in memory at a time: n of them, entries [first, first + chunk) of `rows` as far as there are any.
 * The commands that read W take it page by page, a page being a range of blocks, so that neither W nor the logits need be in memory whole; sums go
 * on from page to page in an order that does not depend on where pages end.
 */
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { IGNORED } from "./cross-entropy";
import { BF16, F32, floatBytes, loadFloats, narrowBf16, widenBf16 } from "./half";
import { loadSome, storeSome } from "./lanes";
import { exp4 } from "./math";
import {
  MATRIX, NO_ADDEND, pointwiseExponentials, pointwiseScaled, product, sessionOf, takesBf16, typedProduct,
} from "./native";
import { Opcode } from "./opcodes";
import { BLOCK, codeBytes, dequantise } from "./quantised";
import { capSlope4, capSlopeOf, softCap } from "./soft-cap";

/** Rows of a block whose exponentials are summed in a register, column by column; so many stay in the first-level cache. */
const RUN: i32 = 32;
/** Probabilities, times a weight of either sign, count as 0 below this size: products with subnormal numbers cost a hundred cycles. */
const NEGLIGIBLE: f32 = 1e-26;

// Of the command in effect; the operands that all commands share come first.
let labels: usize = 0, rows: usize = 0, logits: usize = 0, maxima: usize = 0, sums: usize = 0, own: usize = 0;
let first: i32 = 0, n: i32 = 0, width: i32 = 0, vocabulary: i32 = 0, block: i32 = 0, blocks: i32 = 0, each: i32 = 0;

/**
 * Operands of all: labels i32[T, L], rows i32[T], count i32[1], the page's logits, [rows of a block][n] for each of its blocks, of which each has room for a whole
 * chunk, f32 or narrow (bf16), maxima and sums [blocks][chunk], own [chunk, L]. Scalars of all: first, chunk, H, V, rows of a block, L.
 *
 * - NativeLogits: ..., h [chunk, H], W's page, best i32[blocks][chunk] or null, scales of a quantised page or null; ..., type of W, session of A B^T, soft cap (0: none),
 *   first block of the page and its end, 1 for narrow logits.
 *   logits = exp(W h^T - maxima), where maxima are over a block; sums of these; own = the logits of the labels; best = the first class
 *   of the greatest logit in a block. With a cap, the logits stay logits, which its derivative needs.
 * - NativeLogitsEnd: ..., scale [T, L] or null, losses [T, L], best, hits i32[T] (null as best). losses = log sum exp - own;
 *   sums = exp(maxima - log sum exp), times the sum of the labels' scales (1 without); hits = 1 where the first label is the first class of the greatest logit, else 0.
 * - NativeLogitsGrad: ..., h, W's page, scale, dloss [1], parts f32[P][n, H] or null, dW or null, C or null, scales of the page or null; ..., type of W, P, sessions of A^T B, A^T B + C and
 *   A B (+ C), soft cap, step of scale: 0 for a scale [1], 1 for a scale [T, L], which the sums have in them; first block of the page and its end,
 *   1 for narrow logits.
 *   With D = the sum over labels of (exp(logit) sums - onehot) scale dloss, times the derivative of the cap: parts = D W, every P-th block each, so that every page has some of each; dW = D^T h + C (C may be dW).
 * - NativeLogitsSum: ..., parts, out [chunk, H]; ..., P. out = sum of parts.
 *
 * A block of logits that are narrow in memory is computed in the thread's scratch, in front of what is widened there. Products of bf16 would round
 * them anyway; losses are sums from before, and what is left of a label's probability, 1 - p, is computed from its logit in f32.
 */
export function nativeHeadCommand(opcode: u32): void {
  labels = pointer(0), rows = pointer(1), logits = pointer(3), maxima = pointer(4), sums = pointer(5), own = pointer(6);
  first = int(0), width = int(2), vocabulary = int(3), block = int(4), each = int(5);
  n = max(0, min(int(1), load<i32>(pointer(2)) - first));
  blocks = (vocabulary + block - 1) / block;
  switch (opcode) {
    case Opcode.NativeLogits: computeLogits(pointer(7), pointer(8), pointer(10), pointer(9)); break;
    case Opcode.NativeLogitsEnd: endLogits(pointer(7), pointer(8), pointer(9), pointer(10)); break;
    case Opcode.NativeLogitsGrad: differentiate(pointer(7), pointer(8), pointer(14)); break;
    case Opcode.NativeLogitsSum: addParts(pointer(7), pointer(8)); break;
    default: unreachable();
  }
}

// @ts-ignore: decorator
@inline
function blockRows(b: i32): i32 {
  return min(block, vocabulary - b * block);
}

// @ts-ignore: decorator
@inline
function pageLogits(index: i32, isNarrow: bool): usize {
  return logits + (<usize>index * block * int(1) << (isNarrow ? 1 : 2));
}

/** Where a block of W is widened: behind a block of logits where these are computed in the scratch too. */
// @ts-ignore: decorator
@inline
function widenedAt(isNarrow: bool): usize {
  return threadScratch + (isNarrow ? <usize>block * int(1) << 2 : 0);
}

/** The type that a product has a block of W in: as it lies in memory if it can. */
// @ts-ignore: decorator
@inline
function blockType(session: f64, type: i32, codeScales: usize): i32 {
  return takesBf16(session) && !codeScales && type == BF16 ? BF16 : F32;
}

/** Block `b` of W as `wanted` says, of a page that begins with block `from`: in place, or widened into `scratch`. With `codeScales` W is quantised. */
function blockOf(w: usize, type: i32, codeScales: usize, b: i32, from: i32, wanted: i32, scratch: usize): usize {
  const at = <usize>(b - from) * block * width;
  if (codeScales) {
    dequantise(type, w + codeBytes(type, at), codeScales + (at / BLOCK << 2), scratch, blockRows(b) * width / BLOCK);
    return scratch;
  }
  const values = w + floatBytes(type, at);
  if (type == wanted) return values;
  const count = blockRows(b) * width;
  // What is read behind an odd end lies within the 64 bytes that everything is rounded up to.
  for (let i = 0; i < count; i += 4) v128.store(scratch + (<usize>i << 2), loadFloats(values + (<usize>i << 1), type));
  return scratch;
}

function computeLogits(h: usize, w: usize, codeScales: usize, best: usize): void {
  if (n == 0) return;
  const type = int(6);
  const session = sessionOf(int(7), int(8));
  const wanted = blockType(session, type, codeScales);
  const cap = float(9);
  const from = int(10), pageBlocks = int(11) - from;
  const isNarrow = int(12) != 0;
  const end = from + partEnd(pageBlocks, 1);
  for (let b = from + partStart(pageBlocks, 1); b < end; b++) {
    const count = blockRows(b);
    const kept = pageLogits(b - from, isNarrow);
    const x = isNarrow ? threadScratch : kept;
    const weights = blockOf(w, type, codeScales, b, from, wanted, widenedAt(isNarrow));
    typedProduct(session, weights, h, 0, x, count, n, width, false, true, NO_ADDEND, wanted, F32, width, n);
    if (cap != 0) softCap(x, x, count * n, cap);
    keepOwn(x, b * block, count);
    const at = <usize>b * int(1) << 2;
    if (best) firstGreatest(x, b * block, count, best + at);
    if (cap == 0 && pointwiseExponentials(x, isNarrow ? kept : 0, maxima + at, sums + at, count, n)) continue;
    exponentials(x, count, maxima + at, sums + at, cap == 0);
    if (isNarrow) narrowBlock(x, kept, count);
  }
}

/** to = x[count][n] in bf16. What is written behind an odd end lies within the block's room, of which rows are a multiple of 16. */
function narrowBlock(x: usize, to: usize, count: i32): void {
  for (let i = 0; i < count * n; i += 4) v128.store64_lane(to + (<usize>i << 1), narrowBf16(v128.load(x + (<usize>i << 2))), 0);
}

/** x[count][n] = kept in f32 */
function widenBlock(kept: usize, x: usize, count: i32): void {
  for (let i = 0; i < count * n; i += 4) v128.store(x + (<usize>i << 2), widenBf16(v128.load64_zero(kept + (<usize>i << 1))));
}

/** Scaled probabilities of labels in x[count][n] anew, from their logits: most[i] is the maximum of column i in the block that begins with class `start`. */
function scaleOwn(x: usize, start: i32, count: i32, most: usize, scales: usize, factor: f32): void {
  for (let i = 0; i < n; i++) {
    for (let l = 0; l < each; l++) {
      const label = labelOf(i, l) - start;
      if (<u32>label >= <u32>count) continue;
      const shifted = load<f32>(own + (<usize>(i * each + l) << 2)) - load<f32>(most + (<usize>i << 2));
      const p = f32x4.mul(exp4(f32x4.splat(shifted)), f32x4.splat(load<f32>(scales + (<usize>i << 2))));
      v128.store32_lane(x + (<usize>(label * n + i) << 2), scaled4(p, f32x4.splat(factor), f32x4.splat(NEGLIGIBLE)), 0);
    }
  }
}

/** own[i] = the logits of row i's labels, where they lie in the block whose first class is `start`. */
function keepOwn(x: usize, start: i32, count: i32): void {
  for (let i = 0; i < n; i++) {
    for (let l = 0; l < each; l++) {
      const label = labelOf(i, l) - start;
      if (<u32>label < <u32>count) store<f32>(own + (<usize>(i * each + l) << 2), load<f32>(x + (<usize>(label * n + i) << 2)));
    }
  }
}

/** best[i] = the first class of the greatest logit in column i of x[count][n], whose first class is `start`; NaN is passed over. */
function firstGreatest(x: usize, start: i32, count: i32, best: usize): void {
  const rowBytes = <usize>n << 2;
  for (let i = 0; i < n; i += 4) {
    const at = <usize>i << 2;
    const lanes = min(4, n - i);
    let top = f32x4.splat(-f32.POSITIVE_INFINITY), index = i32x4.splat(start);
    let from = x + at;
    for (let v = 0; v < count; v++) {
      const value = lanes == 4 ? v128.load(from) : loadSome(from, lanes);
      const higher = f32x4.gt(value, top);
      top = v128.bitselect(value, top, higher);
      index = v128.bitselect(i32x4.splat(start + v), index, higher);
      from += rowBytes;
    }
    if (lanes == 4) v128.store(best + at, index);
    else storeSome(best + at, index, lanes);
  }
}

// @ts-ignore: decorator
@inline
function rowOf(i: i32): usize {
  return <usize>load<i32>(rows + (<usize>(first + i) << 2));
}

// @ts-ignore: decorator
@inline
function placeOf(i: i32, l: i32): usize {
  return (rowOf(i) * <usize>each + <usize>l) << 2;
}

// @ts-ignore: decorator
@inline
function labelOf(i: i32, l: i32): i32 {
  return load<i32>(labels + placeOf(i, l));
}

/** x[count][n] = exp(x - most) if `write`, most[n] the maxima of the columns, sum[n] the sums of these. */
function exponentials(x: usize, count: i32, most: usize, sum: usize, write: bool): void {
  const rowBytes = <usize>n << 2;
  memory.copy(most, x, rowBytes);
  for (let v = 1; v < count; v++) {
    const row = x + <usize>v * rowBytes;
    let i = 0;
    for (; i + 4 <= n; i += 4) {
      const at = <usize>i << 2;
      // pmax(a, b) is a < b ? b : a: a NaN is passed over here and comes back in the sum.
      v128.store(most + at, f32x4.pmax(v128.load(most + at), v128.load(row + at)));
    }
    if (i < n) {
      const at = <usize>i << 2;
      storeSome(most + at, f32x4.pmax(loadSome(most + at, n - i), loadSome(row + at, n - i)), n - i);
    }
  }
  memory.fill(sum, 0, rowBytes);
  for (let start = 0; start < count; start += RUN) {
    const end = min(count, start + RUN);
    for (let i = 0; i < n; i += 4) {
      const at = <usize>i << 2;
      const lanes = min(4, n - i);
      let total = f32x4.splat(0);
      const shift = lanes == 4 ? v128.load(most + at) : loadSome(most + at, lanes);
      let to = x + <usize>start * rowBytes + at;
      for (let v = start; v < end; v++) {
        const e = exp4(f32x4.sub(lanes == 4 ? v128.load(to) : loadSome(to, lanes), shift));
        if (write) {
          if (lanes == 4) v128.store(to, e);
          else storeSome(to, e, lanes);
        }
        total = f32x4.add(total, e);
        to += rowBytes;
      }
      if (lanes == 4) v128.store(sum + at, f32x4.add(v128.load(sum + at), total));
      else storeSome(sum + at, f32x4.add(loadSome(sum + at, lanes), total), lanes);
    }
  }
}

function endLogits(scale: usize, losses: usize, best: usize, hits: usize): void {
  const stride = <usize>int(1) << 2;
  const end = partEnd(n, 1);
  for (let i = partStart(n, 1); i < end; i++) {
    const at = <usize>i << 2;
    let top: f32 = -f32.POSITIVE_INFINITY;
    for (let b = 0; b < blocks; b++) top = max(top, load<f32>(maxima + at + <usize>b * stride));
    let total: f64 = 0;
    for (let b = 0; b < blocks; b++) {
      const skipped = at + <usize>b * stride;
      total += <f64>load<f32>(sums + skipped) * Math.exp(<f64>load<f32>(maxima + skipped) - <f64>top);
    }
    const lse = <f64>top + Math.log(total);
    let factor: f64 = 0;
    for (let l = 0; l < each; l++) {
      const label = labelOf(i, l);
      const isIgnored = label == IGNORED;
      // A label outside of the vocabulary gives NaN.
      const known = <u32>label < <u32>vocabulary;
      const loss: f32 = known ? <f32>(lse - <f64>load<f32>(own + (<usize>(i * each + l) << 2))) : f32.NaN;
      store<f32>(losses + (<usize>((first + i) * each + l) << 2), isIgnored ? 0 : loss);
      if (!isIgnored) factor += scale ? <f64>load<f32>(scale + placeOf(i, l)) : 1;
    }
    if (hits) store<i32>(hits + (<usize>(first + i) << 2), <i32>(firstOfBlocks(best + at, maxima + at, stride) == labelOf(i, 0)));
    for (let b = 0; b < blocks; b++) {
      const skipped = at + <usize>b * stride;
      store<f32>(sums + skipped, <f32>(Math.exp(<f64>load<f32>(maxima + skipped) - lse) * factor));
    }
  }
}

/** Returns the first of the best classes of all blocks with the greatest logit. */
function firstOfBlocks(best: usize, most: usize, stride: usize): i32 {
  let top: f32 = -f32.POSITIVE_INFINITY;
  let found = -1;
  for (let b = 0; b < blocks; b++) {
    const value = load<f32>(most + <usize>b * stride);
    if (!(value > top)) continue;
    top = value;
    found = load<i32>(best + <usize>b * stride);
  }
  return found;
}

function differentiate(h: usize, w: usize, codeScales: usize): void {
  const parts = pointer(11), dw = pointer(12), c = pointer(13);
  const type = int(6), partCount = int(7);
  const begin = sessionOf(int(8), int(9)), add = sessionOf(int(10), int(11)), toWeight = sessionOf(int(12), int(13));
  const wanted = blockType(begin, type, codeScales);
  const dloss = load<f32>(pointer(10));
  // What all columns have in common, and the scales of each.
  const scales: usize = int(15) ? pointer(9) : 0;
  const factor = scales ? dloss : load<f32>(pointer(9)) * dloss;
  const cap = float(14);
  const lineBytes = <usize>width << 2;
  const from = int(16), to = int(17);
  const isNarrow = int(18) != 0;
  const end = partEnd(partCount, 1);
  for (let part = partStart(partCount, 1); part < end; part++) {
    const out = parts + <usize>part * n * lineBytes;
    if (parts && from == 0 && part >= blocks) memory.fill(out, 0, <usize>n * lineBytes);
    // The first block of the page that is the part's own.
    for (let b = from + (part + partCount - from % partCount) % partCount; b < to; b += partCount) {
      const count = blockRows(b);
      const skipped = <usize>b * block * lineBytes;
      if (n == 0) {
        if (!dw) continue;
        if (!c) memory.fill(dw + skipped, 0, <usize>count * lineBytes);
        else if (c != dw) memory.copy(dw + skipped, c + skipped, <usize>count * lineBytes);
        continue;
      }
      const kept = pageLogits(b - from, isNarrow);
      const x = isNarrow ? threadScratch : kept;
      const at = <usize>b * int(1) << 2;
      if (cap != 0) differentiateCap(x, count, maxima + at, cap);
      if (!pointwiseScaled(isNarrow ? kept : 0, x, sums + at, count, n, factor, NEGLIGIBLE)) {
        if (isNarrow) widenBlock(kept, x, count);
        scaleBlock(x, count, sums + at, factor);
      }
      if (isNarrow) scaleOwn(x, b * block, count, maxima + at, sums + at, factor);
      subtractOwn(x, b * block, count, factor, scales, cap);
      if (dw) product(toWeight, x, h, c ? c + skipped : 0, dw + skipped, count, width, n, false, false, c ? MATRIX : NO_ADDEND);
      if (parts) {
        const weights = blockOf(w, type, codeScales, b, from, wanted, widenedAt(isNarrow));
        if (b == part) typedProduct(begin, x, weights, 0, out, n, width, count, true, false, NO_ADDEND, F32, wanted, n, width);
        else typedProduct(add, x, weights, out, out, n, width, count, true, false, MATRIX, F32, wanted, n, width);
      }
    }
  }
}

/** Capped logits x[count][n] become exp(x - most), times the derivative of the cap. */
function differentiateCap(x: usize, count: i32, most: usize, cap: f32): void {
  const inverse = f32x4.splat(1 / cap);
  for (let v = 0; v < count; v++) {
    let i = 0;
    for (; i + 4 <= n; i += 4) {
      const at = <usize>i << 2, z = v128.load(x + at);
      v128.store(x + at, f32x4.mul(exp4(f32x4.sub(z, v128.load(most + at))), capSlope4(z, inverse)));
    }
    if (i < n) {
      const at = <usize>i << 2, z = loadSome(x + at, n - i);
      storeSome(x + at, f32x4.mul(exp4(f32x4.sub(z, loadSome(most + at, n - i))), capSlope4(z, inverse)), n - i);
    }
    x += <usize>n << 2;
  }
}

/** p times a factor, 0 where p is negligible */
// @ts-ignore: decorator
@inline
function scaled4(p: v128, factor: v128, least: v128): v128 {
  return v128.andnot(f32x4.mul(p, factor), f32x4.lt(f32x4.abs(p), least));
}

/** x[count][n] *= each column's scale, times the factor; negligible probabilities become 0. Scales have either sign. */
function scaleBlock(x: usize, count: i32, scales: usize, factor: f32): void {
  const scale = f32x4.splat(factor), least = f32x4.splat(NEGLIGIBLE);
  for (let v = 0; v < count; v++) {
    let i = 0;
    for (; i + 4 <= n; i += 4) {
      const p = f32x4.mul(v128.load(x + (<usize>i << 2)), v128.load(scales + (<usize>i << 2)));
      v128.store(x + (<usize>i << 2), scaled4(p, scale, least));
    }
    if (i < n) {
      const p = f32x4.mul(loadSome(x + (<usize>i << 2), n - i), loadSome(scales + (<usize>i << 2), n - i));
      storeSome(x + (<usize>i << 2), scaled4(p, scale, least), n - i);
    }
    x += <usize>n << 2;
  }
}

function subtractOwn(x: usize, start: i32, count: i32, factor: f32, scales: usize, cap: f32): void {
  for (let i = 0; i < n; i++) {
    for (let l = 0; l < each; l++) {
      const label = labelOf(i, l) - start;
      if (<u32>label >= <u32>count) continue;
      const at = x + (<usize>(label * n + i) << 2);
      const slope: f32 = cap != 0 ? capSlopeOf(load<f32>(own + (<usize>(i * each + l) << 2)), cap) : 1;
      const scale: f32 = scales ? load<f32>(scales + placeOf(i, l)) : 1;
      store<f32>(at, load<f32>(at) - factor * scale * slope);
    }
  }
}

function addParts(parts: usize, out: usize): void {
  const count = n * width;
  const partBytes = <usize>count << 2;
  const end = partEnd(count, 4);
  for (let i = partStart(count, 4); i < end; i += 4) {
    const at = <usize>i << 2;
    const lanes = min(4, count - i);
    let sum = f32x4.splat(0);
    for (let part = 0; part < int(6); part++) {
      const from = parts + <usize>part * partBytes + at;
      sum = f32x4.add(sum, lanes == 4 ? v128.load(from) : loadSome(from, lanes));
    }
    if (lanes == 4) v128.store(out + at, sum);
    else storeSome(out + at, sum, lanes);
  }
}
