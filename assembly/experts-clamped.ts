/**
 * What surrounds the products of experts with biases whose gate g and up u are kept within limits (gpt-oss): h = (u + 1) g sigmoid(alpha g). Biases of
 * gate and up, [E, 2 I], are those of gate and up by turns; those of down are [E, H]. Rows and scalars are as in experts.ts.
 */
import { float, int, partEnd, partStart, pointer } from "./command";
import { Opcode } from "./opcodes";
import { sigmoid4 } from "./math";

// @ts-ignore: decorator
@inline
function floats(count: i32): usize {
  return <usize>count << 2;
}

// @ts-ignore: decorator
@inline
function sigmoid(x: f32): f32 {
  return f32x4.extract_lane(sigmoid4(f32x4.splat(x)), 0);
}

/**
 * Scalars: expert, k, width, alpha, limit. Operands 0 and 1: slots, begins.
 * - ExpertClamped: gate, up, biases or null, out (which may be gate): h
 * - ExpertClampedGrad: gate, up, dh, weights, dweights [T, k], hidden or null, biases or null: as ExpertGateGrad
 * - ExpertAddBias: rows, biases [E, width]: rows += the expert's biases
 * - ExpertBiasDot: rows, biases [E, width], dweights: dweights += the expert's biases . rows
 */
export function clampedCommand(opcode: u32): void {
  const expert = int(0), k = int(1), width = int(2);
  const begin = load<i32>(pointer(1) + floats(expert));
  const count = load<i32>(pointer(1) + floats(expert + 1)) - begin;
  const slots = pointer(0) + floats(begin);
  if (opcode == Opcode.ExpertBiasGrad) {
    biasGrad(slots, count);
    return;
  }
  const end = partEnd(count, 1);
  for (let i = partStart(count, 1); i < end; i++) {
    const row = floats(i) * width;
    const slot = load<i32>(slots + floats(i));
    if (opcode == Opcode.ExpertClamped) clamped(pointer(2) + row, pointer(3) + row, biasesOf(pointer(4), expert, 2 * width), pointer(5) + row, width);
    else if (opcode == Opcode.ExpertClampedGrad) clampedGrad(slot, row, biasesOf(pointer(8), expert, 2 * width), width);
    else if (opcode == Opcode.ExpertAddBias) addRow(pointer(2) + row, pointer(3) + floats(expert) * width, width);
    else {
      const at = pointer(4) + floats(slot);
      store<f32>(at, load<f32>(at) + <f32>dot(pointer(2) + row, pointer(3) + floats(expert) * width, width));
    }
  }
}

// @ts-ignore: decorator
@inline
function biasesOf(biases: usize, expert: i32, width: i32): usize {
  return biases ? biases + floats(expert) * width : 0;
}

function dot(a: usize, b: usize, n: i32): f64 {
  let sum: f64 = 0;
  for (let i = 0; i < n; i++) sum += <f64>load<f32>(a + floats(i)) * <f64>load<f32>(b + floats(i));
  return sum;
}

function addRow(x: usize, y: usize, n: i32): void {
  for (let i = 0; i < n; i++) store<f32>(x + floats(i), load<f32>(x + floats(i)) + load<f32>(y + floats(i)));
}

function clamped(gate: usize, up: usize, biases: usize, out: usize, width: i32): void {
  const alpha = float(3), limit = float(4);
  for (let i = 0; i < width; i++) {
    let g = load<f32>(gate + floats(i)), u = load<f32>(up + floats(i));
    if (biases) {
      g += load<f32>(biases + floats(2 * i));
      u += load<f32>(biases + floats(2 * i), 4);
    }
    // A NaN stays one.
    g = min(g, limit);
    u = max(min(u, limit), -limit);
    store<f32>(out + floats(i), (u + 1) * (g * sigmoid(alpha * g)));
  }
}

/** Numbers beyond a limit have no gradient. */
function clampedGrad(slot: i32, row: usize, biases: usize, width: i32): void {
  const gate = pointer(2) + row, up = pointer(3) + row, dh = pointer(4) + row;
  const weight = load<f32>(pointer(5) + floats(slot));
  const hidden = pointer(7) ? pointer(7) + row : 0;
  const alpha = float(3), limit = float(4);
  let sum: f64 = 0;
  for (let i = 0; i < width; i++) {
    const at = floats(i);
    let g = load<f32>(gate + at), u = load<f32>(up + at);
    if (biases) {
      g += load<f32>(biases + 2 * at);
      u += load<f32>(biases + 2 * at, 4);
    }
    const keepsGate = g <= limit, keepsUp = u <= limit && u >= -limit;
    g = min(g, limit);
    u = max(min(u, limit), -limit);
    const s = sigmoid(alpha * g), glu = g * s;
    const h = (u + 1) * glu;
    const d = load<f32>(dh + at);
    sum += <f64>h * <f64>d;
    if (hidden) store<f32>(hidden + at, weight * h);
    const weighted = weight * d;
    // sigmoid(-x) is 1 - sigmoid(x) without cancellation.
    store<f32>(gate + at, keepsGate ? weighted * (u + 1) * (s + alpha * glu * sigmoid(-alpha * g)) : 0);
    store<f32>(up + at, keepsUp ? weighted * glu : 0);
  }
  store<f32>(pointer(6) + floats(slot), <f32>sum);
}

/**
 * ExpertBiasGrad: gate, up (their gradients), dy, weights [T, k], outputs of gate and up [E, 2 I], of down [E, H], each or null; expert, k, I, H. Sums over
 * the expert's rows in their order: of the gradients of gate and up, and of dy times the weights.
 */
function biasGrad(slots: usize, count: i32): void {
  const expert = int(0), size = int(2), width = int(3);
  if (pointer(6)) {
    const out = pointer(6) + floats(expert) * 2 * size;
    const end = partEnd(size, 16);
    for (let i = partStart(size, 16); i < end; i++) {
      let g: f64 = 0, u: f64 = 0;
      for (let row = 0; row < count; row++) {
        const at = floats(row) * size + floats(i);
        g += <f64>load<f32>(pointer(2) + at);
        u += <f64>load<f32>(pointer(3) + at);
      }
      store<f32>(out + floats(2 * i), <f32>g);
      store<f32>(out + floats(2 * i), <f32>u, 4);
    }
  }
  if (!pointer(7)) return;
  const out = pointer(7) + floats(expert) * width;
  const end = partEnd(width, 16);
  for (let i = partStart(width, 16); i < end; i++) {
    let sum: f64 = 0;
    for (let row = 0; row < count; row++) {
      const weight = load<f32>(pointer(5) + floats(load<i32>(slots + floats(row))));
      sum += <f64>weight * <f64>load<f32>(pointer(4) + floats(row) * width + floats(i));
    }
    store<f32>(out + floats(i), <f32>sum);
  }
}
