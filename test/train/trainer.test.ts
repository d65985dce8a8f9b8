import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Checkpoints, START } from "../../src/train/run/checkpoint.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { type Evaluation, type StepMetrics, trainLoop } from "../../src/train/run/loop.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { goldenTuning, modelFolder, readAdapter } from "../support/golden.ts";
import { drawn, readTrainerFixture, rowsOf, RUNS, trainerBatches } from "../support/trainer.ts";

setDefaultTimeout(120_000);

const { batches: expectedBatches, runs } = readTrainerFixture();
const train = trainerBatches();

test("the fixture is of these micro-batches and settings (test/golden/trainer makes it anew)", () => {
  expect(drawn(train).map(rowsOf)).toEqual(expectedBatches);
  expect(runs.map(({ settings }) => settings)).toEqual([...RUNS]);
});

describe("a whole run is what Transformers' Trainer makes of it", () => {
  test.each(runs.map(({ settings, expected }) => [settings.method, settings.model, settings, expected] as const))(
    "%s, %s: losses and gradient norms within 1e-4, learning rates within 1e-12",
    async (_, __, run, expected) => {
      const config = trainConfigSchema.parse({ ...run, data: "-", steps: expected.steps.length });
      const model = loadConfig(modelFolder(run.model));
      const adapter = readAdapter(run.model);
      const tuning = goldenTuning(run.model, run.method);
      const executor = await createWasmExecutor({ threads: 1 });
      const source = openModelWeights(modelFolder(run.model), model);
      const strategy = { name: "per-segment" } as const;
      const engine = createEngine(executor, {
        config: model,
        source,
        tuning,
        strategy,
        tokens: train.sizes,
        optimizer: chooseOptimizer(config),
      });
      source.close();
      if (run.method === "lora") {
        for (const [name, data] of adapter.tensors) {
          executor.write(engine.resident.param.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
        }
      }
      const steps: StepMetrics[] = [];
      const evaluations: Evaluation[] = [];
      const checkpoints: Checkpoints = { save: () => {}, restore: () => null, restoreBest: () => null };
      await trainLoop(
        {
          engine,
          optimizer: createOptimizer(engine, config),
          data: { train, valid: drawn(train) },
          config,
          checkpoints,
          events: {
            step: (step) => void steps.push(step),
            evaluation: (evaluation) => void evaluations.push(evaluation),
            checkpoint: () => {},
            warning: () => {},
          },
          collect: () => {},
          shouldStop: () => false,
        },
        START,
      );
      executor.close();
      expect(steps.length).toBe(expected.steps.length);
      const relative = (got: number, wanted: number) => Math.abs(got / wanted - 1);
      for (const [i, { loss, gradientNorm, learningRate }] of expected.steps.entries()) {
        const got = steps[i]!;
        expect(relative(got.loss, loss)).toBeLessThan(1e-4);
        expect(relative(got.gradientNorm, gradientNorm)).toBeLessThan(1e-4);
        expect(Math.abs(got.learningRate - learningRate)).toBeLessThan(1e-12);
      }
      expect(relative(evaluations.at(-1)!.loss, expected.last)).toBeLessThan(1e-4);
    },
  );
});
