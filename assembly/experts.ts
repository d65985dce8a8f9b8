/**
 * Mixtures of experts: which experts a token goes to, and what surrounds the products of an expert with the rows of its tokens. A slot is a
 * token's choice: slot t * k + j is the j-th expert of token t. All sums have a fixed order, whatever the thread count.
 */
import { geglu, gegluGrad, swiglu, swigluGrad } from "./activation";
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { loadSome, storeSome } from "./lanes";
import { exp4, sigmoid4, sum4 } from "./math";
import { Opcode } from "./opcodes";

/** Elements that are handed out as one: a cache line. */
const UNIT: i32 = 16;

// @ts-ignore: decorator
@inline
function power(x: f32): f32 {
  return f32x4.extract_lane(exp4(f32x4.splat(x)), 0);
}

// @ts-ignore: decorator
@inline
function floats(count: i32): usize {
  return <usize>count << 2;
}

/** 1 / (1 + e^-x) */
// @ts-ignore: decorator
@inline
function sigmoid(x: f32): f32 {
  return f32x4.extract_lane(sigmoid4(f32x4.splat(x)), 0);
}

/** How weights are made of logits (RouteTokens' third number). */
const NORMALISED: i32 = 1, SIGMOID: i32 = 2;

/**
 * Writes the k greatest of x[n] in falling order and where they are; of equal ones the first counts. NaN is never greater. Of sigmoids, those count
 * in the place of x, each with its bias, where there are biases.
 */
function select(x: usize, n: i32, k: i32, values: usize, places: usize, ofSigmoids: bool, biases: usize): void {
  for (let e = 0, count = 0; e < n; e++) {
    let value = load<f32>(x + floats(e));
    if (ofSigmoids) value = sigmoid(value);
    if (biases) value += load<f32>(biases + floats(e));
    if (count == k && !(value > load<f32>(values + floats(k - 1)))) continue;
    if (count < k) count++;
    let at = count - 1;
    for (; at > 0 && value > load<f32>(values + floats(at - 1)); at--) {
      store<f32>(values + floats(at), load<f32>(values + floats(at - 1)));
      store<i32>(places + floats(at), load<i32>(places + floats(at - 1)));
    }
    store<f32>(values + floats(at), value);
    store<i32>(places + floats(at), e);
  }
}

/** Sum of exp(x - top) over x[n]. */
function sumExp(x: usize, n: i32, top: f32): f64 {
  let sum: f64 = 0;
  for (let i = 0; i < n; i++) sum += <f64>power(load<f32>(x + floats(i)) - top);
  return sum;
}

/** Writes the weights of the chosen experts: their sigmoids, or these divided by their sum and epsilon. */
function sigmoidWeights(x: usize, k: i32, isNormalised: bool, epsilon: f32, weights: usize, places: usize): void {
  let sum: f64 = isNormalised ? <f64>epsilon : 1;
  for (let j = 0; j < k; j++) {
    const value = sigmoid(load<f32>(x + floats(load<i32>(places + floats(j)))));
    store<f32>(weights + floats(j), value);
    if (isNormalised) sum += <f64>value;
  }
  for (let j = 0; j < k; j++) store<f32>(weights + floats(j), <f32>(<f64>load<f32>(weights + floats(j)) / sum));
}

/**
 * RouteTokens: logits f32[T, E], biases f32[E] or null, weights f32[T, k], experts i32[T, k]; T, E, k, NORMALISED where the weights of a token add up to
 * 1 and SIGMOID where they are sigmoids, epsilon.
 */
function routeTokens(): void {
  const tokens = int(0), experts = int(1), k = int(2);
  const isNormalised = (int(3) & NORMALISED) != 0, ofSigmoids = (int(3) & SIGMOID) != 0;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    const x = pointer(0) + floats(t) * experts, weights = pointer(2) + floats(t) * k, places = pointer(3) + floats(t) * k;
    select(x, experts, k, weights, places, ofSigmoids, pointer(1));
    if (ofSigmoids) {
      sigmoidWeights(x, k, isNormalised, float(4), weights, places);
      continue;
    }
    const top = load<f32>(weights);
    const sum = isNormalised ? sumExp(weights, k, top) : sumExp(x, experts, top);
    for (let j = 0; j < k; j++) {
      const at = weights + floats(j);
      store<f32>(at, <f32>(<f64>power(load<f32>(at) - top) / sum));
    }
  }
}

