import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/hf/weights/model-weights.ts";
import { withNewHead } from "../../src/load/text-head.ts";
import { headBatch } from "../../src/load/head-batch.ts";
import { hasAdapters, type Tuning } from "../../src/models/tuning.ts";
import { objectiveOf } from "../../src/objectives/index.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { START } from "../../src/train/run/checkpoint.ts";
import { type Evaluation, type StepMetrics, trainLoop } from "../../src/train/run/loop.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import {
  CLASSIFY_FOLDER,
  CLASSIFY_RUNS,
  type ClassifyRun,
  drawn,
  labelledBatches,
  outputsOf,
  PAD,
  readClassifyFixture,
  textsOf,
} from "../support/classify.ts";
import { goldenTuning, modelFolder, readAdapter, readTensors } from "../support/golden.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readClassifyFixture();
const labels = ["a", "b", "c"];

test("the fixture is of these micro-batches and settings (test/golden/classify makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...CLASSIFY_RUNS]);
  for (const kind of ["single", "several", "number"] as const)
    expect(drawn(labelledBatches(kind)).map(textsOf)).toEqual(fixture.batches[kind].map((batch) => [...batch]));
});

/** What the fixture trains: everything, or its adapter with the head whole beside it. */
function tuningOf({ model, method }: ClassifyRun): Tuning {
  const tuning = goldenTuning(model, method);
  return hasAdapters(tuning) ? { ...tuning, trains: (name) => name === "score.weight" } : tuning;
}

async function trained(run: ClassifyRun, start: Float32Array, executor: Executor, strategy: Checkpointing, packing = false) {
  const { batchSize: _, kind, ...given } = run;
  const config = trainConfigSchema.parse({
    ...given,
    objective: "classify",
    labels,
    labelKind: kind,
    model: "-",
    data: "-",
    steps: 20,
  });
  const batches = labelledBatches(kind, packing);
  const folder = modelFolder(run.model);
  const model = { ...loadConfig(folder), textHead: { outputs: outputsOf(kind), padId: PAD } };
  const source = openModelWeights(folder, model);
  const { head } = objectiveOf(config);
  const engine = createEngine(executor, {
    config: model,
    source: withNewHead(source, outputsOf(kind), model.hiddenSize, 1),
    tuning: tuningOf(run),
    strategy,
    tokens: batches.sizes,
    head: head.kind,
    texts: batches.most,
    optimizer: chooseOptimizer(config),
  });
  const { resident } = engine;
  const write = (name: string, data: Float32Array) =>
    executor.write(resident.param.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  if (run.method === "lora") for (const [name, data] of readAdapter(run.model).tensors) write(name, data);
  write(run.method === "lora" ? "base_model.model.score.weight" : "score.weight", start);
  const steps: StepMetrics[] = [];
  const evaluations: Evaluation[] = [];
  const events = {
    step: (step: StepMetrics) => void steps.push(step),
    evaluation: (evaluation: Evaluation) => void evaluations.push(evaluation),
    checkpoint: () => {},
    warning: () => {},
  };
  const valid = Array.from({ length: batches.count(0) }, (_, index) => batches.batch(0, index));
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
  const logits = valid.map((batch) => engine.textLogits(headBatch(head, batch, model)).slice());
  engine.close();
  source.close();
  executor.close();
  return { steps, evaluation: evaluations.at(-1)!, weights, logits };
}

const EXECUTORS: Record<string, () => Promise<Executor>> = {
  wasm: () => createWasmExecutor({ threads: 1, matmul: "wasm" }),
  native: () => createWasmExecutor({ threads: 1, matmul: "native" }),
  "ort-cpu": async () => createOrtExecutor({ threads: 1 }),
};

describe("a whole run with --objective classify is what Transformers' Trainer makes of it", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(fixture.runs.map((run) => [on, run.name, run] as const))(
      "on %s: %s: losses, gradient norms, the last weights and logits within 1e-4",
      async (_, name, { settings, expected }) => {
        const tensors = readTensors(join(CLASSIFY_FOLDER, `${name}.safetensors`));
        const { steps, weights, logits } = await trained(settings, tensors.get("start")!, await EXECUTORS[on]!(), {
          name: "per-segment",
        });
        expect(steps.length).toBe(20);
        for (const [i, { loss, gradientNorm }] of expected.steps.entries()) {
          const close = (what: string, got: number, wanted: number) =>
            expectWithin(`${what} of step ${i}: ${got}, ${wanted}`, Math.abs(got - wanted) / Math.max(1, Math.abs(wanted)), 1e-4);
          close("loss", steps[i]!.loss, loss);
          close("gradient norm", steps[i]!.gradientNorm, gradientNorm);
        }
        tensors.delete("start");
        expect(tensors.size).toBeGreaterThan(8);
        for (const [weight, values] of tensors) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
        if (settings.method === "lora") expect([...tensors.keys()].sort()).toEqual([...weights.keys()].sort());
        expectWithin(
          "logits",
          relativeError(
            logits.flatMap((each) => [...each]),
            expected.logits.flat(),
          ),
          1e-4,
        );
      },
    );
  }
});

test("a whole run is the same to the bit for every schedule and for 1 and 2 threads, with texts packed into rows too", async () => {
  const run = CLASSIFY_RUNS[1]!;
  const start = readTensors(join(CLASSIFY_FOLDER, "gemma2-single.safetensors")).get("start")!;
  for (const packing of SLOW ? [false, true] : [true]) {
    const reference = await trained(run, start, await createWasmExecutor({ threads: 1 }), { name: "off" }, packing);
    const strategies: Checkpointing[] = [
      { name: "revolve", slots: 1 },
      { name: "optimal", limit: { share: 0.4 } },
    ];
    for (const [i, strategy] of strategies.entries()) {
      const again = await trained(run, start, await createWasmExecutor({ threads: 1 + (i % 2) }), strategy, packing);
      expect(again.weights).toEqual(reference.weights);
      expect(again.evaluation).toEqual(reference.evaluation);
      expect(again.steps.map(({ loss, metrics }) => [loss, metrics])).toEqual(
        reference.steps.map(({ loss, metrics }) => [loss, metrics]),
      );
    }
  }
});
