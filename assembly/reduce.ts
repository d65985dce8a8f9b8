/** Sums in a fixed order, whatever the thread count. */
import { int, partEnd, partStart, pointer, threadIndex } from "./command";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { Opcode } from "./opcodes";

/** Columns that are handed out as one: a cache line. */
const UNIT: i32 = 16;
/** Rows that are summed in registers before they are added to the total: keeps the error of long columns low. */
const ROWS: i32 = 32;
/** Elements of a partial sum of squares; the partial sums are f64. */
const BLOCK: i32 = 4096;

/** y[n] = start[n] (or 0 where `start` is null) + the sum of x[rows, n], rows `stride` bytes apart; y may be `start`. */
function columnSum(x: usize, stride: usize, start: usize, y: usize, rows: i32, n: i32): void {
  if (!start) memory.fill(y, 0, (<usize>n) << 2);
  else if (start != y) memory.copy(y, start, (<usize>n) << 2);
  for (let first = 0; first < rows; first += ROWS, x += ROWS * stride) {
    const count = min(ROWS, rows - first);
    let column: usize = 0;
    const bytes = (<usize>n) << 2;
    for (; column + 64 <= bytes; column += 64) {
      let s0 = f32x4.splat(0);
      let s1 = s0;
      let s2 = s0;
      let s3 = s0;
      let at = x + column;
      for (let i = count; i > 0; i--, at += stride) {
        s0 = f32x4.add(s0, v128.load(at));
        s1 = f32x4.add(s1, v128.load(at, 16));
        s2 = f32x4.add(s2, v128.load(at, 32));
        s3 = f32x4.add(s3, v128.load(at, 48));
      }
      const total = y + column;
      v128.store(total, f32x4.add(v128.load(total), s0));
      v128.store(total, f32x4.add(v128.load(total, 16), s1), 16);
      v128.store(total, f32x4.add(v128.load(total, 32), s2), 32);
      v128.store(total, f32x4.add(v128.load(total, 48), s3), 48);
    }
    for (; column + 16 <= bytes; column += 16) {
      let s = f32x4.splat(0);
      let at = x + column;
      for (let i = count; i > 0; i--, at += stride) s = f32x4.add(s, v128.load(at));
      v128.store(y + column, f32x4.add(v128.load(y + column), s));
    }
    const rest = n & 3;
    if (rest) {
      let s = f32x4.splat(0);
      let at = x + column;
      for (let i = count; i > 0; i--, at += stride) s = f32x4.add(s, loadSome(at, rest));
      storeSome(y + column, f32x4.add(loadSome(y + column, rest), s), rest);
    }
  }
}

/** Sum of squares of up to BLOCK elements. */
function squares(x: usize, n: i32): f64 {
  let s0 = f32x4.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  const end = x + ((<usize>n & ~15) << 2);
  for (; x < end; x += 64) {
    const a = v128.load(x);
    const b = v128.load(x, 16);
    const c = v128.load(x, 32);
    const d = v128.load(x, 48);
    s0 = f32x4.add(s0, f32x4.mul(a, a));
    s1 = f32x4.add(s1, f32x4.mul(b, b));
    s2 = f32x4.add(s2, f32x4.mul(c, c));
    s3 = f32x4.add(s3, f32x4.mul(d, d));
  }
  let i = n & 15;
  for (; i >= 4; i -= 4, x += 16) {
    const a = v128.load(x);
    s0 = f32x4.add(s0, f32x4.mul(a, a));
  }
  if (i) {
    const a = loadSome(x, i);
    s1 = f32x4.add(s1, f32x4.mul(a, a));
  }
  return <f64>sum4(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
}

/**
 * Commands:
 * - ColumnSum: x [rows, columns], start [columns] or null, y [columns]; rows, columns
 * - SumSquares: x [n], partial f64[ceil(n / 4096)]; n
 * - Sum: partial f64[n], y f32[1]; n. One thread; for the few partial sums of other reductions.
 */
export function reduceCommand(opcode: u32): void {
  switch (opcode) {
    case Opcode.ColumnSum: {
      const columns = int(1);
      const first = partStart(columns, UNIT);
      const n = partEnd(columns, UNIT) - first;
      if (n <= 0) return;
      const at = (<usize>first) << 2;
      const start = pointer(1);
      columnSum(pointer(0) + at, (<usize>columns) << 2, start ? start + at : 0, pointer(2) + at, int(0), n);
      break;
    }
    case Opcode.SumSquares: {
      const n = int(0);
      const x = pointer(0);
      const partial = pointer(1);
      const end = partEnd(n, BLOCK);
      for (let i = partStart(n, BLOCK); i < end; i += BLOCK) {
        store<f64>(partial + ((<usize>(i / BLOCK)) << 3), squares(x + ((<usize>i) << 2), min(BLOCK, end - i)));
      }
      break;
    }
    case Opcode.Sum: {
      if (threadIndex != 0) return;
      const partial = pointer(0);
      let total: f64 = 0;
      for (let i = 0, n = int(0); i < n; i++) total += load<f64>(partial + ((<usize>i) << 3));
      store<f32>(pointer(1), <f32>total);
      break;
    }
    default:
      unreachable();
  }
}
