import { Opcode } from "../../assembly/opcodes.ts";
import { lazily } from "../base/lazily.ts";
import { elements, type TensorType } from "../graph/types.ts";
import { emitGemm, type Product, storedOperand } from "./gemm-kernels.ts";
import { adapterInputs, arePairs, type ExpertActivation, type ExpertRanks, updatesOf } from "./expert-adapters.ts";
import { expertMlpBody, expertMlpGradBody } from "./expert-mlp-body.ts";
import { defineOp, expectShape, type KernelEmitter, notDifferentiable, type Operand, type Scratch } from "./types.ts";

type ExpertAttrs = ExpertRanks & {
  /** `clamped`: (u + 1) g sigmoid(alpha g), of g of at most `limit` and u within -limit..limit. */
  readonly activation: ExpertActivation;
  readonly alpha: number;
  readonly limit: number;
  /** 1: two more inputs behind the matrices, biases of gate and up by turns f32[E, 2 I] and of down f32[E, H]; only with `clamped`. */
  readonly biases: 0 | 1;
};
// With ranks, the pairs of low-rank updates are the last inputs (expert-adapters.ts).

/** Experts with SwiGLU and without biases. */
export const SWIGLU_EXPERTS: ExpertAttrs = { activation: "swiglu", alpha: 1, limit: 0, biases: 0 };

/**
 * `ExpertMlp(x, weights, experts, gate, up, down, gate, up, down, ...) -> y`: each token's sum over its experts of weight times
 * h down^T, h = silu(x gate^T) * (x up^T) or what the attributes say. x and y f32[T, H]; weights f32[T, k] and experts i32[T, k], the experts of a token all different; of each
 * expert gate and up [I, H] and down [H, I], f32, for the kernel maybe half or quantised in memory.
 *
 * An expert computes the rows of its tokens alone, in their order; a token's sum goes from its first expert by number to its last.
 */
export const ExpertMlp = defineOp<ExpertAttrs>({
  name: "ExpertMlp",
  domain: "remat",
  cost: "compute",
  infer([x, weights, experts, ...others], attrs) {
    const { matrices, isRest } = partsOf(others, x, attrs);
    const fits = isRest && isMixture(x, weights, experts, matrices);
    expectShape("ExpertMlp", `x f32[T, H], ${EXPECTED}`, fits, x, weights, experts, ...matrices.slice(0, 3));
    return [x!];
  },
  gradient(ctx) {
    const dy = ctx.grad(0)!;
    const inputs = ctx.node.inputs.map((_, i) => ctx.input(i));
    const [dx, dweights, ...dmatrices] = ctx.builder.node(ExpertMlpGrad, [dy, ...inputs], ctx.attrs);
    return [dx!, dweights!, null, ...dmatrices].map((gradient, i) => (ctx.needs(i) ? gradient : null));
  },
  body: (body, inputs, _, attrs) => expertMlpBody(body, inputs, attrs),
  lower(e) {
    const mixture = startMixture(e, 0);
    const { tokens, width, size, slots, begins, weights } = mixture;
    const y = e.output(0);
    const rows = e.scratch(4 * tokens * width);
    const [gate, up] = [e.scratch(4 * tokens * size), e.scratch(4 * tokens * size)];
    e.emit(Opcode.Fill, [y], [tokens * width, { f32: 0 }]);
    const [biases, downBiases] = biasInputs(e, 3);
    const adapters = updatesOf(e, mixture, false);
    forEachExpert(e, mixture, never, ({ e, expert, count, product, columns, hidden }) => {
      e.emit(Opcode.ExpertRows, [slots, begins, e.input(0), rows], columns);
      product({ a: rows, matrix: "gate", out: gate, transB: true });
      product({ a: rows, matrix: "up", out: up, transB: true });
      adapters.addGateUp(e, expert, count, rows, gate, up);
      if (e.attrs.activation === "clamped")
        e.emit(Opcode.ExpertClamped, [slots, begins, gate, up, biases, gate], [...hidden, ...limitsOf(e.attrs)]);
      else e.emit(Opcode.ExpertGate, [slots, begins, gate, up, gate], [...hidden, isGelu(e.attrs)]);
      product({ a: gate, matrix: "down", out: rows, transB: true });
      adapters.addDown(e, expert, count, gate, rows);
      if (downBiases !== null) e.emit(Opcode.ExpertAddBias, [slots, begins, rows, downBiases], columns);
      e.emit(Opcode.ExpertSum, [slots, begins, rows, weights, y], columns);
    });
  },
  halfInputs: { from: 3 },
  quantisedInputs: { from: 3 },
});

