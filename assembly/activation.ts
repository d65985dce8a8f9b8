/**
 * Activations and their gradients. All arrays are f32[n]; an output may be any of the inputs.
 *
 * Non-finite inputs: NaN gives NaN; an infinite input gives what the formula gives (infinity or NaN), as in PyTorch.
 */
import { float, int, partEnd, partStart, pointer, threadScratch } from "./command";
import { loadSome, storeSome } from "./lanes";
import { decay4, normal4, sigmoid4 } from "./math";
import { pointwiseGelu, pointwiseGeluGrad, pointwiseSwiglu, pointwiseSwigluGrad } from "./native";
import { Opcode } from "./opcodes";
import { softCap } from "./soft-cap";

/** Elements of work that are handed out as one: a cache line. */
const UNIT: i32 = 16;

/** Elements from which a call of machine code pays. */
const LEAST_POINTWISE: i32 = 256;

const SQRT_2_OVER_PI: f32 = 0.7978845608028654;
const CUBIC: f32 = 0.044715;
const ONE_OVER_SQRT_2_PI: f32 = 0.3989422804014327;

// @ts-ignore: decorator
@inline
function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/** y = gate * sigmoid(gate) * up */
// @ts-ignore: decorator
@inline
function swiglu4(gate: v128, up: v128): v128 {
  return f32x4.mul(f32x4.mul(gate, sigmoid4(gate)), up);
}

/** `upStep` is the bytes from one vector of `up` to the next: 16, or 0 where it is ones. */
export function swiglu(gate: usize, up: usize, upStep: usize, y: usize, n: i32): void {
  if (n >= LEAST_POINTWISE && upStep && pointwiseSwiglu(gate, up, y, n)) return;
  const end = y + ((<usize>n & ~3) << 2);
  while (y < end) {
    v128.store(y, swiglu4(v128.load(gate), v128.load(up)));
    gate += 16;
    up += upStep;
    y += 16;
  }
  const rest = n & 3;
  if (rest) storeSome(y, swiglu4(loadSome(gate, rest), loadSome(up, rest)), rest);
}

/**
 * e = exp(-|x|). Then sigmoid(|x|) = 1 / (1 + e) and sigmoid(-|x|) = 1 - sigmoid(|x|) = e / (1 + e), without cancellation.
 */
// @ts-ignore: decorator
@inline
function fold4(x: v128): v128 {
  return decay4(v128.or(x, i32x4.splat(0x80000000)));
}

/** silu'(gate) = s + gate s (1 - s), s = sigmoid(gate); `q` = sigmoid(|gate|), `tail` = 1 - q. */
// @ts-ignore: decorator
@inline
function dsilu4(gate: v128, s: v128, q: v128, tail: v128): v128 {
  return f32x4.add(s, f32x4.mul(gate, f32x4.mul(q, tail)));
}

/**
 * dgate = dy * up * silu'(gate), dup = dy * silu(gate). `gateStep` and `upStep` are the bytes from one vector of dgate
 * and dup to the next: 16, or 0 for an output that nobody wants (it then points to a dummy); `upFrom` is that of up, 0 where it is ones.
 */
export function swigluGrad(
  gate: usize, up: usize, upFrom: usize, dy: usize, dgate: usize, gateStep: usize, dup: usize, upStep: usize, n: i32,
): void {
  if (n >= LEAST_POINTWISE && upFrom && gateStep && upStep && pointwiseSwigluGrad(gate, up, dy, dgate, dup, n)) return;
  for (let i = n >> 2; i > 0; i--) {
    const g = v128.load(gate);
    const u = v128.load(up);
    const d = v128.load(dy);
    const e = fold4(g);
    const q = f32x4.div(splat(1), f32x4.add(splat(1), e));
    const tail = f32x4.mul(e, q);
    const s = v128.bitselect(tail, q, f32x4.lt(g, splat(0)));
    v128.store(dgate, f32x4.mul(f32x4.mul(d, u), dsilu4(g, s, q, tail)));
    v128.store(dup, f32x4.mul(d, f32x4.mul(g, s)));
    gate += 16;
    up += upFrom;
    dy += 16;
    dgate += gateStep;
    dup += upStep;
  }
  const rest = n & 3;
  if (rest) {
    const g = loadSome(gate, rest);
    const u = loadSome(up, rest);
    const d = loadSome(dy, rest);
    const e = fold4(g);
    const q = f32x4.div(splat(1), f32x4.add(splat(1), e));
    const tail = f32x4.mul(e, q);
    const s = v128.bitselect(tail, q, f32x4.lt(g, splat(0)));
    storeSome(dgate, f32x4.mul(f32x4.mul(d, u), dsilu4(g, s, q, tail)), rest);
    storeSome(dup, f32x4.mul(d, f32x4.mul(g, s)), rest);
  }
}

