import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createEngine, type Engine, type EngineOptions, type Weigh } from "../../src/train/step/engine.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { build, closeExecutors, llama, lora, packedBatch } from "../support/engine.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { combinations } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const engines: Engine[] = [];
afterEach(() => {
  engines.splice(0).forEach((engine) => engine.close());
  closeExecutors();
});

const TOKENS = 37;
const OPEN = { head: "token-losses" } as const;

/** The square of a sum with rates of both signs, some of them 0: weights that depend on what the model says. */
const rate = (t: number) => (t % 5) - 2;
const weigh: Weigh = (losses) => {
  const sum = losses.reduce((total, loss, t) => total + rate(t) * loss, 0);
  return losses.map((_, t) => 0.1 * sum * rate(t));
};

function openGradients(engine: Engine, how: Weigh = weigh) {
  const batch = packedBatch(TOKENS, engine.config.vocabSize);
  engine.zeroGradients();
  const seen: Float32Array[] = [];
  for (const draw of [0, 1]) {
    engine.forwardBackwardOpen(batch, 0.5, 11, draw, (losses) => {
      seen.push(losses.slice());
      return how(losses);
    });
  }
  return { seen, values: gradientsOf(engine) };
}

function gradientsOf({ executor, resident }: Engine): Map<string, Float32Array> {
  const trainable = resident.params.filter((param) => param.trainable);
  return new Map(trainable.map(({ name, type }) => [name, readTensor(executor, resident.gradient.get(name)!, type)]));
}

const STRATEGIES: Checkpointing[] = [
  { name: "per-segment" },
  { name: "sqrt" },
  { name: "every", k: 2 },
  { name: "revolve", slots: 2 },
  { name: "optimal", limit: { share: 0.5 } },
];

describe("an open head: gradients of a loss that is made outside are the same to the bit", () => {
  for (const [title, tuning] of [
    ["LoRA with dropout", lora(0.2)],
    ["full", { method: "full" }],
  ] as const) {
    test(`${title}: for every strategy, with and without offload, 1 and 2 threads; the counted peak within 2 % of the predicted one`, async () => {
      const config = llama(5);
      const reference = openGradients(await build(config, tuning, { name: "off" }, TOKENS, 2, OPEN));
      for (const values of reference.values.values()) expect(values.some((value) => value !== 0)).toBe(true);
      const more: Partial<EngineOptions>[] = [OPEN, { ...OPEN, verifyReplay: true, offload: { folder, leastBytes: 4096 } }];
      for (const [strategy, options, threads] of combinations(STRATEGIES, more, [1, 2])) {
        const engine = await build(config, tuning, strategy, TOKENS, threads, options);
        engines.push(engine);
        expect(openGradients(engine)).toEqual(reference);
        expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
      }
    });
  }

  test("with weights that do not depend on the losses they are those of the loss that the head itself computes", async () => {
    for (const matmul of ["wasm", "native"] as const) {
      const options = { threads: 2, matmul };
      const open = await build(llama(3), { method: "full" }, { name: "per-segment" }, TOKENS, options, OPEN);
      const closed = await build(llama(3), { method: "full" }, { name: "per-segment" }, TOKENS, options, { weighted: true });
      const weights = Float32Array.from({ length: TOKENS }, (_, t) => rate(t) / 8);
      const { values, seen } = openGradients(open, () => weights);
      const batch = { ...packedBatch(TOKENS, 67), weights };
      closed.zeroGradients();
      for (const draw of [0, 1]) closed.forwardBackward(batch, 0.5, 11, draw);
      expect(gradientsOf(closed)).toEqual(values);
      expect(open.tokenLosses(batch)).toEqual(seen[0]!);
      batch.labels.forEach((label, t) => expect(seen[0]![t]! > 0).toBe(label >= 0));
    }
  });

  test("nobody who weighs is an error, and so is a loss that an open head does not have", async () => {
    const engine = await build(llama(2), { method: "full" }, { name: "off" }, TOKENS, 1, OPEN);
    expect(() => engine.forwardBackward(packedBatch(TOKENS, 67), 1, 1, 0)).toThrow("weighs");
    const closed = await build(llama(2), { method: "full" }, { name: "off" }, TOKENS, 1);
    expect(() => closed.tokenLosses(packedBatch(TOKENS, 67))).toThrow("tokenLosses");
  });
});

test("an open head on ONNX Runtime: token losses and gradients within 2e-5 of the kernels'", async () => {
  const config = llama(2);
  const executor = createOrtExecutor({ threads: 1 });
  try {
    const options = { config, source: randomCheckpoint(config, "f32"), tuning: { method: "full" }, optimizer: null } as const;
    const strategy = { name: "per-segment" } as const;
    const [kernels, ort] = [
      openGradients(await build(config, { method: "full" }, strategy, TOKENS, 1, OPEN)),
      openGradients(createEngine(executor, { ...options, strategy, tokens: [TOKENS], ...OPEN })),
    ];
    expectWithin("losses", relativeError(ort.seen[1]!, kernels.seen[1]!), 2e-5);
    for (const [name, values] of kernels.values) expectWithin(name, relativeError(ort.values.get(name)!, values), 2e-5);
  } finally {
    executor.close();
  }
});