/** dlogits of sigmoids s, zero elsewhere: s (1 - s) dw, or, of weights w that are s divided by their sum and epsilon, (1 - s) w (dw - c). */
function sigmoidGrad(x: usize, k: i32, isNormalised: bool, c: f64, weights: usize, places: usize, dweights: usize, out: usize): void {
  for (let j = 0; j < k; j++) {
    const at = floats(load<i32>(places + floats(j)));
    const w = <f64>load<f32>(weights + floats(j));
    const change = <f64>load<f32>(dweights + floats(j)) - (isNormalised ? c : 0);
    store<f32>(out + at, <f32>(w * <f64>sigmoid(-load<f32>(x + at)) * change));
  }
}

/**
 * RouteTokensGrad: logits, weights, experts, dweights f32[T, k], dlogits f32[T, E]; T, E, k, as above.
 * dlogits = w (dw - c) where an expert is chosen, c the sum of w dw. Where p is a softmax over all experts, it is -c p elsewhere; else 0.
 */
function routeTokensGrad(): void {
  const tokens = int(0), experts = int(1), k = int(2);
  const isNormalised = (int(3) & NORMALISED) != 0, ofSigmoids = (int(3) & SIGMOID) != 0;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    const x = pointer(0) + floats(t) * experts, out = pointer(4) + floats(t) * experts;
    const row = floats(t) * k;
    const weights = pointer(1) + row, places = pointer(2) + row, dweights = pointer(3) + row;
    let c: f64 = 0;
    for (let j = 0; j < k; j++) c += <f64>load<f32>(weights + floats(j)) * <f64>load<f32>(dweights + floats(j));
    if (isNormalised || ofSigmoids) {
      memory.fill(out, 0, floats(experts));
    } else {
      // The first chosen expert has the greatest logit.
      const top = load<f32>(x + floats(load<i32>(places)));
      const factor = -c / sumExp(x, experts, top);
      for (let e = 0; e < experts; e++) store<f32>(out + floats(e), <f32>(<f64>power(load<f32>(x + floats(e)) - top) * factor));
    }
    if (ofSigmoids) {
      sigmoidGrad(x, k, isNormalised, c, weights, places, dweights, out);
      continue;
    }
    for (let j = 0; j < k; j++) {
      const w = <f64>load<f32>(weights + floats(j));
      store<f32>(out + floats(load<i32>(places + floats(j))), <f32>(w * (<f64>load<f32>(dweights + floats(j)) - c)));
    }
  }
}

/** The expert of a slot; -1 where it is none of the `experts`, or its token has chosen it before. */
function expertOf(chosen: usize, slot: i32, k: i32, experts: i32): i32 {
  const expert = load<i32>(chosen + floats(slot));
  if (<u32>expert >= <u32>experts) return -1;
  for (let at = slot - (slot % k); at < slot; at++) if (load<i32>(chosen + floats(at)) == expert) return -1;
  return expert;
}

/**
 * SortTokens: experts i32[T, k], slots i32[T * k], begins i32[E + 1], counts i32[E]; T, k, E. The slots by expert, those of one in the order of
 * the tokens; an expert's slots begin at begins[expert], and are counts[expert].
 */
function sortTokens(): void {
  if (threadIndex != 0) return;
  const chosen = pointer(0), slots = pointer(1), begins = pointer(2), counts = pointer(3);
  const k = int(1), experts = int(2), size = int(0) * k;
  memory.fill(counts, 0, floats(experts));
  for (let slot = 0; slot < size; slot++) {
    const expert = expertOf(chosen, slot, k, experts);
    if (expert >= 0) store<i32>(counts + floats(expert), load<i32>(counts + floats(expert)) + 1);
  }
  let begin = 0;
  for (let expert = 0; expert < experts; expert++) {
    store<i32>(begins + floats(expert), begin);
    begin += load<i32>(counts + floats(expert));
    store<i32>(counts + floats(expert), 0);
  }
  store<i32>(begins + floats(experts), begin);
  for (let slot = 0; slot < size; slot++) {
    const expert = expertOf(chosen, slot, k, experts);
    if (expert < 0) continue;
    const count = load<i32>(counts + floats(expert));
    store<i32>(slots + floats(load<i32>(begins + floats(expert)) + count), slot);
    store<i32>(counts + floats(expert), count + 1);
  }
}

/** y[n] += factor x[n] */
function addScaled(x: usize, factor: f32, y: usize, n: i32): void {
  const scale = f32x4.splat(factor);
  const end = y + floats(n & ~3);
  for (; y < end; x += 16, y += 16) v128.store(y, f32x4.add(v128.load(y), f32x4.mul(v128.load(x), scale)));
  const rest = n & 3;
  if (rest) storeSome(y, f32x4.add(loadSome(y, rest), f32x4.mul(loadSome(x, rest), scale)), rest);
}

