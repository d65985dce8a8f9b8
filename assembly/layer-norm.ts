/**
 * Layer normalisation (Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450) and its gradient, rows of f32.
 * With m = mean(x), r = 1 / sqrt(mean((x - m)^2) + epsilon) and the normed row n = (x - m) r: y = n scale + bias.
 */
import { float, int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { Opcode } from "./opcodes";

/** Mean of a row, summed in an order that only its length fixes. */
function mean(x: usize, columns: i32): f32 {
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  let i = columns;
  for (; i >= 16; i -= 16, x += 64) {
    s0 = f32x4.add(s0, v128.load(x));
    s1 = f32x4.add(s1, v128.load(x, 16));
    s2 = f32x4.add(s2, v128.load(x, 32));
    s3 = f32x4.add(s3, v128.load(x, 48));
  }
  for (; i >= 4; i -= 4, x += 16) s0 = f32x4.add(s0, v128.load(x));
  if (i) s1 = f32x4.add(s1, loadSome(x, i));
  return sum4(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3))) / <f32>columns;
}

/** 1 / sqrt(mean((x - m)^2) + epsilon) of a row, m its mean: a second pass, which loses no bits to a large mean. */
function reciprocalDeviation(x: usize, m: f32, columns: i32, epsilon: f32): f32 {
  const mid = f32x4.splat(m);
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let s2 = f32x4.splat(0);
  let s3 = f32x4.splat(0);
  let i = columns;
  for (; i >= 16; i -= 16, x += 64) {
    const a = f32x4.sub(v128.load(x), mid);
    const b = f32x4.sub(v128.load(x, 16), mid);
    const c = f32x4.sub(v128.load(x, 32), mid);
    const d = f32x4.sub(v128.load(x, 48), mid);
    s0 = f32x4.add(s0, f32x4.mul(a, a));
    s1 = f32x4.add(s1, f32x4.mul(b, b));
    s2 = f32x4.add(s2, f32x4.mul(c, c));
    s3 = f32x4.add(s3, f32x4.mul(d, d));
  }
  for (; i >= 4; i -= 4, x += 16) {
    const a = f32x4.sub(v128.load(x), mid);
    s0 = f32x4.add(s0, f32x4.mul(a, a));
  }
  let sum = sum4(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)));
  for (; i; i--, x += 4) {
    const a = load<f32>(x) - m;
    sum += a * a;
  }
  return <f32>1 / sqrt<f32>(sum / <f32>columns + epsilon);
}

/** Sums of g = dy scale and of g (x - m) over a row. */
let sumOfG: f32 = 0;
let sumOfProducts: f32 = 0;

function addUp(dy: usize, scale: usize, x: usize, m: f32, columns: i32): void {
  const mid = f32x4.splat(m);
  let s0 = f32x4.splat(0);
  let s1 = f32x4.splat(0);
  let p0 = f32x4.splat(0);
  let p1 = f32x4.splat(0);
  let i = columns;
  for (; i >= 8; i -= 8, dy += 32, scale += 32, x += 32) {
    const g0 = f32x4.mul(v128.load(dy), v128.load(scale));
    const g1 = f32x4.mul(v128.load(dy, 16), v128.load(scale, 16));
    s0 = f32x4.add(s0, g0);
    s1 = f32x4.add(s1, g1);
    p0 = f32x4.add(p0, f32x4.mul(g0, f32x4.sub(v128.load(x), mid)));
    p1 = f32x4.add(p1, f32x4.mul(g1, f32x4.sub(v128.load(x, 16), mid)));
  }
  if (i >= 4) {
    const g = f32x4.mul(v128.load(dy), v128.load(scale));
    s0 = f32x4.add(s0, g);
    p0 = f32x4.add(p0, f32x4.mul(g, f32x4.sub(v128.load(x), mid)));
    i -= 4;
    dy += 16;
    scale += 16;
    x += 16;
  }
  if (i) {
    const g = f32x4.mul(loadSome(dy, i), loadSome(scale, i));
    s1 = f32x4.add(s1, g);
    p1 = f32x4.add(p1, f32x4.mul(g, f32x4.sub(loadSome(x, i), mid)));
  }
  sumOfG = sum4(f32x4.add(s0, s1));
  sumOfProducts = sum4(f32x4.add(p0, p1));
}

/** One row: y = (x - m) r scale + bias; y may be x. `bias` is 0 (null) where there is none. */
function normalise(x: usize, scale: usize, bias: usize, y: usize, columns: i32, epsilon: f32): void {
  const m = mean(x, columns);
  const mid = f32x4.splat(m);
  const r = f32x4.splat(reciprocalDeviation(x, m, columns, epsilon));
  const end = y + ((<usize>columns & ~3) << 2);
  if (bias) {
    for (; y < end; x += 16, scale += 16, bias += 16, y += 16) {
      const n = f32x4.mul(f32x4.sub(v128.load(x), mid), r);
      v128.store(y, f32x4.add(f32x4.mul(n, v128.load(scale)), v128.load(bias)));
    }
  } else {
    for (; y < end; x += 16, scale += 16, y += 16) {
      v128.store(y, f32x4.mul(f32x4.mul(f32x4.sub(v128.load(x), mid), r), v128.load(scale)));
    }
  }
  const rest = columns & 3;
  if (rest) {
    const n = f32x4.mul(f32x4.mul(f32x4.sub(loadSome(x, rest), mid), r), loadSome(scale, rest));
    storeSome(y, bias ? f32x4.add(n, loadSome(bias, rest)) : n, rest);
  }
}

