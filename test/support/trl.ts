import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import type { Batches, MicroBatch } from "../../src/data/samples/batch.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { headBatch } from "../../src/load/head-batch.ts";
import { objectiveOf } from "../../src/objectives/index.ts";
import { hasReference, type Head } from "../../src/objectives/objective.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { type Checkpoints, START } from "../../src/train/run/checkpoint.ts";
import { type Evaluation, type StepMetrics, totalSteps, trainLoop } from "../../src/train/run/loop.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { addReferences, createReferences, withReferences } from "../../src/train/step/references.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { goldenTuning, modelFolder, readAdapter, readTensors } from "./golden.ts";
import { expectWithin, relativeError } from "./ops.ts";
import { slowTest } from "./slow.ts";
import { folderOf, preferenceBatches, preferenceSamples, readTrlRuns } from "./preferences.ts";
import type { TrainerRun } from "./trainer.ts";

/** What runs are trained on: the micro-batches of all epochs, and the number of their examples. */
export interface TrlData {
  readonly batches: Batches;
  readonly examples: number;
}

const PAIRS: TrlData = { batches: preferenceBatches(), examples: preferenceSamples().count };

export interface ObjectiveFlags extends Readonly<Record<string, unknown>> {
  readonly objective: string;
}

interface Trained {
  readonly steps: readonly StepMetrics[];
  readonly evaluation: Evaluation;
  readonly weights: ReadonlyMap<string, Float32Array>;
}