/** exp(-x^2 / 2) */
// @ts-ignore: decorator
@inline
function bell4(x: v128): v128 {
  return decay4(f32x4.mul(f32x4.mul(x, x), splat(-0.5)));
}

/** x Phi(x) */
// @ts-ignore: decorator
@inline
function gelu4(x: v128): v128 {
  return f32x4.mul(x, normal4(x, bell4(x)));
}

/** d x Phi(x) / dx = Phi(x) + x phi(x), phi the normal density */
// @ts-ignore: decorator
@inline
function dgelu4(x: v128): v128 {
  const e = bell4(x);
  return f32x4.add(normal4(x, e), f32x4.mul(x, f32x4.mul(e, splat(ONE_OVER_SQRT_2_PI))));
}

/** 2 u, u = sqrt(2 / pi) (x + 0.044715 x^3): the tanh form is x sigmoid(2 u), since (1 + tanh u) / 2 = sigmoid(2 u). */
// @ts-ignore: decorator
@inline
function twoU4(x: v128): v128 {
  const cubic = f32x4.add(splat(1), f32x4.mul(f32x4.mul(x, x), splat(CUBIC)));
  return f32x4.mul(f32x4.mul(x, splat(2 * SQRT_2_OVER_PI)), cubic);
}

// @ts-ignore: decorator
@inline
function geluTanh4(x: v128): v128 {
  return f32x4.mul(x, sigmoid4(twoU4(x)));
}

/** s + x s (1 - s) d2u/dx, s = sigmoid(2 u) */
// @ts-ignore: decorator
@inline
function dgeluTanh4(x: v128): v128 {
  const e = fold4(twoU4(x));
  const q = f32x4.div(splat(1), f32x4.add(splat(1), e));
  const tail = f32x4.mul(e, q);
  const s = v128.bitselect(tail, q, f32x4.lt(x, splat(0)));
  const slope = f32x4.add(splat(2 * SQRT_2_OVER_PI), f32x4.mul(f32x4.mul(x, x), splat(6 * SQRT_2_OVER_PI * CUBIC)));
  return f32x4.add(s, f32x4.mul(f32x4.mul(q, tail), f32x4.mul(x, slope)));
}

function gelu(x: usize, y: usize, n: i32, tanh: bool): void {
  if (n >= LEAST_POINTWISE && pointwiseGelu(x, y, n, tanh)) return;
  const end = y + ((<usize>n & ~3) << 2);
  if (tanh) {
    for (; y < end; x += 16, y += 16) v128.store(y, geluTanh4(v128.load(x)));
  } else {
    for (; y < end; x += 16, y += 16) v128.store(y, gelu4(v128.load(x)));
  }
  const rest = n & 3;
  if (rest) storeSome(y, tanh ? geluTanh4(loadSome(x, rest)) : gelu4(loadSome(x, rest)), rest);
}

function geluGrad(x: usize, dy: usize, dx: usize, n: i32, tanh: bool): void {
  if (n >= LEAST_POINTWISE && pointwiseGeluGrad(x, dy, dx, n, tanh)) return;
  const end = dx + ((<usize>n & ~3) << 2);
  if (tanh) {
    for (; dx < end; x += 16, dy += 16, dx += 16) v128.store(dx, f32x4.mul(v128.load(dy), dgeluTanh4(v128.load(x))));
  } else {
    for (; dx < end; x += 16, dy += 16, dx += 16) v128.store(dx, f32x4.mul(v128.load(dy), dgelu4(v128.load(x))));
  }
  const rest = n & 3;
  if (rest) {
    const lanes = loadSome(x, rest);
    storeSome(dx, f32x4.mul(loadSome(dy, rest), tanh ? dgeluTanh4(lanes) : dgelu4(lanes)), rest);
  }
}

