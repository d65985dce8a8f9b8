/**
 * Machine code for what is computed element by element with exponentials, by AVX-512: activations and their
 * gradients, and the two passes over the head's logits.
 *
 * The operations are those of assembly/math.ts, assembly/activation.ts and assembly/head-native.ts, in their order and each rounded by itself, so the results
 * are the same to the bit, but for what a NaN carries.
 */
import {
  type Assembler,
  at,
  createAssembler,
  type Mask,
  R10,
  R11,
  R8,
  R9,
  RAX,
  RCX,
  RDI,
  RDX,
  RSI,
  writeRoutine,
} from "../assembler.ts";
import { loadAddress } from "../kernels.ts";
import { ACTIVATION, LANES } from "../layout.ts";
import { exponential, loadNumbers, number, numberAt, REST } from "./exponential.ts";
import { exponentials, scaled } from "./head.ts";

/** Where in the code the routines begin, in bytes. */
export interface PointwiseCode {
  readonly code: Uint8Array<ArrayBuffer>;
  readonly swiglu: number;
  readonly swigluGrad: number;
  /** GELU in its own form, and by tanh. */
  readonly gelu: { readonly exact: number; readonly tanh: number };
  readonly geluGrad: { readonly exact: number; readonly tanh: number };
  /** Exponentials in place, and those that are written as bf16, for which the processor must have AVX512-BF16. */
  readonly exponentials: { readonly f32: number; readonly bf16: number };
  /** From f32 in place, and from bf16. */
  readonly scaled: { readonly f32: number; readonly bf16: number };
}

/** Makes the code. */
export function pointwiseCode(): PointwiseCode {
  const a = createAssembler();
  const begin = (write: () => void) => writeRoutine(a, write);
  return {
    swiglu: begin(() => swiglu(a)),
    swigluGrad: begin(() => swigluGrad(a)),
    gelu: { exact: begin(() => gelu(a, "exact")), tanh: begin(() => gelu(a, "tanh")) },
    geluGrad: { exact: begin(() => geluGrad(a, "exact")), tanh: begin(() => geluGrad(a, "tanh")) },
    exponentials: { f32: begin(() => exponentials(a, "f32")), bf16: begin(() => exponentials(a, "bf16")) },
    scaled: { f32: begin(() => scaled(a, "f32")), bf16: begin(() => scaled(a, "bf16")) },
    code: a.finish(),
  };
}

/** Loads the addresses of `ACTIVATION` and passes over their vectors; the mask 1 has the lanes of each. */
function eachVector(a: Assembler, pointers: readonly (readonly [register: number, offset: number])[], write: () => void): void {
  const [steps, last] = [RCX, 2 as const];
  const lanes: Mask = 1;
  for (const [register, offset] of pointers) loadAddress(a, register, offset, RSI);
  a.load32(RAX, at(RDI, ACTIVATION.mask));
  a.maskFrom(last, RAX);
  a.set(RAX, -1);
  a.maskFrom(lanes, RAX);
  a.load32(steps, at(RDI, ACTIVATION.steps));
  loadNumbers(a);
  const [loop, whole] = [a.label(), a.label()];
  a.place(loop);
  a.compare(steps, 1);
  a.jumpIf("notEqual", whole);
  a.copyMask(lanes, last);
  a.place(whole);
  write();
  for (const [register] of pointers) a.addConstant(register, 4 * LANES);
  a.addConstant(steps, -1);
  a.jumpIf("notEqual", loop);
  a.vzeroupper();
  a.return();
}

/** to = 1 / (1 + exp(-x)); `e` is a register that is free. */
function sigmoid(a: Assembler, to: number, x: number, e: number): void {
  a.vector("vpxord", to, x, number("sign"));
  // The second operand is taken where one is NaN.
  a.vector("vminps", to, number("most"), to);
  a.vector("vmaxps", to, number("leastOfSigmoid"), to);
  exponential(a, e, to);
  a.vector("vaddps", e, number("one"), e);
  a.vector("vdivps", to, number("one"), e);
}

/**
 * With e = exp(-|x|): q = 1 / (1 + e), e = e q, s = sigmoid(x), which is e for x < 0 and else q. `x` may be `q`; `y` is a register that is free.
 */
function folded(a: Assembler, { x, e, q, s, y }: Readonly<Record<"x" | "e" | "q" | "s" | "y", number>>): void {
  const [kept, isNegative]: [Mask, Mask] = [3, 4];
  a.vector("vpord", y, x, number("sign"));
  a.compareVectors(kept, y, number("least"), "notLess");
  exponential(a, e, y, kept);
  a.vector("vpxord", y, y, y);
  a.compareVectors(isNegative, x, y, "less");
  a.vector("vaddps", q, number("one"), e);
  a.vector("vdivps", q, number("one"), q);
  a.vector("vmulps", e, e, q);
  a.blend(s, q, e, isNegative);
}

/** y = gate * sigmoid(gate) * up */
function swiglu(a: Assembler): void {
  const [gate, up, y] = [R8, R9, R10] as const;
  const [g, u, s, e] = [0, 1, 2, 3];
  const pointers = [
    [gate, ACTIVATION.x],
    [up, ACTIVATION.up],
    [y, ACTIVATION.y],
  ] as const;
  eachVector(a, pointers, () => {
    a.load("vmovups", g, at(gate), 1);
    a.load("vmovups", u, at(up), 1);
    sigmoid(a, s, g, e);
    a.vector("vmulps", s, g, s);
    a.vector("vmulps", s, s, u);
    a.store(at(y), s, 1);
  });
}

