/**
 * Adafactor (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235), as PyTorch computes it: second moments of a matrix as one value for each
 * row and one for each column. All is f32; sums have a fixed order, whatever the thread count; constants of a command are computed in f64
 * and rounded once. hyper = [lr, weight decay, gradient scale, share of the new squares, relative step].
 */
import { float, int, partEnd, partStart, pointer, threadScratch } from "./command";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { decay4, hyper4, lerp4 } from "./optimizer-lanes";

/** Elements of a row whose squares are summed in registers; the sums of these are f64. */
const BLOCK: i32 = 256;
/** Columns that are handed out as one (a cache line), and columns whose sums are in the scratch of a thread at a time. */
const UNIT: i32 = 16;
const PIECE: i32 = 65536;
/** Rows that are summed in registers before they are added to the total: keeps the error of long columns low. */
const SUMMED: i32 = 32;

/** Sum of (x scale)^2 of n elements. */
function scaledSquares(x: usize, scale: v128, n: i32): f64 {
  let total: f64 = 0;
  for (; n > 0; n -= BLOCK) {
    const count = min(n, BLOCK);
    let s0 = f32x4.splat(0), s1 = s0;
    for (let i = count >> 3; i > 0; i--, x += 32) {
      const a = f32x4.mul(v128.load(x), scale), b = f32x4.mul(v128.load(x, 16), scale);
      s0 = f32x4.add(s0, f32x4.mul(a, a));
      s1 = f32x4.add(s1, f32x4.mul(b, b));
    }
    for (let i = count & 7; i > 0; i -= 4, x += 16) {
      const a = f32x4.mul(i >= 4 ? v128.load(x) : loadSome(x, i), scale);
      s0 = f32x4.add(s0, f32x4.mul(a, a));
    }
    total += <f64>sum4(f32x4.add(s0, s1));
  }
  return total;
}

/** Command AdafactorRows: grad [rows, columns], v [rows], hyper [5], v' [rows]; rows, columns. v' goes towards the means of g^2 in rows. */
export function adafactorRowsCommand(): void {
  const columns = int(1);
  const end = partEnd(int(0), 1);
  const hyper = pointer(2);
  const scale = hyper4(hyper, 8);
  const take = <f64>load<f32>(hyper, 12);
  for (let row = partStart(int(0), 1); row < end; row++) {
    const at = <usize>row << 2;
    const mean = scaledSquares(pointer(0) + <usize>row * (<usize>columns << 2), scale, columns) / <f64>columns;
    store<f32>(pointer(3) + at, <f32>((1 - take) * <f64>load<f32>(pointer(1) + at) + take * mean));
  }
}

/** Command AdafactorShare: v [rows], share [rows]; rows, least. share = v / max(mean of v, least). */
export function adafactorShareCommand(): void {
  const rows = int(0);
  let total: f64 = 0;
  for (let at = pointer(0), end = at + (<usize>rows << 2); at < end; at += 4) total += <f64>load<f32>(at);
  const mean = max<f64>(total / <f64>rows, <f64>float(1));
  for (let row = partStart(rows, UNIT), end = partEnd(rows, UNIT); row < end; row++) {
    const at = <usize>row << 2;
    store<f32>(pointer(1) + at, <f32>(<f64>load<f32>(pointer(0) + at) / mean));
  }
}

/** sums[n] = the sums of (x scale)^2 of x[rows, n], rows `stride` bytes apart; n up to PIECE. */
function columnSquares(x: usize, stride: usize, scale: v128, sums: usize, rows: i32, n: i32): void {
  memory.fill(sums, 0, <usize>((n + 3) & ~3) << 2);
  for (let first = 0; first < rows; first += SUMMED, x += <usize>SUMMED * stride) {
    const count = min(SUMMED, rows - first);
    for (let column = 0; column < n; column += 4) {
      const rest = n - column;
      let s = f32x4.splat(0);
      let at = x + (<usize>column << 2);
      for (let i = count; i > 0; i--, at += stride) {
        const g = f32x4.mul(rest >= 4 ? v128.load(at) : loadSome(at, rest), scale);
        s = f32x4.add(s, f32x4.mul(g, g));
      }
      const total = sums + (<usize>column << 2);
      v128.store(total, f32x4.add(v128.load(total), s));
    }
  }
}

