import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import type { Strategy } from "../../src/schedule/strategies.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import {
  BATCHES,
  batchFile,
  ENCODERS,
  FAMILIES,
  type GoldenBatch,
  type GoldenFamily,
  type GoldenMethod,
  isFewer,
  METHODS,
  modelFolder,
  readAdamW,
  goldenTuning,
  isZero,
  readAdapter,
  readExpected,
  relativeError,
  tokenPositions,
} from "../support/golden.ts";
import { combinations, SLOW, THREADS } from "../support/slow.ts";

setDefaultTimeout(120_000);

const BOUND = 1e-4;
const SEED = 1;

interface Setup {
  readonly engine: Engine;
  readonly batch: ReturnType<typeof readStepBatch>;
  readonly positions: Int32Array;
}

async function setUp(
  family: GoldenFamily,
  method: GoldenMethod,
  name: GoldenBatch,
  strategy: Strategy,
  optimizer = chooseOptimizer({}),
): Promise<Setup> {
  const executor = await createWasmExecutor({ threads: THREADS });
  const config = loadConfig(modelFolder(family));
  const adapter = readAdapter(family);
  const tuning = goldenTuning(family, method);
  const batch = readStepBatch(batchFile(family, name), config);
  const positions = tokenPositions(family, name);
  const source = openModelWeights(modelFolder(family), config);
  const tokens = [batch.ids.length];
  const logits = { tokens, rows: positions.length };
  const engine = createEngine(executor, { config, source, tuning, strategy, tokens, logits, optimizer });
  source.close();
  if (method === "lora") {
    for (const [parameter, data] of adapter.tensors) {
      executor.write(engine.resident.param.get(parameter)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  }
  return { engine, batch, positions };
}

function gradientsOf(engine: Engine): Map<string, Float32Array> {
  const { params, gradient } = engine.resident;
  const trainable = params.filter((param) => param.trainable);
  return new Map(trainable.map(({ name, type }) => [name, readTensor(engine.executor, gradient.get(name)!, type)]));
}

const MODELS: readonly GoldenFamily[] = [...FAMILIES, ...ENCODERS];

describe.each(MODELS)("%s", (family) => {
  /** Methods and batches meet by turns, in the other order in every second family. */
  const methods = MODELS.indexOf(family) % 2 === 0 ? METHODS : METHODS.toReversed();
  const cases = isFewer(family) ? ([["full", "packed"]] as const) : combinations(methods, BATCHES);
  for (const [method, name] of cases) {
    describe(`${method}, ${name} batch: within 1e-4 of PyTorch`, () => {
      let setup: Setup & { readonly expected: ReturnType<typeof readExpected> };
      beforeAll(async () => {
        setup = { ...(await setUp(family, method, name, { name: "per-segment" })), expected: readExpected(family, method, name) };
      });
      afterAll(() => {
        setup.engine.executor.close();
        // Bun keeps what a describe refers to until the process ends: two hundred models made each collection slow.
        setup = undefined!;
      });

      test("logits", () => {
        const { engine, batch, positions, expected } = setup;
        const vocabulary = engine.config.vocabSize;
        const logits = engine.logits(batch, positions);
        const wanted = new Float32Array(logits.length);
        positions.forEach((position, row) => {
          wanted.set(expected.logits.subarray(position * vocabulary, (position + 1) * vocabulary), row * vocabulary);
        });
        expect(relativeError(logits, wanted)).toBeLessThan(BOUND);
      });

      test("loss and the gradient of every trainable parameter", () => {
        const { engine, batch, expected } = setup;
        engine.zeroGradients();
        const loss = engine.forwardBackward(batch, 1 / batch.labelled, SEED, 0);
        expect(Math.abs(loss - expected.loss) / expected.loss).toBeLessThan(BOUND);
        expect(engine.evaluate(batch).loss / batch.labelled).toBeCloseTo(loss, 5);
        if (expected.gradients.size === 0) return;
        const gradients = gradientsOf(engine);
        expect([...gradients.keys()].sort()).toEqual([...expected.gradients.keys()].sort());
        const all = Math.hypot(...[...expected.gradients.values()].map((gradient) => Math.hypot(...gradient)));
        const errors = [...expected.gradients].map(([parameter, gradient]) => [
          parameter,
          // What is 0 in exact arithmetic is rounding here, of all gradients.
          isZero(parameter) ? Math.hypot(...gradients.get(parameter)!) / all : relativeError(gradients.get(parameter)!, gradient),
        ]);
        expect(errors.filter(([, error]) => !((error as number) < BOUND))).toEqual([]);
      });
    });
  }

  if (isFewer(family)) return;
  for (const method of SLOW ? METHODS : [methods[0]!]) {
    test(`${method}: evaluation counts the labels that are the likeliest token in PyTorch's logits`, async () => {
      const { engine, batch } = await setUp(family, method, "packed", { name: "off" });
      const { logits } = readExpected(family, method, "packed");
      const vocabulary = engine.config.vocabSize;
      const labelled = [...batch.labels.keys()].filter((t) => batch.labels[t]! >= 0);
      const likeliest = (t: number) => {
        const row = logits.subarray(t * vocabulary, (t + 1) * vocabulary);
        return row.indexOf(Math.max(...row));
      };
      // Two labels of three are what the model expects, so that there is something to count.
      const labels = batch.labels.map((label, t) => (label >= 0 && labelled.indexOf(t) % 3 > 0 ? likeliest(t) : label));
      const correct = labelled.filter((t) => labels[t] === likeliest(t)).length;
      expect(correct).toBeWithin(Math.floor((2 / 3) * labelled.length) - 1, labelled.length);
      expect(engine.evaluate({ ...batch, labels }).correct).toBe(correct);
      engine.executor.close();
    });
  }

  for (const [method, suffix] of combinations(methods, ["", "-clipped"] as const)) {
    test(`${method}${suffix}: the losses of ten AdamW steps within 1e-4 of PyTorch's`, async () => {
      const { adamw, losses } = readAdamW(family);
      const [beta1, beta2] = adamw.betas;
      const choice = chooseOptimizer({ beta1, beta2, epsilon: adamw.eps, weightDecay: adamw.weight_decay });
      const { engine, batch } = await setUp(family, method, "padded", { name: "off" }, choice);
      const optimizer = createOptimizer(engine, { clip: suffix === "" ? 0 : adamw.clip });
      const got: number[] = [];
      for (let step = 1; step <= adamw.steps; step++) {
        optimizer.zeroGradients();
        got.push(engine.forwardBackward(batch, 1 / batch.labelled, SEED, step));
        optimizer.step(step, adamw.learning_rate[method]);
      }
      got.push(engine.evaluate(batch).loss / batch.labelled);
      engine.executor.close();
      const expected = losses[`${method}${suffix}`];
      const errors = expected.map((loss, i) => Math.abs(got[i]! - loss) / loss);
      expect(Math.max(...errors)).toBeLessThan(BOUND);
    });
  }
});
