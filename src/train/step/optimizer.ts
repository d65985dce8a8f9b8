import type { StateSlot } from "../../optimizers/optimizer.ts";
import { type OptimizerState, updateGraphs, updateWorkspace } from "../../optimizers/plan.ts";
import type { Programs } from "../../runtime/chain.ts";
import { type Address, ALIGNMENT, type Call, type Executor } from "../../runtime/executor.ts";
import { type FlatParams, readTensor } from "../../runtime/resident.ts";

/** Updates the trainable parameters, piece by piece. */
export interface Optimizer {
  /** Peak of the schedule. */
  readonly learningRate: number;
  /**
   * One update, counted from 1, with gradients that are `lossScale` times what they should be. Returns their global norm
   * before clipping, unscaled; when it is not finite the update is not done.
   */
  step(count: number, learningRate: number, lossScale?: number): number;
  zeroGradients(): void;
}

/** Describes what an optimizer works on: an engine. */
export interface OptimizerInputs {
  readonly executor: Executor;
  readonly resident: { readonly trainable: FlatParams };
  readonly optimizer: OptimizerState | null;
  readonly plan: { readonly programs: Programs };
  updateMemory(bytes: number): Address;
}

/** @param clip largest global norm of the gradients; 0 is no clipping */
export function createOptimizer(inputs: OptimizerInputs, { clip }: { readonly clip: number }): Optimizer {
  const { executor, optimizer: state } = inputs;
  if (!state) throw new Error("the engine was made without an optimizer");
  const { trainable } = inputs.resident;
  const { programs } = inputs.plan;
  const { plan } = state;
  const workspace = inputs.updateMemory(updateWorkspace(programs, updateGraphs(plan)));
  const hyper = new Map(plan.runs.map((run) => [run, executor.reserve(4 * run.rule.hyperSize)]));
  const squares = executor.reserve(plan.norms.length * ALIGNMENT);
  const norms = plan.norms.map(({ graph, begin }, i) => {
    const addresses = new Map([
      ["gradient", trainable.gradient + 4 * begin],
      ["squares", squares + i * ALIGNMENT],
    ]);
    return executor.bind(programs.of(graph), addresses, workspace);
  });
  const updates = plan.updates.map(({ graph, run, begin, offsets }): Call => {
    const bound = new Map<string, Address>([
      ["param", trainable.param + 4 * begin],
      ["gradient", trainable.gradient + 4 * begin],
      ["hyper", hyper.get(run)!],
      ...[...offsets].map(([slot, offset]: [StateSlot, number]) => [slot.name, state.address + offset] as const),
    ]);
    for (const { name, updates } of graph.outputs) bound.set(name, bound.get(updates!)!);
    return executor.bind(programs.of(graph), bound, workspace);
  });
  const stride = ALIGNMENT / 4;
  const sum = () =>
    readTensor(executor, squares, { dtype: "f32", shape: [norms.length * stride] })
      .filter((_, i) => i % stride === 0)
      .reduce((total, square) => total + square, 0);

  return {
    learningRate: plan.choice.learningRate,
    step(count, learningRate, lossScale = 1) {
      for (const norm of norms) executor.run(norm);
      const gradientNorm = Math.sqrt(sum()) / lossScale;
      if (!Number.isFinite(gradientNorm)) return gradientNorm;
      // As torch.nn.utils.clip_grad_norm_: the coefficient is clip / (norm + 1e-6), at most 1.
      const gradientScale = (clip > 0 ? Math.min(1, clip / (gradientNorm + 1e-6)) : 1) / lossScale;
      for (const [{ rule, weightDecay }, address] of hyper) {
        const values = rule.hyper({ count, learningRate, weightDecay, gradientScale });
        executor.write(address, new Uint8Array(Float32Array.from(values).buffer));
      }
      for (const update of updates) executor.run(update);
      return gradientNorm;
    },
    zeroGradients() {
      executor.zero(trainable.gradient, 4 * trainable.layout.size);
    },
  };
}