/** x[n] *= factor */
function scaleRow(x: usize, factor: f32, n: i32): void {
  const scale = f32x4.splat(factor);
  const end = x + floats(n & ~3);
  for (; x < end; x += 16) v128.store(x, f32x4.mul(v128.load(x), scale));
  const rest = n & 3;
  if (rest) storeSome(x, f32x4.mul(loadSome(x, rest), scale), rest);
}

/** The sum of a[n] b[n]. */
function dot(a: usize, b: usize, n: i32): f32 {
  let sum = f32x4.splat(0);
  const end = a + floats(n & ~3);
  for (; a < end; a += 16, b += 16) sum = f32x4.add(sum, f32x4.mul(v128.load(a), v128.load(b)));
  const rest = n & 3;
  if (rest) sum = f32x4.add(sum, f32x4.mul(loadSome(a, rest), loadSome(b, rest)));
  return sum4(sum);
}

/**
 * Rows of an expert, of `width` columns, in the order of its slots. Operands 0 and 1 are the expert's slots and begins; scalars: expert, k, width.
 * - ExpertRows: x [T, width], out: out[i] = x[token of i]
 * - ExpertSum: rows, weights [T, k] or null, y [T, width]: y[token of i] += weight of i (or 1) times rows[i]
 * - ExpertGate: gate, up, out (which may be gate): f(gate) up, f by the fourth scalar: 0 SiLU, 1 GELU in the tanh form
 * - ExpertGateGrad: gate, up, dh, weights, dweights [T, k], hidden or null. With h = f(gate) up: dweights = h dh, hidden = weight h, and gate
 *   and up become their gradients for a gradient of h of weight dh
 */
function expertRows(opcode: u32): void {
  const begin = load<i32>(pointer(1) + floats(int(0)));
  const count = load<i32>(pointer(1) + floats(int(0) + 1)) - begin;
  const slots = pointer(0) + floats(begin);
  const k = int(1), width = int(2);
  if (opcode == Opcode.ExpertGate) {
    const start = partStart(count * width, UNIT);
    const at = floats(start);
    const n = partEnd(count * width, UNIT) - start;
    if (int(3) == 1) geglu(pointer(2) + at, pointer(3) + at, pointer(4) + at, n);
    else swiglu(pointer(2) + at, pointer(3) + at, 16, pointer(4) + at, n);
    return;
  }
  const end = partEnd(count, 1);
  for (let i = partStart(count, 1); i < end; i++) {
    const slot = load<i32>(slots + floats(i));
    const token = floats(slot / k) * width, row = floats(i) * width;
    if (opcode == Opcode.ExpertRows) memory.copy(pointer(3) + row, pointer(2) + token, floats(width));
    else if (opcode == Opcode.ExpertSum) {
      const weights = pointer(3);
      addScaled(pointer(2) + row, weights ? load<f32>(weights + floats(slot)) : 1, pointer(4) + token, width);
    } else gateGrad(slot, row, width);
  }
}

function gateGrad(slot: i32, row: usize, width: i32): void {
  const gate = pointer(2) + row, up = pointer(3) + row, dh = pointer(4) + row;
  const weight = load<f32>(pointer(5) + floats(slot));
  const hidden = pointer(7) ? pointer(7) + row : threadScratch;
  const isGelu = int(3) == 1;
  if (isGelu) geglu(gate, up, hidden, width);
  else swiglu(gate, up, 16, hidden, width);
  store<f32>(pointer(6) + floats(slot), dot(hidden, dh, width));
  if (pointer(7)) scaleRow(hidden, weight, width);
  scaleRow(dh, weight, width);
  if (isGelu) gegluGrad(gate, up, dh, gate, up, width);
  else swigluGrad(gate, up, 16, dh, gate, 16, up, 16, width);
}

/** SkipExpert: counts i32[E]; expert, commands. Without tokens of the expert the interpreter passes over so many commands that follow. */
export function hasTokens(): bool {
  return load<i32>(pointer(0) + floats(int(0))) > 0;
}

export function expertCommand(opcode: u32): void {
  if (opcode == Opcode.RouteTokens) routeTokens();
  else if (opcode == Opcode.RouteTokensGrad) routeTokensGrad();
  else if (opcode == Opcode.SortTokens) sortTokens();
  else expertRows(opcode);
}
