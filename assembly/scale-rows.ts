/** A factor for each row of a matrix, and the gradient of that factor. A row is computed by one thread, from its begin to its end. */
import { int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { Opcode } from "./opcodes";

/**
 * - ScaleRows: x [rows, columns], factors [rows], out [rows, columns]; rows, columns
 * - RowDot: a, b [rows, columns], out [rows]; rows, columns
 */
export function scaleRowsCommand(opcode: u32): void {
  const rows = int(0), columns = int(1);
  const bytes = <usize>columns << 2;
  const end = partEnd(rows, 16);
  for (let row = partStart(rows, 16); row < end; row++) {
    const at = <usize>row * bytes;
    if (opcode == Opcode.ScaleRows) scale(pointer(0) + at, load<f32>(pointer(1) + (<usize>row << 2)), pointer(2) + at, columns);
    else store<f32>(pointer(2) + (<usize>row << 2), dot(pointer(0) + at, pointer(1) + at, columns));
  }
}

/** out[n] = factor x[n] */
function scale(x: usize, factor: f32, out: usize, n: i32): void {
  const factors = f32x4.splat(factor);
  const end = x + (<usize>(n & ~3) << 2);
  for (; x < end; x += 16, out += 16) v128.store(out, f32x4.mul(v128.load(x), factors));
  const rest = n & 3;
  if (rest) storeSome(out, f32x4.mul(loadSome(x, rest), factors), rest);
}

/** The sum of a[n] b[n]. */
function dot(a: usize, b: usize, n: i32): f32 {
  let sum = f32x4.splat(0);
  const end = a + (<usize>(n & ~3) << 2);
  for (; a < end; a += 16, b += 16) sum = f32x4.add(sum, f32x4.mul(v128.load(a), v128.load(b)));
  const rest = n & 3;
  if (rest) sum = f32x4.add(sum, f32x4.mul(loadSome(a, rest), loadSome(b, rest)));
  return sum4(sum);
}
