import { expect } from "bun:test";
import type { Batches, MicroBatch } from "../../src/data/samples/batch.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { headBatch } from "../../src/load/head-batch.ts";
import { withNewHead } from "../../src/load/text-head.ts";
import { hasAdapters, type Tuning } from "../../src/models/tuning.ts";
import { objectiveOf } from "../../src/objectives/index.ts";
import type { LogitsHead } from "../../src/objectives/objective.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { START } from "../../src/train/run/checkpoint.ts";
import { type Evaluation, type StepMetrics, trainLoop } from "../../src/train/run/loop.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { goldenTuning, modelFolder, readAdapter } from "./golden.ts";
import { expectWithin } from "./ops.ts";
import { SLOW } from "./slow.ts";
import type { TrainerRun } from "./trainer.ts";

/** Describes a whole run, as a rule one that ends in a head for texts. */
export interface JudgedRun {
  readonly run: TrainerRun;
  /** The objective and its settings. */
  readonly objective: Readonly<Record<string, unknown>>;
  readonly batches: Batches;
  readonly padId: number;
  /** Tokens that the model's own head picks among, in the place of a new head. */
  readonly options?: readonly number[];
  /** The head at the start, by the names of its parameters. */
  readonly start: Readonly<Record<string, Float32Array>>;
}

export interface JudgedResult {
  readonly steps: readonly StepMetrics[];
  /** After the last step, of the first epoch's micro-batches. */
  readonly evaluation: Evaluation;
  readonly weights: ReadonlyMap<string, Float32Array>;
  readonly logits: readonly Float32Array[];
}

export const EXECUTORS: Readonly<Record<string, () => Promise<Executor>>> = {
  wasm: () => createWasmExecutor({ threads: 1, matmul: "wasm" }),
  native: () => createWasmExecutor({ threads: 1, matmul: "native" }),
  "ort-cpu": async () => createOrtExecutor({ threads: 1 }),
};

/** Runs of a fixture on an executor: the plain suite has all on the kernels, and the first on each other one. */
export function runsOn<Run>(on: string, runs: readonly Run[]): readonly Run[] {
  return SLOW || on === "wasm" ? runs : runs.slice(0, 1);
}

/** Losses and gradient norms of 20 steps are a trainer's, within 1e-4. */
export function expectSteps(
  steps: readonly StepMetrics[],
  expected: readonly { readonly loss: number; readonly gradientNorm: number }[],
): void {
  expect([steps.length, expected.length]).toEqual([20, 20]);
  for (const [i, { loss, gradientNorm }] of expected.entries()) {
    const close = (what: string, got: number, wanted: number) =>
      expectWithin(`${what} of step ${i}: ${got}, ${wanted}`, Math.abs(got - wanted) / Math.max(1, Math.abs(wanted)), 1e-4);
    close("loss", steps[i]!.loss, loss);
    close("gradient norm", steps[i]!.gradientNorm, gradientNorm);
  }
}

/** What the fixtures train: everything, or an adapter with the head whole beside it. */
function tuningOf({ run: { model, method }, start }: JudgedRun): Tuning {
  const tuning = goldenTuning(model, method);
  return hasAdapters(tuning) ? { ...tuning, trains: (name) => name in start } : tuning;
}

/** Trains 20 steps. Closes the executor. */
export async function trainedJudge(judged: JudgedRun, executor: Executor, strategy: Checkpointing): Promise<JudgedResult> {
  const { run, objective, batches, padId, start, options } = judged;
  const { batchSize: _, ...given } = run;
  const own = Object.fromEntries(Object.entries(given).filter(([key]) => key in trainConfigSchema.shape));
  const config = trainConfigSchema.parse({ ...own, ...objective, model: "-", data: "-", steps: 20 });
  const { head, texts } = objectiveOf(config);
  const judge: LogitsHead | null = head.kind === "logits" ? head : null;
  const { outputs = 0, pooling } = judge ?? {};
  const folder = modelFolder(run.model);
  const declared = loadConfig(folder);
  const textHead = pooling
    ? { outputs: declared.hiddenSize, padId: null, pooling }
    : { outputs, padId: options ? null : padId, ...(options && { options }) };
  const model = judge ? { ...declared, textHead } : declared;
  const source = openModelWeights(folder, model);
  const engine = createEngine(executor, {
    config: model,
    source: pooling || options || !judge ? source : withNewHead(source, model, outputs, 1),
    tuning: tuningOf(judged),
    strategy,
    tokens: batches.sizes,
    head: head.kind,
    slots: head.kind === "token-losses" ? head.slots : undefined,
    texts: texts * batches.most,
    optimizer: chooseOptimizer(config),
  });
  const { resident } = engine;
  const write = (name: string, data: Float32Array) =>
    executor.write(resident.param.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  if (run.method === "lora") for (const [name, data] of readAdapter(run.model).tensors) write(name, data);
  for (const [name, data] of Object.entries(start)) write(run.method === "lora" ? `base_model.model.${name}` : name, data);
  const steps: StepMetrics[] = [];
  const evaluations: Evaluation[] = [];
  const events = {
    step: (step: StepMetrics) => void steps.push(step),
    evaluation: (evaluation: Evaluation) => void evaluations.push(evaluation),
    checkpoint: () => {},
    warning: () => {},
  };
  const valid: MicroBatch[] = Array.from({ length: batches.count(0) }, (_each, index) => batches.batch(0, index));
  const checkpoints = { save: () => {}, restore: () => null, restoreBest: () => null };
  const rest = { checkpoints, events, collect: () => {}, shouldStop: () => false };
  await trainLoop(
    { engine, optimizer: createOptimizer(engine, config), data: { train: batches, valid }, config, ...rest },
    START,
  );
  const weights = new Map(
    resident.params
      .filter(({ trainable }) => trainable)
      .map(({ name, type }) => [name, readTensor(executor, resident.param.get(name)!, type).slice()]),
  );
  const logits = judge ? valid.map((batch) => engine.textLogits(headBatch(judge, batch, model)).slice()) : [];
  engine.close();
  source.close();
  executor.close();
  return { steps, evaluation: evaluations.at(-1)!, weights, logits };
}

/** Expects losses, metrics and the last weights of a run to be the same to the bit for every schedule and for 1 and 2 threads. */
export async function expectScheduleFree(run: JudgedRun): Promise<void> {
  const result = async (threads: number, strategy: Checkpointing) => {
    const { weights, steps } = await trainedJudge(run, await createWasmExecutor({ threads }), strategy);
    return { weights, steps: steps.map(({ loss, metrics }) => [loss, metrics]) };
  };
  const reference = await result(1, { name: "off" });
  expect(await result(1, { name: "revolve", slots: 1 })).toEqual(reference);
  expect(await result(2, { name: "optimal", limit: { share: 0.5 } })).toEqual(reference);
}
