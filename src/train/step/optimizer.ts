import type { StateSlot } from "../../optimizers/optimizer.ts";
import { type OptimizerState, updateGraphs, updateWorkspace } from "../../optimizers/plan.ts";
import type { Programs } from "../../runtime/chain.ts";
import { byteLength } from "../../graph/types.ts";
import { type Address, ALIGNMENT, type Executor } from "../../runtime/executor.ts";
import { type GradientWindow, settleGradients } from "../../runtime/streaming/gradient-window.ts";
import { bindOutsideCalls, type UpdateProgram, updateWindowBytes } from "../../optimizers/outside.ts";
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
  /** Where gradients pass that lie outside, with the rest of the trained state; null: all is in memory. */
  readonly gradients: GradientWindow | null;
  updateMemory(bytes: number): Address;
  zeroGradients(): void;
}

/** @param clip largest global norm of the gradients; 0 is no clipping */
export function createOptimizer(inputs: OptimizerInputs, { clip }: { readonly clip: number }): Optimizer {
  const { executor, optimizer: state } = inputs;
  if (!state) throw new Error("the engine was made without an optimizer");
  const { trainable } = inputs.resident;
  const { programs } = inputs.plan;
  const { plan } = state;
  const graphs = updateGraphs(plan);
  const windowBytes = inputs.gradients ? updateWindowBytes(graphs) : 0;
  const window = inputs.updateMemory(windowBytes + updateWorkspace(programs, graphs));
  const workspace = window + windowBytes;
  const hyper = new Map(plan.runs.map((run) => [run, executor.reserve(4 * run.rule.hyperSize)]));
  const squares = executor.reserve(plan.norms.length * ALIGNMENT);
  const norms = plan.norms.map(({ graph, begins }, i): UpdateProgram => {
    const gradients = [...begins].map(([input, begin]) => [input, trainable.gradient + 4 * begin] as const);
    return { graph, addresses: new Map([...gradients, [graph.outputs[0]!.name, squares + i * ALIGNMENT]]) };
  });
  const updates = plan.updates.map(({ graph, run, begin, offsets }): UpdateProgram => {
    const addresses = new Map<string, Address>([
      ["param", trainable.param + 4 * begin],
      ["gradient", trainable.gradient + 4 * begin],
      ["hyper", hyper.get(run)!],
      ...[...offsets].map(([slot, offset]: [StateSlot, number]) => [slot.name, state.address + offset] as const),
    ]);
    for (const { name, updates } of graph.outputs) addresses.set(name, addresses.get(updates!)!);
    return { graph, addresses };
  });
  const { gradients } = inputs;
  const runner = (calls: readonly UpdateProgram[]): (() => void) => {
    if (gradients) return bindOutsideCalls(executor, programs, calls, gradients.outside, window, workspace);
    const bound = calls.map(({ graph, addresses }) => executor.bind(programs.of(graph), addresses, workspace));
    return () => bound.forEach((call) => executor.run(call));
  };
  const [runNorms, runUpdates] = [runner(norms), runner(updates)];
  const bytesOf = new Map(trainable.layout.parts.map(({ param }) => [param.name, byteLength(param.type)]));
  const stride = ALIGNMENT / 4;
  const sum = () =>
    readTensor(executor, squares, { dtype: "f32", shape: [norms.length * stride] })
      .filter((_, i) => i % stride === 0)
      .reduce((total, square) => total + square, 0);

  return {
    learningRate: plan.choice.learningRate,
    step(count, learningRate, lossScale = 1) {
      if (gradients) settleGradients(gradients, (param) => bytesOf.get(param)!);
      runNorms();
      const gradientNorm = Math.sqrt(sum()) / lossScale;
      if (!Number.isFinite(gradientNorm)) return gradientNorm;
      // As torch.nn.utils.clip_grad_norm_: the coefficient is clip / (norm + 1e-6), at most 1.
      const gradientScale = (clip > 0 ? Math.min(1, clip / (gradientNorm + 1e-6)) : 1) / lossScale;
      for (const [{ rule, weightDecay }, address] of hyper) {
        const values = rule.hyper({ count, learningRate, weightDecay, gradientScale });
        executor.write(address, new Uint8Array(Float32Array.from(values).buffer));
      }
      runUpdates();
      return gradientNorm;
    },
    zeroGradients: inputs.zeroGradients,
  };
}
