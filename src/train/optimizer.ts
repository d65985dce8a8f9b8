import { GraphBuilder } from "../graph/builder.ts";
import type { Graph, TensorType } from "../graph/types.ts";
import { AdamW } from "../ops/adamw.ts";
import { SumSquares } from "../ops/sum-squares.ts";
import type { Address, Executor } from "../runtime/executor.ts";
import { type FlatState, readTensor } from "../runtime/resident.ts";

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** Largest global norm of the gradients; 0 is no clipping. */
  readonly clip: number;
}

/** AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) over flat arrays, as two graphs. */
export interface Optimizer {
  /**
   * One update, counted from 1, with gradients that are `lossScale` times what they should be. Returns their global norm
   * before clipping, unscaled; when it is not finite the update is not done.
   */
  step(count: number, learningRate: number, lossScale?: number): number;
  zeroGradients(): void;
}

const HYPER_BYTES = 32;

export function createOptimizer(executor: Executor, state: FlatState, options: AdamWOptions): Optimizer {
  const squares = executor.reserve(4);
  const norm = executor.prepare(normGraph(state.size));
  const parts = [
    { offset: 0, size: state.decayed, weightDecay: options.weightDecay },
    { offset: state.decayed, size: state.size - state.decayed, weightDecay: 0 },
  ].filter((part) => part.size > 0);
  const programs = parts.map((part) => executor.prepare(adamWGraph(part.size)));
  const workspace = executor.reserve(Math.max(norm.workspace, ...programs.map((program) => program.workspace)));
  const normCall = executor.bind(
    norm,
    new Map([
      ["gradient", state.gradient],
      ["squares", squares],
    ]),
    workspace,
  );
  const updates = parts.map((part, i) => {
    const hyper = executor.reserve(HYPER_BYTES);
    return { ...part, hyper, call: executor.bind(programs[i]!, adamWAddresses(state, part.offset * 4, hyper), workspace) };
  });
  const hyper = new Float32Array(HYPER_BYTES / 4);
  const hyperBytes = new Uint8Array(hyper.buffer);
  const sum = () => readTensor(executor, squares, { dtype: "f32", shape: [1] })[0]!;

  return {
    step(count, learningRate, lossScale = 1) {
      executor.run(normCall);
      const gradientNorm = Math.sqrt(sum()) / lossScale;
      if (!Number.isFinite(gradientNorm)) return gradientNorm;
      // As torch.nn.utils.clip_grad_norm_: the coefficient is clip / (norm + 1e-6), at most 1.
      const gradientScale = (options.clip > 0 ? Math.min(1, options.clip / (gradientNorm + 1e-6)) : 1) / lossScale;
      for (const update of updates) {
        hyper.set([
          learningRate,
          options.beta1,
          options.beta2,
          options.epsilon,
          update.weightDecay,
          // With the betas rounded as the kernel has them, so that the rounding of 1 - 0.999 (5e-5 of it) cancels.
          1 - Math.fround(options.beta1) ** count,
          1 - Math.fround(options.beta2) ** count,
          gradientScale,
        ]);
        executor.write(update.hyper, hyperBytes);
        executor.run(update.call);
      }
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
