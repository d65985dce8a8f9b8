import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { createBatches } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { createRandom } from "../../src/base/random.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { createCheckpoints, START, type TrainingPosition } from "../../src/train/run/checkpoint.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { resetOptimizer } from "../../src/optimizers/plan.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { FIRST_LOSS_SCALE, type LossScale, nextLossScale } from "../../src/train/step/loss-scale.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { type StepMetrics, trainLoop } from "../../src/train/run/loop.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { llama } from "../support/engine.ts";

setDefaultTimeout(120_000);

describe("the next loss scale", () => {
  const after = (scale: LossScale, ...finite: boolean[]) => finite.reduce((state, each) => nextLossScale(state, each)!, scale);

  test("begins at 65536 and is halved by a step that is skipped", () => {
    expect(after(FIRST_LOSS_SCALE, true, true, false)).toEqual({ scale: 32768, streak: 0, skipped: 1 });
    expect(after(FIRST_LOSS_SCALE, false, false, true)).toEqual({ scale: 16384, streak: 1, skipped: 2 });
  });

  test("is doubled by 2000 updates in a row, and not before", () => {
    const good = Array<boolean>(1999).fill(true);
    expect(after(FIRST_LOSS_SCALE, ...good)).toEqual({ scale: 65536, streak: 1999, skipped: 0 });
    expect(after(FIRST_LOSS_SCALE, ...good, true)).toEqual({ scale: 131072, streak: 0, skipped: 0 });
    expect(after(FIRST_LOSS_SCALE, ...good, false, ...good)).toEqual({ scale: 32768, streak: 1999, skipped: 1 });
  });

  test("a scale of 1 is not to blame", () => {
    expect(nextLossScale({ scale: 2, streak: 7, skipped: 15 }, false)).toEqual({ scale: 1, streak: 0, skipped: 16 });
    expect(nextLossScale({ scale: 1, streak: 0, skipped: 16 }, false)).toBeNull();
  });
});

describe("training in f16 on ONNX Runtime", () => {
  const executor = createOrtExecutor({ threads: 1 });
  afterAll(() => executor.close());
  const folder = temporaryFolder();
  const STEPS = 8;
  const config = trainConfigSchema.parse({ model: "m", data: "d", steps: STEPS, saveEvery: 1, keep: 9, learningRate: 1e-2 });
  const random = createRandom(1, "samples");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 20; i++) {
    const ids = Int32Array.from({ length: 4 + random.below(8) }, () => random.below(67));
    store.add({ ids, labels: ids, weights: null }, i + 1);
  }
  const batches = createBatches(store.finish(), { rows: 2, rowLength: 12, packing: true, seed: 5, padId: 0, shuffle: true });
  const engine = createEngine(executor, {
    config: llama(2, 16, { intermediate_size: 24 }),
    source: randomCheckpoint(llama(2, 16, { intermediate_size: 24 }), "f32"),
    tuning: { method: "full" },
    strategy: { name: "per-segment" },
    dtype: "f16",
    tokens: batches.sizes,
    optimizer: chooseOptimizer(config),
  });
  const flat = engine.resident.trainable;
  const optimizer = createOptimizer(engine, config);
  const bytes = 4 * flat.layout.size;
  const initial = executor.read(flat.param, bytes).slice();
  const weights = () => executor.read(flat.param, bytes).slice();

  async function train(run: string, start: TrainingPosition) {
    const checkpoints = createCheckpoints(join(folder, run), engine, { keep: config.keep, fingerprint: "same" });
    executor.write(flat.param, initial);
    resetOptimizer(executor, engine.optimizer!);
    const steps: StepMetrics[] = [];
    const after: Uint8Array[] = [];
    const position = await trainLoop(
      {
        engine,
        optimizer,
        config,
        data: { train: batches, valid: [] },
        checkpoints,
        events: {
          step(step) {
            steps.push(step);
            after.push(weights());
          },
          evaluation: () => {},
          checkpoint: () => {},
          warning: () => {},
        },
        collect: () => {},
        shouldStop: () => false,
      },
      start,
    );
    return { steps, after, position };
  }

  test("a scale that is too large: steps are skipped until it fits, then AdamW begins at its first update", async () => {
    const start = { ...START, lossScale: { scale: 2 ** 22, streak: 0, skipped: 0 } };
    const { steps, after, position } = await train("large", start);
    const isUpdate = steps.map(({ gradientNorm }) => Number.isFinite(gradientNorm));
    const first = isUpdate.indexOf(true);
    expect(isUpdate[0]).toBe(false);
    expect(first).toBeGreaterThan(0);
    let state: LossScale = start.lossScale;
    steps.forEach(({ lossScale, skipped }, i) => {
      expect(lossScale).toBe(state.scale);
      state = nextLossScale(state, isUpdate[i]!)!;
      expect(skipped).toBe(state.skipped);
      expect(Buffer.compare(after[i]!, i === 0 ? initial : after[i - 1]!) !== 0).toBe(isUpdate[i]!);
    });
    expect(position.lossScale).toEqual(state);
    // AdamW's first update is the learning rate times the sign of the gradient, whatever the number of the step.
    const floats = (bytes: Uint8Array) => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const before = floats(after[first - 1]!);
    const largest = floats(after[first]!).reduce((most, value, i) => Math.max(most, Math.abs(value - before[i]!)), 0);
    expect(Math.abs(largest / steps[first]!.learningRate - 1)).toBeLessThan(1e-3);
  });

  test("the losses do not depend on the scale to 1e-3, and the loss scale is part of a checkpoint", async () => {
    const small = await train("small", { ...START, lossScale: { scale: 2 ** 8, streak: 0, skipped: 0 } });
    const usual = await train("usual", START);
    expect(usual.steps.map(({ lossScale }) => lossScale)).toEqual(Array<number>(STEPS).fill(2 ** 16));
    usual.steps.forEach(({ loss }, i) => expect(Math.abs(loss / small.steps[i]!.loss - 1)).toBeLessThan(1e-3));
    const checkpoints = createCheckpoints(join(folder, "usual"), engine, { keep: 9, fingerprint: "same" });
    expect(checkpoints.restore(() => {})!.lossScale).toEqual({ scale: 2 ** 16, streak: STEPS, skipped: 0 });
  });
});