/**
 * One row of the gradient of x. With g = dy scale:
 *
 *     dx = r (g - mean(g) - (x - m) r^2 mean(g (x - m))), plus `sum` where there is one
 *
 * dx may be any input. `sum` is 0 (null) or the row that dx is added to.
 */
function inputGradient(dy: usize, x: usize, scale: usize, sum: usize, dx: usize, columns: i32, m: f32, r: f32): void {
  addUp(dy, scale, x, m, columns);
  const mid = f32x4.splat(m);
  const factor = f32x4.splat(r);
  const shift = f32x4.splat(sumOfG / <f32>columns);
  const pull = f32x4.splat(r * r * (sumOfProducts / <f32>columns));
  const end = dx + ((<usize>columns & ~3) << 2);
  if (sum) {
    for (; dx < end; dy += 16, x += 16, scale += 16, sum += 16, dx += 16) {
      const g = f32x4.sub(f32x4.mul(v128.load(dy), v128.load(scale)), shift);
      const d = f32x4.mul(factor, f32x4.sub(g, f32x4.mul(f32x4.sub(v128.load(x), mid), pull)));
      v128.store(dx, f32x4.add(v128.load(sum), d));
    }
  } else {
    for (; dx < end; dy += 16, x += 16, scale += 16, dx += 16) {
      const g = f32x4.sub(f32x4.mul(v128.load(dy), v128.load(scale)), shift);
      v128.store(dx, f32x4.mul(factor, f32x4.sub(g, f32x4.mul(f32x4.sub(v128.load(x), mid), pull))));
    }
  }
  const rest = columns & 3;
  if (rest) {
    const g = f32x4.sub(f32x4.mul(loadSome(dy, rest), loadSome(scale, rest)), shift);
    const d = f32x4.mul(factor, f32x4.sub(g, f32x4.mul(f32x4.sub(loadSome(x, rest), mid), pull)));
    storeSome(dx, sum ? f32x4.add(loadSome(sum, rest), d) : d, rest);
  }
}

/** partial[columns] += dy (x - m) r of one row. */
function addScaleGradient(dy: usize, x: usize, partial: usize, columns: i32, m: f32, r: f32): void {
  const mid = f32x4.splat(m);
  const factor = f32x4.splat(r);
  const end = partial + ((<usize>columns & ~3) << 2);
  for (; partial < end; dy += 16, x += 16, partial += 16) {
    const d = f32x4.mul(v128.load(dy), f32x4.mul(f32x4.sub(v128.load(x), mid), factor));
    v128.store(partial, f32x4.add(v128.load(partial), d));
  }
  const rest = columns & 3;
  if (rest) {
    const d = f32x4.mul(loadSome(dy, rest), f32x4.mul(f32x4.sub(loadSome(x, rest), mid), factor));
    storeSome(partial, f32x4.add(loadSome(partial, rest), d), rest);
  }
}

/**
 * Commands:
 * - LayerNorm: x [rows, columns], scale [columns], bias [columns] or null, y; rows, columns, epsilon
 * - LayerNormGrad: dy, x [rows, columns], scale [columns], sum or null, dx or null, partial or null; rows, columns,
 *   epsilon, block. `partial` [ceil(rows / block), columns] gets the gradient of scale, summed over each block of rows.
 */
export function layerNormCommand(opcode: u32): void {
  const rows = int(0);
  const columns = int(1);
  const epsilon = float(2);
  const stride = (<usize>columns) << 2;
  if (opcode == Opcode.LayerNorm) {
    const x = pointer(0);
    const scale = pointer(1);
    const bias = pointer(2);
    const y = pointer(3);
    const end = partEnd(rows, 1);
    for (let row = partStart(rows, 1); row < end; row++) {
      normalise(x + row * stride, scale, bias, y + row * stride, columns, epsilon);
    }
    return;
  }
  if (opcode != Opcode.LayerNormGrad) unreachable();
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
    const m = mean(x + at, columns);
    const r = reciprocalDeviation(x + at, m, columns, epsilon);
    if (partial) {
      const part = partial + (row / block) * stride;
      if (row % block == 0) memory.fill(part, 0, stride);
      addScaleGradient(dy + at, x + at, part, columns, m, r);
    }
    if (dx) inputGradient(dy + at, x + at, scale, sum ? sum + at : 0, dx + at, columns, m, r);
  }
}
