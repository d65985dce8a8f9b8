import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Tuning } from "../../src/models/tuning.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createCosts } from "../../src/train/memory/costs.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import type { Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import type { WasmExecutorOptions } from "../../src/wasm/executor.ts";
import { makeRandom } from "../schedule/chains.ts";
import { build, closeExecutors, gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { combinations, SLOW, slowTest, some } from "../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const STEPS = SLOW ? 10 : 2;

/** Losses, gradients and norms of some steps, and the weights behind them. `before` is called between two steps. */
function train(engine: Engine, tokens: number, steps: number, before: (step: number) => void = () => {}) {
  const optimizer = createOptimizer(engine, { clip: 1 });
  const told: unknown[] = [];
  for (let step = 1; step <= steps; step++) {
    before(step);
    told.push(gradients(engine, tokens), optimizer.step(step, 1e-3));
  }
  const { executor, resident } = engine;
  const trained = resident.params.filter(({ trainable }) => trainable);
  return [...told, trained.map(({ name, type }) => readTensor(executor, resident.param.get(name)!, type))];
}

/** The least budget of an engine, and one with which it keeps everything. */
function bounds(engine: Engine): { least: number; most: number } {
  const most = engine.withoutCheckpointing.peak;
  return { least: engine.resize(1).limit, most };
}

const LLAMA = llama(8, 64, { vocab_size: 300 });
const TUNINGS: readonly (readonly [string, Tuning])[] = [
  ["LoRA with dropout", lora(0.2)],
  ["full", { method: "full" }],
];
const PRODUCTS = ["wasm", "native"] as const;

describe("a limit of memory that changes between steps", () => {
  for (const [[title, tuning], matmul, threads] of some(combinations(TUNINGS, PRODUCTS, [2, 1]), 1)) {
    test(`${title}, ${matmul} products, ${threads} threads: ${STEPS} random limits, each kept and its peak predicted; losses, gradients and weights are the same to the bit`, async () => {
      // Products of few rows do not go to the native library.
      const tokens = matmul === "native" ? 150 : 40;
      const where: WasmExecutorOptions = { threads, matmul };
      const reference = train(await build(LLAMA, tuning, { name: "off" }, tokens, where), tokens, STEPS);
      // Planned with little at first: addresses for everything are there all the same.
      const tight: Checkpointing = { name: "budget", bytes: (await leastOf(tuning, tokens, where)) + 1000 };
      const measure = { costs: createCosts("here"), batch: packedBatch(tokens, LLAMA.vocabSize) };
      const engine = await build(LLAMA, tuning, tight, tokens, where, { elastic: true, measure });
      const { least, most } = bounds(engine);
      const random = makeRandom(7);
      let limit = engine.resize(most).limit;
      const check = () => {
        expect(engine.recentPeak).toBeLessThanOrEqual(limit);
        expect(engine.recentPeak).toBeGreaterThan(0.5 * least);
      };
      const trained = train(engine, tokens, STEPS, (step) => {
        if (step > 1) check();
        // From plenty to the least in one step, and back.
        const share = step === 2 ? 0 : step === 3 ? 1 : random.unit();
        const asked = Math.round(least + share * (most - least));
        limit = engine.resize(asked).limit;
        expect(limit).toBe(asked);
      });
      check();
      expect(trained).toEqual(reference);
      // How much of plenty pays depends on the times that are planned with: here on modelled ones, which are the same everywhere.
      const modelled = await build(LLAMA, tuning, tight, tokens, where, { elastic: true });
      const [little, plenty] = [least, most].map((bytes) => (modelled.resize(bytes), modelled.plan.predicted.peak));
      expect(little!).toBeLessThan(0.9 * plenty!);
      expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
    });
  }

  test("what is less than the least that works is taken as that; a strategy without a limit has none to change", async () => {
    const engine = await build(llama(4), lora(0), { name: "budget", bytes: 1 << 30 }, 40, 1, { elastic: true });
    const { limit } = engine.resize(1);
    expect(limit).toBeGreaterThan(engine.plan.fixed.frozen);
    gradients(engine, 40);
    expect(engine.recentPeak).toBe(limit);
    expect(engine.resize(limit).limit).toBe(limit);
    expect(engine.resize(limit - 1).limit).toBe(limit);
    const fixed = await build(llama(4), lora(0), { name: "off" }, 40, 1);
    expect(() => fixed.resize(1 << 20)).toThrow("has no limit");
  });

  test("without addresses for more, a larger limit is used as far as they reach", async () => {
    const { limit: least } = (await build(llama(4), lora(0), { name: "budget", bytes: 1 << 30 }, 40, 1)).resize(1);
    const engine = await build(llama(4), lora(0), { name: "budget", bytes: least }, 40, 1);
    expect(engine.resize(1 << 30).limit).toBe(1 << 30);
    const reference = gradients(engine, 40);
    expect(engine.measuredPeak).toBeLessThanOrEqual(least);
    const elastic = await build(llama(4), lora(0), { name: "budget", bytes: least }, 40, 1, { elastic: true });
    elastic.resize(1 << 30);
    expect(gradients(elastic, 40)).toEqual(reference);
    expect(elastic.measuredPeak).toBe(elastic.withoutCheckpointing.peak);
  });

  const whereLinux = process.platform === "linux" ? slowTest : test.skip;
  whereLinux("pages go back to the system when the limit falls, come back when it rises, and addresses alone take none", () => {
    const { stdout, stderr } = Bun.spawnSync([process.execPath, join(import.meta.dir, "../support/elastic-pages.ts")]);
    expect(stderr.toString()).toBe("");
    const { before, large, small, again, least, most } = JSON.parse(stdout.toString()) as Record<string, number>;
    const falls = most! - least!;
    expect(falls).toBeGreaterThan(28 << 20);
    // Garbage and code that is compiled on the way.
    const spread = 0.2 * falls;
    expect(large! - small!).toBeGreaterThan(falls - spread);
    expect(again! - small!).toBeGreaterThan(falls - spread);
    expect(small! - before!).toBeLessThan(spread);
  });
});

/** The least budget of the counted memory alone. */
async function leastOf(tuning: Tuning, tokens: number, where: WasmExecutorOptions): Promise<number> {
  const engine = await build(LLAMA, tuning, { name: "budget", bytes: 1 << 30 }, tokens, where);
  return engine.resize(1).limit;
}
