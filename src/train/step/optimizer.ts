import { GraphBuilder } from "../../graph/builder.ts";
import type { Graph, TensorType } from "../../graph/types.ts";
import { AdamW } from "../../ops/adamw.ts";
import { SumSquares } from "../../ops/sum-squares.ts";
import { type Address, align, ALIGNMENT, type Executor, type Program } from "../../runtime/executor.ts";
import { type FlatState, readTensor } from "../../runtime/resident.ts";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** Largest global norm of the gradients; 0 is no clipping. */
  readonly clip: number;
}

/** AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) over flat arrays, piece by piece. */
export interface Optimizer {
  /**
   * One update, counted from 1, with gradients that are `lossScale` times what they should be. Returns their global norm
   * before clipping, unscaled; when it is not finite the update is not done.
   */
  step(count: number, learningRate: number, lossScale?: number): number;
  zeroGradients(): void;
}

const HYPER_BYTES = 32;

/**
 * Elements that one call updates: the operators that AdamW is made of elsewhere than on `wasm` take some temporary copies of
 * what they work on, and no more than a small share of the state. A call has its own costs, so that a small piece is not worth it.
 */
function pieceSize(size: number): number {
  return Math.max(LEAST_PIECE, align(Math.ceil(size / MOST_PIECES)));
}
const MOST_PIECES = 128;
const LEAST_PIECE = 2 ** 18;

/** The programs of an optimizer of at least `size` elements whose calls take the most temporary memory. */
export function largestUpdate(size: number): Graph[] {
  const elements = Math.min(pieceSize(size), size);
  return [normGraph(elements), adamWGraph(elements)];
}

export function createOptimizer(executor: Executor, state: FlatState, options: AdamWOptions): Optimizer {
  const most = pieceSize(state.size);
  const parts = [
    { begin: 0, end: state.decayed, weightDecay: options.weightDecay },
    { begin: state.decayed, end: state.size, weightDecay: 0 },
  ]
    .filter(({ begin, end }) => begin < end)
    .map((part) => ({ ...part, hyper: executor.reserve(HYPER_BYTES) }));
  const pieces = parts.flatMap((part) =>
    Array.from({ length: Math.ceil((part.end - part.begin) / most) }, (_, i) => {
      const begin = part.begin + i * most;
      return { begin, size: Math.min(most, part.end - begin), hyper: part.hyper };
    }),
  );
  const prepared = (graphOf: (size: number) => Graph) => {
    const programs = new Map<number, Program>();
    return pieces.map(({ size }) => {
      let program = programs.get(size);
      if (!program) programs.set(size, (program = executor.prepare(graphOf(size))));
      return program;
    });
  };
  const norms = prepared(normGraph);
  const updates = prepared(adamWGraph);
  const workspace = executor.reserve(Math.max(...[...norms, ...updates].map((program) => program.workspace)));
  const squares = executor.reserve(pieces.length * ALIGNMENT);
  const calls = pieces.map(({ begin, hyper }, i) => ({
    norm: executor.bind(
      norms[i]!,
      new Map([
        ["gradient", state.gradient + begin * 4],
        ["squares", squares + i * ALIGNMENT],
      ]),
      workspace,
    ),
    update: executor.bind(updates[i]!, adamWAddresses(state, begin * 4, hyper), workspace),
  }));
  const hyper = new Float32Array(HYPER_BYTES / 4);
  const hyperBytes = new Uint8Array(hyper.buffer);
  const stride = ALIGNMENT / 4;
  const sum = () =>
    readTensor(executor, squares, { dtype: "f32", shape: [pieces.length * stride] })
      .filter((_, i) => i % stride === 0)
      .reduce((total, square) => total + square, 0);

  return {
    step(count, learningRate, lossScale = 1) {
      for (const { norm } of calls) executor.run(norm);
      const gradientNorm = Math.sqrt(sum()) / lossScale;
      if (!Number.isFinite(gradientNorm)) return gradientNorm;
      // As torch.nn.utils.clip_grad_norm_: the coefficient is clip / (norm + 1e-6), at most 1.
      const gradientScale = (options.clip > 0 ? Math.min(1, options.clip / (gradientNorm + 1e-6)) : 1) / lossScale;
      for (const part of parts) {
        hyper.set([
          learningRate,
          options.beta1,
          options.beta2,
          options.epsilon,
          part.weightDecay,
          // With the betas rounded as the kernel has them, so that the rounding of 1 - 0.999 (5e-5 of it) cancels.
          1 - Math.fround(options.beta1) ** count,
          1 - Math.fround(options.beta2) ** count,
          gradientScale,
        ]);
        executor.write(part.hyper, hyperBytes);
      }
      for (const { update } of calls) executor.run(update);
      return gradientNorm;
    },
    zeroGradients() {
      executor.zero(state.gradient, state.size * 4);
    },
  };
}

function normGraph(size: number): Graph {
  const builder = new GraphBuilder("gradient-norm");
  builder.input("gradient", "accumulator", { dtype: "f32", shape: [size] });
  builder.output({ name: builder.value(SumSquares, ["gradient"], {}, "squares"), role: "state" });
  return builder.build();
}

const STATE_INPUTS = ["param", "moment1", "moment2"] as const;

function adamWGraph(size: number): Graph {
  const builder = new GraphBuilder("adamw");
  const type: TensorType = { dtype: "f32", shape: [size] };
  for (const name of ["param", "gradient", "moment1", "moment2"])
    builder.input(name, name === "param" ? "param" : "accumulator", type);
  builder.input("hyper", "batch", { dtype: "f32", shape: [HYPER_BYTES / 4] });
  const outputs = builder.node(AdamW, ["param", "gradient", "moment1", "moment2", "hyper"], {}, "next");
  outputs.forEach((name, i) => builder.output({ name, role: "state", updates: STATE_INPUTS[i]! }));
  return builder.build();
}

function adamWAddresses(state: FlatState, offset: number, hyper: Address): Map<string, Address> {
  const inputs: [string, Address][] = [
    ["param", state.param + offset],
    ["gradient", state.gradient + offset],
    ["moment1", state.moment1 + offset],
    ["moment2", state.moment2 + offset],
    ["hyper", hyper],
  ];
  const graph = adamWGraph(1);
  const outputs = graph.outputs.map((output): [string, Address] => [output.name, new Map(inputs).get(output.updates!)!]);
  return new Map([...inputs, ...outputs]);
}
