import { byteLength } from "../../src/graph/types.ts";
import type { OptimizerChoice } from "../../src/optimizers/index.ts";
import { type OptimizerState, planOptimizer, reserveOptimizer, trainedTensors } from "../../src/optimizers/plan.ts";
import { createPrograms } from "../../src/runtime/chain.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { type FlatParams, type ParamInfo, readTensor } from "../../src/runtime/resident.ts";
import { createOptimizer, type Optimizer } from "../../src/train/step/optimizer.ts";

/** Some parameters without a model, and an optimizer that updates them. */
export interface Trained {
  readonly executor: Executor;
  readonly resident: { readonly trainable: FlatParams };
  readonly optimizer: OptimizerState;
  readonly updates: Optimizer;
  /** Bytes of the workspace that an update asked for. */
  readonly workspace: number;
  /** Writes a gradient, or a parameter. */
  write(what: "param" | "gradient", values: Readonly<Record<string, ArrayLike<number>>>): void;
  read(param: string): Float32Array;
  /** The bytes of everything that is trained, by name: parameters and state. */
  bytes(): Map<string, Uint8Array>;
}

export const paramsOf = (shapes: Readonly<Record<string, readonly number[]>>): ParamInfo[] =>
  Object.entries(shapes).map(([name, shape]) => ({ name, type: { dtype: "f32", shape }, trainable: true }));

export function trainAlone(
  executor: Executor,
  choice: OptimizerChoice,
  params: readonly ParamInfo[],
  clip: number,
  apart = false,
): Trained {
  const plan = planOptimizer(choice, params, apart);
  const flat = () => {
    const address = executor.reserve(4 * plan.layout.size);
    executor.zero(address, 4 * plan.layout.size);
    return address;
  };
  const trainable: FlatParams = { param: flat(), gradient: flat(), layout: plan.layout };
  const optimizer = reserveOptimizer(executor, plan);
  const begins = new Map(plan.layout.parts.map(({ param, begin }) => [param.name, begin]));
  let workspace = 0;
  const updates = createOptimizer(
    {
      executor,
      resident: { trainable },
      optimizer,
      plan: { programs: createPrograms(executor) },
      gradients: null,
      zeroGradients: () => executor.zero(trainable.gradient, 4 * plan.layout.size),
      updateMemory(bytes) {
        workspace = bytes;
        return executor.reserve(bytes);
      },
    },
    { clip },
  );
  return {
    executor,
    resident: { trainable },
    optimizer,
    updates,
    workspace,
    write(what, values) {
      for (const [name, data] of Object.entries(values))
        executor.write(trainable[what] + 4 * begins.get(name)!, new Uint8Array(Float32Array.from(data).buffer));
    },
    read(name) {
      const { type } = params.find((param) => param.name === name)!;
      return readTensor(executor, trainable.param + 4 * begins.get(name)!, type).slice();
    },
    bytes: () =>
      new Map(
        trainedTensors(trainable, optimizer).map(({ name, type, address }) => [
          name,
          executor.read(address, byteLength(type)).slice(),
        ]),
      ),
  };
}
