/**
 * RMS normalisation (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467) and its gradient, rows of f32.
 * With r = 1 / sqrt(mean(x^2) + epsilon): y = x r scale.
 */
import { float, int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { Opcode } from "./opcodes";

/** Sum of squares of a row, in an order that only its length fixes: 16 partial sums. */
function squares(x: usize, columns: i32): f32 {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  let i = columns;
  for (; i >= 16; i -= 16, x += 64) {
    const a = v128.load(x);
    const b = v128.load(x, 16);
    const c = v128.load(x, 32);
    const d = v128.load(x, 48);
    s0 = f32x4.add(s0, f32x4.mul(a, a));
    s1 = f32x4.add(s1, f32x4.mul(b, b));
    s2 = f32x4.add(s2, f32x4.mul(c, c));
    s3 = f32x4.add(s3, f32x4.mul(d, d));
  }
  for (; i >= 4; i -= 4, x += 16) {
    const a = v128.load(x);
    s0 = f32x4.add(s0, f32x4.mul(a, a));
  }
  if (i) {
    const a = loadSome(x, i);
    s1 = f32x4.add(s1, f32x4.mul(a, a));
  }
  return sum4(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
}

/** Sum of dy * scale * x over a row. */
function weightedDot(dy: usize, scale: usize, x: usize, columns: i32): f32 {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let i = columns;
  for (; i >= 8; i -= 8, dy += 32, scale += 32, x += 32) {
    s0 = f32x4.add(s0, f32x4.mul(f32x4.mul(v128.load(dy), v128.load(scale)), v128.load(x)));
    s1 = f32x4.add(s1, f32x4.mul(f32x4.mul(v128.load(dy, 16), v128.load(scale, 16)), v128.load(x, 16)));
  }
  if (i >= 4) {
    s0 = f32x4.add(s0, f32x4.mul(f32x4.mul(v128.load(dy), v128.load(scale)), v128.load(x)));
    i -= 4;
    dy += 16;
    scale += 16;
    x += 16;
  }
  if (i) s1 = f32x4.add(s1, f32x4.mul(f32x4.mul(loadSome(dy, i), loadSome(scale, i)), loadSome(x, i)));
  return sum4(f32x4.add(s0, s1));
}

// @ts-ignore: decorator
@inline
function reciprocalRms(x: usize, columns: i32, epsilon: f32): f32 {
  return <f32>1 / sqrt<f32>(squares(x, columns) / <f32>columns + epsilon);
}

/** One row: y = x r scale; y may be x. */
function normalise(x: usize, scale: usize, y: usize, columns: i32, epsilon: f32): void {
  const r = f32x4.splat(reciprocalRms(x, columns, epsilon));
  const end = y + ((<usize>columns & ~3) << 2);
  for (; y < end; x += 16, scale += 16, y += 16) {
    v128.store(y, f32x4.mul(f32x4.mul(v128.load(x), r), v128.load(scale)));
  }
  const rest = columns & 3;
  if (rest) storeSome(y, f32x4.mul(f32x4.mul(loadSome(x, rest), r), loadSome(scale, rest)), rest);
}

/**
 * One row of the gradient of x. With g = dy scale:
 *
 *     dx = r (g - x r^2 mean(g x)), plus `sum` where there is one
 *
 * dx may be any input. `sum` is 0 (null) or the row that dx is added to.
 */
function inputGradient(dy: usize, x: usize, scale: usize, sum: usize, dx: usize, columns: i32, r: f32): void {
  const mean = weightedDot(dy, scale, x, columns) / <f32>columns;
  const factor = f32x4.splat(r);
  const pull = f32x4.splat(r * r * mean);
  const end = dx + ((<usize>columns & ~3) << 2);
  if (sum) {
    for (; dx < end; dy += 16, x += 16, scale += 16, sum += 16, dx += 16) {
      const g = f32x4.mul(v128.load(dy), v128.load(scale));
      const d = f32x4.mul(factor, f32x4.sub(g, f32x4.mul(v128.load(x), pull)));
      v128.store(dx, f32x4.add(v128.load(sum), d));
    }
  } else {
    for (; dx < end; dy += 16, x += 16, scale += 16, dx += 16) {
      const g = f32x4.mul(v128.load(dy), v128.load(scale));
      v128.store(dx, f32x4.mul(factor, f32x4.sub(g, f32x4.mul(v128.load(x), pull))));
    }
  }
  const rest = columns & 3;
  if (rest) {
    const g = f32x4.mul(loadSome(dy, rest), loadSome(scale, rest));
    const d = f32x4.mul(factor, f32x4.sub(g, f32x4.mul(loadSome(x, rest), pull)));
    storeSome(dx, sum ? f32x4.add(loadSome(sum, rest), d) : d, rest);
  }
}

/** partial[columns] += dy x r of one row. */
function addScaleGradient(dy: usize, x: usize, partial: usize, columns: i32, r: f32): void {
  const factor = f32x4.splat(r);
  const end = partial + ((<usize>columns & ~3) << 2);
  for (; partial < end; dy += 16, x += 16, partial += 16) {
    const d = f32x4.mul(v128.load(dy), f32x4.mul(v128.load(x), factor));
    v128.store(partial, f32x4.add(v128.load(partial), d));
  }
  const rest = columns & 3;
  if (rest) {
    const d = f32x4.mul(loadSome(dy, rest), f32x4.mul(loadSome(x, rest), factor));
    storeSome(partial, f32x4.add(loadSome(partial, rest), d), rest);
  }
}

/**
 * Commands:
 * - RMSNorm: x [rows, columns], scale [columns], y; rows, columns, epsilon
 * - RMSNormGrad: dy, x [rows, columns], scale [columns], sum or null, dx or null, partial or null; rows, columns,
 *   epsilon, block. `partial` [ceil(rows / block), columns] gets the gradient of scale, summed over each block of rows.
 */
export function normCommand(opcode: u32): void {
  const rows = int(0);
  const columns = int(1);
  const epsilon = float(2);
  const stride = (<usize>columns) << 2;
  if (opcode == Opcode.RMSNorm) {
    const x = pointer(0);
    const scale = pointer(1);
    const y = pointer(2);
    const end = partEnd(rows, 1);
    for (let row = partStart(rows, 1); row < end; row++) {
      normalise(x + row * stride, scale, y + row * stride, columns, epsilon);
    }
    return;
  }
  if (opcode != Opcode.RMSNormGrad) unreachable();
  const dy = pointer(0);
  const x = pointer(1);
  const scale = pointer(2);
  const sum = pointer(3);
  const dx = pointer(4);
  const partial = pointer(5);
  const block = int(3);
  const end = partEnd(rows, block);
  for (let row = partStart(rows, block); row < end; row++) {
    const at = row * stride;
    const r = reciprocalRms(x + at, columns, epsilon);
    if (partial) {
      const part = partial + (row / block) * stride;
      if (row % block == 0) memory.fill(part, 0, stride);
      addScaleGradient(dy + at, x + at, part, columns, r);
    }
    if (dx) inputGradient(dy + at, x + at, scale, sum ? sum + at : 0, dx + at, columns, r);
  }
}