/**
 * `ExpertMlpGrad(dy, x, weights, experts, gate, up, down, ...) -> dx, dweights, dgate, dup, ddown, ...`. With h of g = x gate^T and
 * u = x up^T, which are computed again, and r = dy down: dweights = h . r (and dy times the bias of down), dh = weight r, dx = dg gate + du up, dgate = dg^T x, dup = du^T x,
 * ddown = dy^T (weight h). What is not used is not computed.
 */
export const ExpertMlpGrad = defineOp<ExpertAttrs>({
  name: "ExpertMlpGrad",
  domain: "remat",
  cost: "compute",
  infer([dy, x, weights, experts, ...others], attrs) {
    const { matrices, isRest } = partsOf(others, x, attrs);
    const fits = isRest && isMixture(x, weights, experts, matrices) && dy?.dtype === "f32" && dy.shape.join() === x!.shape.join();
    expectShape("ExpertMlpGrad", `dy and x f32[T, H], ${EXPECTED}`, fits, dy, x, weights, experts, ...matrices.slice(0, 3));
    return [x!, weights!, ...others.map((type) => type!)];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body: (body, inputs, _, attrs) => expertMlpGradBody(body, inputs, attrs),
  lower(e) {
    const mixture = startMixture(e, 1);
    const { tokens, width, size, slots, begins, weights } = mixture;
    const [dx, dweights] = [
      e.used(0) ? e.output(0) : null,
      e.used(1) ? e.output(1) : e.scratch(4 * elements(e.type(weights).shape)),
    ];
    const [rows, drows] = [e.scratch(4 * tokens * width), e.scratch(4 * tokens * width)];
    const [gate, up, dh] = [0, 0, 0].map(() => e.scratch(4 * tokens * size)) as [Scratch, Scratch, Scratch];
    const adapters = updatesOf(e, mixture, true);
    const isDownTrained = adapters.isDownTrained || mixture.numbers.some((expert) => e.used(4 + 3 * expert));
    const hidden = isDownTrained ? e.scratch(4 * tokens * size) : null;
    if (dx !== null) e.emit(Opcode.Fill, [dx], [tokens * width, { f32: 0 }]);
    e.emit(Opcode.Fill, [dweights], [elements(e.type(weights).shape), { f32: 0 }]);
    const [biases, downBiases] = biasInputs(e, 4);
    const dbiases = biases === null ? [] : biasOutputs(e);
    // Gradients of an expert's parameters are written where it has no token, too.
    const isTrained = (expert: number) =>
      dbiases.some((out) => out !== null) || [0, 1, 2].some((i) => e.used(2 + 3 * expert + i));
    forEachExpert(e, mixture, isTrained, ({ e, expert, product, count, columns, hidden: gates }) => {
      e.emit(Opcode.ExpertRows, [slots, begins, e.input(1), rows], columns);
      e.emit(Opcode.ExpertRows, [slots, begins, e.input(0), drows], columns);
      product({ a: rows, matrix: "gate", out: gate, transB: true });
      product({ a: rows, matrix: "up", out: up, transB: true });
      product({ a: drows, matrix: "down", out: dh, transB: false });
      const gateUp = adapters.addGateUp(e, expert, count, rows, gate, up);
      const down = adapters.addDownBack(e, expert, count, drows, dh);
      const gated = [slots, begins, gate, up, dh, weights, dweights, hidden];
      if (e.attrs.activation === "clamped")
        e.emit(Opcode.ExpertClampedGrad, [...gated, biases], [...gates, ...limitsOf(e.attrs)]);
      else e.emit(Opcode.ExpertGateGrad, gated, [...gates, isGelu(e.attrs)]);
      if (downBiases !== null) e.emit(Opcode.ExpertBiasDot, [slots, begins, drows, downBiases, dweights], columns);
      if (dbiases.some((out) => out !== null))
        e.emit(Opcode.ExpertBiasGrad, [slots, begins, gate, up, drows, weights, ...dbiases], [...gates, width]);
      const matrixGradient = (i: number, a: Operand, b: Operand, m: number, n: number) => {
        if (!e.used(2 + 3 * expert + i)) return;
        const clip = { dim: "k", count, first: 0 } as const;
        emitGemm(e, { a, b, out: e.output(2 + 3 * expert + i), m, n, k: tokens, transA: true, clip });
      };
      matrixGradient(0, gate, rows, size, width);
      matrixGradient(1, up, rows, size, width);
      matrixGradient(2, drows, hidden, width, size);
      down?.gradients(drows, hidden!);
      gateUp?.gradients(gate, up, rows);
      if (dx === null) return;
      product({ a: gate, matrix: "gate", out: rows, transB: false });
      product({ a: up, matrix: "up", out: rows, transB: false, isSum: true });
      gateUp?.addBack(rows);
      e.emit(Opcode.ExpertSum, [slots, begins, rows, null, dx], columns);
    });
  },
  halfInputs: { from: 4 },
  quantisedInputs: { from: 4 },
});

const EXPECTED =
  "weights f32[T, k], experts i32[T, k], and of each expert f32 gate [I, H], up [I, H] and down [H, I], then biases [E, 2 I] and [E, H], or pairs A [E r, in] and B [out, r E], where there are any";

type MaybeType = TensorType | null | undefined;

/** Takes apart what follows the choices among the inputs. */
function partsOf(all: readonly MaybeType[], x: MaybeType, attrs: ExpertAttrs) {
  const { activation, biases } = attrs;
  const others = all.slice(0, all.length - adapterInputs(attrs));
  const matrices = biases ? others.slice(0, -2) : others;
  const sizes = { count: matrices.length / 3, size: matrices[0]?.shape[0] ?? 0, width: x?.shape[1] ?? 0 };
  const is = (type: MaybeType, columns: number) => type?.dtype === "f32" && type.shape.join() === [sizes.count, columns].join();
  const [both, down] = others.slice(-2);
  const areBiases = !biases || (activation === "clamped" && is(both, 2 * sizes.size) && is(down, sizes.width));
  return { matrices, isRest: areBiases && arePairs(all.slice(others.length), attrs, sizes) };
}

/** Biases of gate and up, and of down; null: none. @param first the first of the matrices among the inputs */
function biasInputs(e: KernelEmitter<ExpertAttrs>, first: number): [both: string | null, down: string | null] {
  if (!e.attrs.biases) return [null, null];
  const at = e.node.inputs.length - adapterInputs(e.attrs) - 2;
  if (at < first) throw new Error("biases without matrices");
  return [e.input(at), e.input(at + 1)];
}

/** The gradients of the biases that are wanted, two outputs behind those of the matrices. */
function biasOutputs(e: KernelEmitter<ExpertAttrs>): Operand[] {
  const count = e.node.outputs.length - adapterInputs(e.attrs);
  return [count - 2, count - 1].map((i) => (e.used(i) ? e.output(i) : null));
}

const isGelu = ({ activation }: ExpertAttrs): number => Number(activation === "geglu");
const limitsOf = ({ alpha, limit }: ExpertAttrs) => [{ f32: alpha }, { f32: limit }];

function isMixture(x: MaybeType, weights: MaybeType, experts: MaybeType, matrices: readonly MaybeType[]): boolean {
  if (x?.dtype !== "f32" || x.shape.length !== 2 || weights?.dtype !== "f32" || experts?.dtype !== "i32") return false;
  const [tokens, width] = x.shape as [number, number];
  const size = matrices[0]?.shape[0];
  const isSlots = weights.shape.length === 2 && weights.shape[0] === tokens && weights.shape.join() === experts.shape.join();
  const is = (type: MaybeType, i: number) =>
    type?.dtype === "f32" && type.shape.join() === (i % 3 === 2 ? [width, size] : [size, width]).join();
  return isSlots && matrices.length > 0 && matrices.length % 3 === 0 && matrices.every(is);
}

/** Sizes and buffers of the lowering. */
interface Mixture {
  readonly tokens: number;
  /** H. */
  readonly width: number;
  /** I. */
  readonly size: number;
  /** Experts of a token. */
  readonly k: number;
  readonly numbers: readonly number[];
  readonly weights: string;
  /** The choices of the tokens by expert, where those of each expert begin, and how many they are. */
  readonly slots: Scratch;
  readonly begins: Scratch;
  readonly counts: Scratch;
  /** The first of the matrices among the inputs. */
  readonly first: number;
}

/** Sorts the tokens by expert. Input `at` is x. */
function startMixture(e: KernelEmitter<ExpertAttrs>, at: 0 | 1): Mixture {
  const [x, weights, experts] = [e.input(at)!, e.input(at + 1)!, e.input(at + 2)!];
  const [tokens, width] = e.type(x).shape as [number, number];
  const k = e.type(weights).shape[1]!;
  const first = at + 3;
  const count = (e.node.inputs.length - first - 2 * e.attrs.biases - adapterInputs(e.attrs)) / 3;
  const mixture: Mixture = {
    tokens,
    width,
    // Codes of a quantised gate have as many rows.
    size: e.type(e.input(first)!).shape[0]!,
    k,
    numbers: Array.from({ length: count }, (_, expert) => expert),
    weights,
    slots: e.scratch(4 * tokens * k),
    begins: e.scratch(4 * (count + 1)),
    counts: e.scratch(4 * count),
    first,
  };
  e.emit(Opcode.SortTokens, [experts, mixture.slots, mixture.begins, mixture.counts], [tokens, k, count]);
  return mixture;
}

interface ExpertProduct {
  readonly a: Operand;
  readonly matrix: "gate" | "up" | "down";
  readonly out: Operand;
  readonly transB: boolean;
  /** True if the product is added to what is there. */
  readonly isSum?: boolean;
}

interface Expert {
  /** Takes the expert's commands. */
  readonly e: KernelEmitter<ExpertAttrs>;
  readonly expert: number;
  /** How many tokens have chosen it. */
  readonly count: Operand;
  /** Scalars of commands on rows of H, and of I, columns. */
  readonly columns: readonly number[];
  readonly hidden: readonly number[];
  /** The product of the expert's rows with one of its matrices. */
  product(product: ExpertProduct): void;
}

const never = () => false;

/** @param isDue tells whether an expert's commands run where it has no token, too */
function forEachExpert(
  emitter: KernelEmitter<ExpertAttrs>,
  mixture: Mixture,
  isDue: (expert: number) => boolean,
  use: (expert: Expert) => void,
): void {
  const { tokens, width, size, k, numbers, counts, first } = mixture;
  // One for all experts: a matrix is widened right before its product.
  const widened = lazily(() => emitter.scratch(4 * width * size));
  for (const expert of numbers) {
    const count = { base: counts, offset: 4 * expert };
    const commands: Parameters<KernelEmitter["emit"]>[] = [];
    const e: KernelEmitter<ExpertAttrs> = { ...emitter, emit: (...command) => void commands.push(command) };
    use({
      e,
      expert,
      count,
      columns: [expert, k, width],
      hidden: [expert, k, size],
      product({ a, matrix, out, transB, isSum }) {
        const i = first + 3 * expert + { gate: 0, up: 1, down: 2 }[matrix];
        // Rows go from H to I columns, or back.
        const isNarrowing = (matrix === "down") !== transB;
        const [n, inner] = isNarrowing ? [size, width] : [width, size];
        const product: Product = { a, b: e.input(i)!, out, m: tokens, n, k: inner, transB, clip: { dim: "m", count, first: 0 } };
        const c = isSum ? { value: out, row: false } : null;
        emitGemm(e, { ...product, ...storedOperand(e, i), c, byColumns: true, widened });
      },
    });
    if (!isDue(expert)) emitter.emit(Opcode.SkipExpert, [counts], [expert, commands.length]);
    for (const command of commands) emitter.emit(...command);
  }
}