/** Command AdafactorColumns: grad [rows, columns], v [columns], hyper [5], v' [columns]; rows, columns. v' goes towards the means of g^2 in columns. */
export function adafactorColumnsCommand(): void {
  const rows = int(0);
  const columns = int(1);
  const hyper = pointer(2);
  const scale = hyper4(hyper, 8);
  const take = <f64>load<f32>(hyper, 12);
  const keep4 = f32x4.splat(<f32>(1 - take));
  const take4 = f32x4.splat(<f32>(take / <f64>rows));
  const end = partEnd(columns, UNIT);
  for (let column = partStart(columns, UNIT); column < end; column += PIECE) {
    const n = min(PIECE, end - column);
    columnSquares(pointer(0) + (<usize>column << 2), <usize>columns << 2, scale, threadScratch, rows, n);
    let sums = threadScratch;
    let v = pointer(1) + (<usize>column << 2);
    let next = pointer(3) + (<usize>column << 2);
    for (let i = n >> 2; i > 0; i--, v += 16, sums += 16, next += 16) {
      v128.store(next, lerp4(v128.load(v), keep4, v128.load(sums), take4));
    }
    const rest = n & 3;
    if (rest) storeSome(next, lerp4(loadSome(v, rest), keep4, loadSome(sums, rest), take4), rest);
  }
}

/** The least root of a second moment that is divided by: 2^-23, PyTorch's epsilon of f32. */
// @ts-ignore: decorator
@inline
const LEAST: f32 = 1.1920928955078125e-7;

/** g / sqrt(max(share v, LEAST^2)). */
// @ts-ignore: decorator
@inline
function unit4(grad: v128, scale: v128, share: v128, v: v128): v128 {
  const squared = f32x4.max(f32x4.mul(share, v), f32x4.splat(LEAST * LEAST));
  return f32x4.div(f32x4.mul(grad, scale), f32x4.sqrt(squared));
}

/**
 * Command AdafactorSquares: grad [rows, columns], v [columns], hyper [5], share [rows] or null, partial f64[rows]; rows, columns. The sums of
 * the squares of each row of the direction.
 */
export function adafactorSquaresCommand(): void {
  const columns = int(1);
  const end = partEnd(int(0), 1);
  const scale = hyper4(pointer(2), 8);
  const shares = pointer(3);
  for (let row = partStart(int(0), 1); row < end; row++) {
    const share = f32x4.splat(shares ? load<f32>(shares + (<usize>row << 2)) : 1);
    let grad = pointer(0) + <usize>row * (<usize>columns << 2);
    let v = pointer(1);
    let total: f64 = 0;
    for (let left = columns; left > 0; left -= BLOCK) {
      const count = min(left, BLOCK);
      let sum = f32x4.splat(0);
      for (let i = count >> 2; i > 0; i--, grad += 16, v += 16) {
        const u = unit4(v128.load(grad), scale, share, v128.load(v));
        sum = f32x4.add(sum, f32x4.mul(u, u));
      }
      const rest = count & 3;
      if (rest) {
        const u = unit4(loadSome(grad, rest), scale, share, loadSome(v, rest));
        sum = f32x4.add(sum, f32x4.mul(u, u));
      }
      total += <f64>sum4(sum);
    }
    store<f64>(pointer(4) + (<usize>row << 3), total);
  }
}

/**
 * Command AdafactorStep: p, grad [rows, columns], v [columns], hyper [5], squares of p [1], squares of the direction [1], share [rows] or null,
 * p' [rows, columns]; rows, columns, least size of p. p' = p (1 - lr decay) - max(least, rms of p) step / max(1, rms of the direction) direction.
 */
export function adafactorStepCommand(): void {
  const columns = int(1);
  const end = partEnd(int(0), 1);
  const hyper = pointer(3);
  const shares = pointer(6);
  const count = <f64>int(0) * <f64>columns;
  const size = max<f64>(<f64>float(2), sqrt<f64>(<f64>load<f32>(pointer(4)) / count));
  const clip = max<f64>(1, sqrt<f64>(<f64>load<f32>(pointer(5)) / count));
  const decay = decay4(hyper, 4);
  const scale = hyper4(hyper, 8);
  const rate = f32x4.splat(<f32>((size * <f64>load<f32>(hyper, 16)) / clip));
  for (let row = partStart(int(0), 1); row < end; row++) {
    const share = f32x4.splat(shares ? load<f32>(shares + (<usize>row << 2)) : 1);
    const at = <usize>row * (<usize>columns << 2);
    let p = pointer(0) + at;
    let grad = pointer(1) + at;
    let v = pointer(2);
    let next = pointer(7) + at;
    for (let i = columns >> 2; i > 0; i--, p += 16, grad += 16, v += 16, next += 16) {
      const u = unit4(v128.load(grad), scale, share, v128.load(v));
      v128.store(next, f32x4.sub(f32x4.mul(v128.load(p), decay), f32x4.mul(rate, u)));
    }
    const rest = columns & 3;
    if (rest) {
      const u = unit4(loadSome(grad, rest), scale, share, loadSome(v, rest));
      storeSome(next, f32x4.sub(f32x4.mul(loadSome(p, rest), decay), f32x4.mul(rate, u)), rest);
    }
  }
}
