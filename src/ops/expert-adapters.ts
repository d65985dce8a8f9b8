import { Opcode } from "../../assembly/opcodes.ts";
import { type TensorType } from "../graph/types.ts";
import { emitGemm, type Product, type ProductEmitter } from "./gemm-kernels.ts";
import type { KernelEmitter, Operand, Scratch } from "./types.ts";

/**
 * Low-rank updates of the matrices of all experts, as PEFT has them on parameters [E, out, in]: A [E * rank, in] holds each expert's rows one after
 * the other, B [out, rank * E] every expert's columns in turn. Gate and up have one pair, whose B has gate's rows above up's, or, with `clamped`, both by
 * turns, as the biases are.
 */
export type ExpertRanks = {
  /** Rank of the update of gate and up; absent: they have none. */
  readonly rank?: number;
  /** Factor of the update. */
  readonly scale?: number;
  readonly downRank?: number;
  readonly downScale?: number;
};

/** The function of an expert's gate g and up u: silu(g) u; gelu(g) u in GELU's tanh form; or what `clamped` is in `ExpertMlp`. */
export type ExpertActivation = "swiglu" | "geglu" | "clamped";

/** The same with 0 for ranks that are absent. */
export const ranksOf = ({ rank = 0, scale = 1, downRank = 0, downScale = 1 }: ExpertRanks): Required<ExpertRanks> => ({
  rank,
  scale,
  downRank,
  downScale,
});

/** How many inputs the pairs are, the last ones. */
export const adapterInputs = ({ rank = 0, downRank = 0 }: ExpertRanks): number => (rank > 0 ? 2 : 0) + (downRank > 0 ? 2 : 0);

/** Tells whether the pairs fit `count` experts [size, width]. */
export function arePairs(
  pairs: readonly (TensorType | null | undefined)[],
  { rank = 0, downRank = 0 }: ExpertRanks,
  { count, size, width }: { readonly count: number; readonly size: number; readonly width: number },
): boolean {
  const expected = [
    ...(rank > 0
      ? [
          [count * rank, width],
          [2 * size, rank * count],
        ]
      : []),
    ...(downRank > 0
      ? [
          [count * downRank, size],
          [width, downRank * count],
        ]
      : []),
  ];
  const areRanks = [rank, downRank].every((value) => Number.isInteger(value) && value >= 0);
  return areRanks && expected.every((shape, i) => pairs[i]?.dtype === "f32" && pairs[i].shape.join() === shape.join());
}

/** Sizes of a mixture. */
export interface ExpertSizes {
  readonly tokens: number;
  /** H. */
  readonly width: number;
  /** I. */
  readonly size: number;
  /** Numbers of all experts. */
  readonly numbers: readonly number[];
}

/** The backward pass of the pair of gate and up, whose update has been added. */
interface GateUpBack {
  /** Writes the gradients of the pair, by those of gate and up and by x. */
  gradients(dgate: Operand, dup: Operand, x: Operand): void;
  /** dx += what the update gives. */
  addBack(dx: Operand): void;
}

interface DownBack {
  /** Writes the gradients of the pair, by the gradient dy of the expert's result and by h times the weights. */
  gradients(dy: Operand, weighted: Operand): void;
}

/** What the lowering of a mixture adds to the products of its matrices. All do nothing, and give null, where there is no pair. */
export interface ExpertUpdates {
  readonly isDownTrained: boolean;
  addGateUp(e: ProductEmitter, expert: number, count: Operand, x: Operand, gate: Operand, up: Operand): GateUpBack | null;
  /** y += the update of h. */
  addDown(e: ProductEmitter, expert: number, count: Operand, h: Operand, y: Operand): void;
  /** dh += what the update gives of dy. */
  addDownBack(e: ProductEmitter, expert: number, count: Operand, dy: Operand, dh: Operand): DownBack | null;
}

type Attrs = ExpertRanks & { readonly activation: ExpertActivation };

export function updatesOf(e: KernelEmitter<Attrs>, sizes: ExpertSizes, isGradient: boolean): ExpertUpdates {
  const { rank, scale, downRank, downScale } = ranksOf(e.attrs);
  const { tokens, size } = sizes;
  const first = e.node.inputs.length - adapterInputs(e.attrs);
  const byTurns = e.attrs.activation === "clamped";
  const gateUp = rank > 0 ? pairOf(e, first, isGradient, { rank, scale, byTurns, ...sizes }) : null;
  const down =
    downRank > 0
      ? pairOf(e, e.node.inputs.length - 2, isGradient, { rank: downRank, scale: downScale, byTurns: false, ...sizes })
      : null;
  const lows = [rank, rank, downRank].map((columns) => (columns > 0 ? e.scratch(4 * tokens * columns) : null));
  const [low, dlow, downLow] = lows as [Scratch, Scratch, Scratch];
  return {
    isDownTrained: down?.isTrained ?? false,
    addGateUp(own, expert, count, x, gate, up) {
      if (gateUp === null) return null;
      const pair = gateUp.of(own, expert, count);
      pair.low(x, low);
      pair.add(low, gate, 0, size);
      pair.add(low, up, size, size);
      return {
        gradients(dgate, dup, rows) {
          pair.gradientOfB(dgate, low, 0, size);
          pair.gradientOfB(dup, low, size, size);
          pair.endB();
          pair.lowOfOutput(dgate, dlow, 0, size, false);
          pair.lowOfOutput(dup, dlow, size, size, true);
          pair.gradientOfA(dlow, rows);
        },
        addBack: (dx) => pair.addBack(dlow, dx),
      };
    },
    addDown(own, expert, count, h, y) {
      const pair = down?.of(own, expert, count);
      pair?.low(h, downLow);
      pair?.add(downLow, y, 0, sizes.width);
    },
    addDownBack(own, expert, count, dy, dh) {
      if (down === null) return null;
      const pair = down.of(own, expert, count);
      pair.lowOfOutput(dy, downLow, 0, sizes.width, false);
      pair.addBack(downLow, dh);
      return {
        gradients(rows, weighted) {
          if (!down.isTrained) return;
          pair.gradientOfA(downLow, weighted);
          pair.low(weighted, downLow);
          pair.gradientOfB(rows, downLow, 0, sizes.width);
          pair.endB();
        },
      };
    },
  };
}