/** y = gelu(gate) up, in the tanh form. */
export function geglu(gate: usize, up: usize, y: usize, n: i32): void {
  const end = y + ((<usize>n & ~3) << 2);
  for (; y < end; gate += 16, up += 16, y += 16) v128.store(y, f32x4.mul(geluTanh4(v128.load(gate)), v128.load(up)));
  const rest = n & 3;
  if (rest) storeSome(y, f32x4.mul(geluTanh4(loadSome(gate, rest)), loadSome(up, rest)), rest);
}

/** dgate = dy up gelu'(gate), dup = dy gelu(gate); each may be where gate or up is. */
export function gegluGrad(gate: usize, up: usize, dy: usize, dgate: usize, dup: usize, n: i32): void {
  for (let i = n >> 2; i > 0; i--, gate += 16, up += 16, dy += 16, dgate += 16, dup += 16) {
    const g = v128.load(gate), u = v128.load(up), d = v128.load(dy);
    v128.store(dgate, f32x4.mul(f32x4.mul(d, u), dgeluTanh4(g)));
    v128.store(dup, f32x4.mul(d, geluTanh4(g)));
  }
  const rest = n & 3;
  if (!rest) return;
  const g = loadSome(gate, rest), u = loadSome(up, rest), d = loadSome(dy, rest);
  storeSome(dgate, f32x4.mul(f32x4.mul(d, u), dgeluTanh4(g)), rest);
  storeSome(dup, f32x4.mul(d, geluTanh4(g)), rest);
}

/** y = max(x, 0), or where there is a dy: dy where x is above 0, else 0. */
function relu(x: usize, dy: usize, y: usize, n: i32): void {
  const zero = splat(0);
  const end = y + ((<usize>n & ~3) << 2);
  if (dy) {
    for (; y < end; x += 16, dy += 16, y += 16) v128.store(y, v128.andnot(v128.load(dy), f32x4.le(v128.load(x), zero)));
  } else {
    for (; y < end; x += 16, y += 16) v128.store(y, f32x4.max(v128.load(x), zero));
  }
  const rest = n & 3;
  if (!rest) return;
  const lanes = loadSome(x, rest);
  storeSome(y, dy ? v128.andnot(loadSome(dy, rest), f32x4.le(lanes, zero)) : f32x4.max(lanes, zero), rest);
}

/** A vector of ones, behind the dummy of outputs that nobody wants. */
function ones(): usize {
  v128.store(threadScratch, splat(1), 16);
  return threadScratch + 16;
}

/**
 * Commands:
 * - SwiGLU: gate, up (absent: ones), y; n
 * - SwiGLUGrad: gate, up (absent: ones), dy, dgate or null, dup or null; n
 * - Gelu: x, y; n, 1 for the tanh form
 * - GeluGrad: x, dy, dx; n, 1 for the tanh form
 * - SoftCap: x, y; n, cap
 * - Relu: x, dy or null, y; n
 */
export function activationCommand(opcode: u32): void {
  const start = partStart(int(0), UNIT);
  const n = partEnd(int(0), UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  switch (opcode) {
    case Opcode.SwiGLU: {
      const up = pointer(1);
      swiglu(pointer(0) + at, up ? up + at : ones(), up ? 16 : 0, pointer(2) + at, n);
      break;
    }
    case Opcode.SwiGLUGrad: {
      const up = pointer(1);
      const dgate = pointer(3);
      const dup = pointer(4);
      swigluGrad(
        pointer(0) + at, up ? up + at : ones(), up ? 16 : 0, pointer(2) + at,
        dgate ? dgate + at : threadScratch, dgate ? 16 : 0,
        dup ? dup + at : threadScratch, dup ? 16 : 0,
        n,
      );
      break;
    }
    case Opcode.Gelu:
      gelu(pointer(0) + at, pointer(1) + at, n, int(1) == 1);
      break;
    case Opcode.GeluGrad:
      geluGrad(pointer(0) + at, pointer(1) + at, pointer(2) + at, n, int(1) == 1);
      break;
    case Opcode.SoftCap:
      softCap(pointer(0) + at, pointer(1) + at, n, float(1));
      break;
    case Opcode.Relu: {
      const dy = pointer(1);
      relu(pointer(0) + at, dy ? dy + at : 0, pointer(2) + at, n);
      break;
    }
    default:
      unreachable();
  }
}