/** dgate = dy up silu'(gate), dup = dy silu(gate): with e = exp(-|gate|), q = 1 / (1 + e), as assembly/activation.ts. */
function swigluGrad(a: Assembler): void {
  const [gate, up, dy, dgate, dup] = [R8, R9, R10, R11, RDX] as const;
  const [g, u, d, y, e, q, s] = [0, 1, 2, 3, 4, 5, 6];
  const pointers = [
    [gate, ACTIVATION.x],
    [up, ACTIVATION.up],
    [dy, ACTIVATION.dy],
    [dgate, ACTIVATION.y],
    [dup, ACTIVATION.dup],
  ] as const;
  eachVector(a, pointers, () => {
    a.load("vmovups", g, at(gate), 1);
    a.load("vmovups", u, at(up), 1);
    a.load("vmovups", d, at(dy), 1);
    folded(a, { x: g, e, q, s, y });
    a.vector("vmulps", q, q, e);
    a.vector("vmulps", q, g, q);
    a.vector("vaddps", q, s, q);
    a.vector("vmulps", u, d, u);
    a.vector("vmulps", q, u, q);
    a.store(at(dgate), q, 1);
    a.vector("vmulps", s, g, s);
    a.vector("vmulps", s, d, s);
    a.store(at(dup), s, 1);
  });
}

/** to = Phi(x) of the standard normal, given e = exp(-x^2 / 2), which becomes Phi(-|x|); `t` is a register that is free. */
function normal(a: Assembler, to: number, x: number, e: number, t: number): void {
  const isNegative: Mask = 4;
  a.vector("vpandnd", t, number("sign"), x);
  a.vectorOfOne("vmulps", t, t, numberAt("slope"));
  a.vector("vaddps", t, number("one"), t);
  a.vector("vdivps", t, number("one"), t);
  a.load("vbroadcastss", to, numberAt("p8"));
  for (const p of ["p7", "p6", "p5", "p4", "p3", "p2", "p1", "p0"] as const) {
    a.vector("vmulps", to, to, t);
    a.vectorOfOne("vaddps", to, to, numberAt(p));
  }
  a.vector("vmulps", to, to, t);
  a.vector("vmulps", e, to, e);
  a.vector("vpxord", t, t, t);
  a.compareVectors(isNegative, x, t, "less");
  a.vector("vsubps", to, number("one"), e);
  a.blend(to, to, e, isNegative);
}

/** to = exp(-x^2 / 2); `y` is a register that is free. */
function bell(a: Assembler, to: number, x: number, y: number): void {
  const kept: Mask = 3;
  a.vector("vmulps", y, x, x);
  a.vectorOfOne("vmulps", y, y, numberAt("minusHalf"));
  a.compareVectors(kept, y, number("least"), "notLess");
  exponential(a, to, y, kept);
}

/** to = 2 sqrt(2 / pi) (x + 0.044715 x^3); `square` becomes x^2. */
function twoU(a: Assembler, to: number, x: number, square: number): void {
  a.vector("vmulps", square, x, x);
  a.vectorOfOne("vmulps", to, square, numberAt("cubic"));
  a.vector("vaddps", to, number("one"), to);
  const scaledX = REST;
  a.vectorOfOne("vmulps", scaledX, x, numberAt("twoRoot"));
  a.vector("vmulps", to, scaledX, to);
}

/** y = x Phi(x), or x sigmoid(2 u) */
function gelu(a: Assembler, form: "exact" | "tanh"): void {
  const [source, target] = [R8, R10] as const;
  const [x, y, e, t] = [0, 1, 2, 3];
  const pointers = [
    [source, ACTIVATION.x],
    [target, ACTIVATION.y],
  ] as const;
  eachVector(a, pointers, () => {
    a.load("vmovups", x, at(source), 1);
    if (form === "tanh") {
      twoU(a, t, x, y);
      sigmoid(a, y, t, e);
    } else {
      bell(a, e, x, t);
      normal(a, y, x, e, t);
    }
    a.vector("vmulps", y, x, y);
    a.store(at(target), y, 1);
  });
}

/** dx = dy (Phi(x) + x phi(x)), or dy (s + x s (1 - s) d2u/dx), s = sigmoid(2 u) */
function geluGrad(a: Assembler, form: "exact" | "tanh"): void {
  const [source, dy, target] = [R8, R9, R10] as const;
  const [x, d, square, u, e, q, s, y] = [0, 1, 2, 3, 4, 5, 6, 7];
  const pointers = [
    [source, ACTIVATION.x],
    [dy, ACTIVATION.dy],
    [target, ACTIVATION.y],
  ] as const;
  eachVector(a, pointers, () => {
    a.load("vmovups", x, at(source), 1);
    a.load("vmovups", d, at(dy), 1);
    if (form === "tanh") {
      twoU(a, u, x, square);
      folded(a, { x: u, e, q, s, y });
      a.vectorOfOne("vmulps", y, square, numberAt("sixRootCubic"));
      a.vectorOfOne("vaddps", y, y, numberAt("twoRoot"));
      a.vector("vmulps", y, x, y);
      a.vector("vmulps", q, q, e);
      a.vector("vmulps", y, q, y);
      a.vector("vaddps", s, s, y);
    } else {
      bell(a, e, x, y);
      a.vectorOfOne("vmulps", q, e, numberAt("density"));
      a.vector("vmulps", q, x, q);
      normal(a, s, x, e, y);
      a.vector("vaddps", s, s, q);
    }
    a.vector("vmulps", s, d, s);
    a.store(at(target), s, 1);
  });
}