/** The pair of one expert while its commands are emitted. */
interface ExpertPair {
  /** low = x A^T, of an x of the expert's rows, into room for [T, rank]. */
  low(x: Operand, low: Scratch): void;
  /** low = y B, or that plus what is there. @param from the first row of B that y's columns belong to */
  lowOfOutput(y: Operand, low: Scratch, from: number, columns: number, isSum: boolean): void;
  /** out += scale low B^T. */
  add(low: Scratch, out: Operand, from: number, columns: number): void;
  /** x += scale low A. */
  addBack(low: Scratch, x: Operand): void;
  /** The gradient of A: scale low^T x. */
  gradientOfA(low: Scratch, x: Operand): void;
  /** Rows of the gradient of B: scale y^T low. */
  gradientOfB(y: Operand, low: Scratch, from: number, columns: number): void;
  /** Writes the gradient of B when all its rows are there. */
  endB(): void;
}

interface Pair {
  readonly isTrained: boolean;
  /** The pair of an expert, whose part of B is taken. @param count how many tokens it has */
  of(e: ProductEmitter, expert: number, count: Operand): ExpertPair;
}

/** @param at the place of A among the inputs; B follows. Of a gradient operator, outputs have the places of inputs less 2. */
function pairOf(
  e: KernelEmitter<Attrs>,
  at: number,
  isGradient: boolean,
  {
    rank,
    scale,
    byTurns,
    tokens,
    numbers,
  }: ExpertSizes & { readonly rank: number; readonly scale: number; readonly byTurns: boolean },
): Pair {
  const experts = numbers.length;
  const [a, b] = [e.input(at)!, e.input(at + 1)!];
  const [inner, rows] = [e.type(a).shape[1]!, e.type(b).shape[0]!];
  const part = e.scratch(4 * rows * rank);
  const [da, db] = [at - 2, at - 1].map((i) => (isGradient && e.used(i) ? e.output(i) : null)) as [string | null, string | null];
  const dpart = db === null ? null : e.scratch(4 * rows * rank);
  // Experts without tokens leave zeros.
  if (da !== null) e.emit(Opcode.Fill, [da], [experts * rank * inner, { f32: 0 }]);
  if (db !== null) e.emit(Opcode.Fill, [db], [rows * rank * experts, { f32: 0 }]);
  return {
    isTrained: da !== null || db !== null,
    of(own, expert, count) {
      own.emit(Opcode.TakeExpert, [b, part], [rows, rank, experts, expert, Number(byTurns)]);
      const offset = 4 * expert * rank * inner;
      const ownA = { base: a, offset, bytes: 4 * rank * inner };
      const rowsOf = (base: Scratch, from: number) => ({ base, offset: 4 * from * rank });
      const ofRows = (product: Omit<Product, "m" | "clip">) =>
        emitGemm(own, { ...product, m: tokens, clip: { dim: "m", count, first: 0 } });
      const overRows = (product: Omit<Product, "k" | "clip" | "transA" | "alpha">) =>
        emitGemm(own, { ...product, k: tokens, transA: true, alpha: scale, clip: { dim: "k", count, first: 0 } });
      const sum = (value: Operand) => ({ value, row: false });
      return {
        low: (x, low) => ofRows({ a: x, b: ownA, out: low, n: rank, k: inner, transB: true }),
        lowOfOutput: (y, low, from, columns, isSum) =>
          ofRows({ a: y, b: rowsOf(part, from), out: low, n: rank, k: columns, c: isSum ? sum(low) : null }),
        add: (low, out, from, columns) =>
          ofRows({ a: low, b: rowsOf(part, from), out, n: columns, k: rank, transB: true, alpha: scale, c: sum(out) }),
        addBack: (low, x) => ofRows({ a: low, b: ownA, out: x, n: inner, k: rank, alpha: scale, c: sum(x) }),
        gradientOfA(low, x) {
          if (da !== null) overRows({ a: low, b: x, out: { base: da, offset }, m: rank, n: inner });
        },
        gradientOfB(y, low, from, columns) {
          if (dpart !== null) overRows({ a: y, b: low, out: rowsOf(dpart, from), m: columns, n: rank });
        },
        endB() {
          if (dpart !== null) own.emit(Opcode.PutExpert, [dpart, db], [rows, rank, experts, expert, Number(byTurns)]);
        },
      };
    },
  };
}