async function trained(
  run: TrainerRun,
  flags: ObjectiveFlags,
  executor: Executor,
  data: TrlData,
  strategy: Checkpointing = { name: "per-segment" },
): Promise<Trained> {
  const { batchSize: _, ...given } = run;
  const settings = { ...given, ...flags, model: "-", data: "-", steps: 20 };
  const config = trainConfigSchema.parse(settings);
  const model = loadConfig(modelFolder(run.model));
  const tuning = goldenTuning(run.model, run.method);
  const source = openModelWeights(modelFolder(run.model), model);
  const head = "token-losses";
  const engine: Engine = createEngine(executor, {
    config: model,
    source,
    tuning,
    strategy,
    tokens: data.batches.sizes,
    head,
    optimizer: chooseOptimizer(config),
  });
  source.close();
  const { resident } = engine;
  if (run.method === "lora") {
    for (const [name, data] of readAdapter(run.model).tensors)
      executor.write(resident.param.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  const { head: learned } = objectiveOf(config);
  const count = totalSteps(config, data.batches.count(0)) * config.gradientAccumulation;
  const { train, valid } = batchesFor(engine, learned, data, count);
  const steps: StepMetrics[] = [];
  const evaluations: Evaluation[] = [];
  const checkpoints: Checkpoints = { save: () => {}, restore: () => null, restoreBest: () => null };
  const events = {
    step: (step: StepMetrics) => void steps.push(step),
    evaluation: (evaluation: Evaluation) => void evaluations.push(evaluation),
    checkpoint: () => {},
    warning: () => {},
  };
  const optimizer = createOptimizer(engine, config);
  const rest = { checkpoints, events, collect: () => {}, shouldStop: () => false };
  await trainLoop({ engine, optimizer, data: { train, valid }, config, ...rest }, START);
  const trainable = resident.params.filter((param) => param.trainable);
  const weights = new Map(
    trainable.map(({ name, type }) => [name, readTensor(executor, resident.param.get(name)!, type).slice()]),
  );
  engine.close();
  executor.close();
  return { steps, evaluation: evaluations.at(-1)!, weights };
}

/** The micro-batches of a run and of its evaluation, with a reference where the objective has one: the model as it is now. */
function batchesFor(
  engine: Engine,
  head: Head,
  { batches: plain, examples }: TrlData,
  count: number,
): { train: Batches; valid: MicroBatch[] } {
  const all = Array.from({ length: count }, (_, ordinal) => {
    const { epoch, index } = plain.locate(ordinal);
    return plain.batch(epoch, index);
  });
  const first = (batches: Batches) => Array.from({ length: batches.count(0) }, (_, index) => batches.batch(0, index));
  if (!hasReference(head)) return { train: plain, valid: first(plain) };
  const references = createReferences(examples, 2);
  for (const batch of all) {
    addReferences(references, batch, (part) => {
      const tokens = headBatch(head, part, engine.config);
      return { labels: tokens.labels, losses: engine.tokenLosses(tokens) };
    });
  }
  const train = withReferences(plain, references);
  return { train, valid: first(train) };
}

/** Within the bound, relative to the value where it is above 1. */
function expectClose(what: string, got: number, wanted: number, bound: number): void {
  expectWithin(`${what}: ${got}, ${wanted}`, Math.abs(got - wanted) / Math.max(1, Math.abs(wanted)), bound);
}

const EXECUTORS: Record<string, () => Promise<Executor>> = {
  wasm: () => createWasmExecutor({ threads: 1, matmul: "wasm" }),
  native: () => createWasmExecutor({ threads: 1, matmul: "native" }),
  "ort-cpu": async () => createOrtExecutor({ threads: 1 }),
};

/** Tests whole runs with an objective against those of TRL in its folder of test/golden. `flags` choose it beside the settings of a run. */
export function describeTrl(trainer: string, flags: ObjectiveFlags, data = PAIRS): void {
  const runs = readTrlRuns(flags.objective);
  describe(`a whole run with --objective ${flags.objective} is what TRL's ${trainer} makes of it`, () => {
    for (const name of Object.keys(EXECUTORS)) {
      test.each(runs.map(({ settings, expected }) => [name, settings.method, settings.model, settings, expected] as const))(
        "on %s: %s, %s: losses, metrics, gradient norms and the last weights within 1e-4",
        async (_, method, family, run, expected) => {
          const { steps, evaluation, weights } = await trained(run, flags, await EXECUTORS[name]!(), data);
          expect(steps.length).toBe(expected.steps.length);
          for (const [i, { gradientNorm, loss, ...metrics }] of expected.steps.entries()) {
            const got = steps[i]!;
            expectClose(`loss of step ${i}`, got.loss, loss!, 1e-4);
            expectClose(`gradient norm of step ${i}`, got.gradientNorm, gradientNorm!, 1e-4);
            expect(Object.keys(got.metrics).sort()).toEqual(Object.keys(metrics).sort());
            for (const [metric, value] of Object.entries(metrics))
              expectClose(`${metric} of step ${i}`, got.metrics[metric]!, value, 1e-4);
          }
          const { loss, ...metrics } = expected.evaluation;
          expectClose("held-out loss", evaluation.loss, loss!, 1e-4);
          for (const [metric, value] of Object.entries(metrics)) expectClose(metric, evaluation.metrics[metric]!, value, 1e-4);
          const last = readTensors(join(folderOf(flags.objective), `${family}.safetensors`));
          expect(last.size).toBeGreaterThan(8);
          for (const [weight, values] of last) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
          if (method === "lora") expect([...last.keys()].sort()).toEqual([...weights.keys()].sort());
        },
      );
    }
  });

  slowTest("a whole run is the same to the bit for every schedule and for 1 and 2 threads", async () => {
    const run = runs[1]!.settings;
    const executor = (threads: number) => createWasmExecutor({ threads });
    const reference = await trained(run, flags, await executor(1), data, { name: "off" });
    for (const [i, strategy] of STRATEGIES.entries()) {
      const { steps, evaluation, weights } = await trained(run, flags, await executor(1 + (i % 2)), data, strategy);
      expect(weights).toEqual(reference.weights);
      expect(evaluation).toEqual(reference.evaluation);
      expect(steps.map(({ loss, metrics }) => [loss, metrics])).toEqual(
        reference.steps.map(({ loss, metrics }) => [loss, metrics]),
      );
    }
  });
}

const STRATEGIES: Checkpointing[] = [
  { name: "sqrt" },
  { name: "revolve", slots: 1 },
  { name: "optimal", limit: { share: 0.4 } },
  { name: "budget", bytes: 2 ** 26 },
];
