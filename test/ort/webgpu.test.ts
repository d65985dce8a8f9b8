import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createOrtExecutor, type OrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { expectSameBits, expectWithin, relativeError } from "../support/ops.ts";
import { SLOW } from "../support/slow.ts";
import { slowWebGpuTest, tryWebGpu, webGpuTest } from "../support/webgpu.ts";

setDefaultTimeout(120_000);

const executors = new Set<Executor>();
afterAll(() => executors.forEach((executor) => executor.close()));

const TOKENS = 12;
const config = llama(SLOW ? 3 : 2);
const METHODS: Readonly<Record<string, Tuning>> = { LoRA: lora(0.2), full: { method: "full" } };

function build(executor: Executor, tuning: Tuning, strategy: Checkpointing): Engine {
  executors.add(executor);
  const source = randomCheckpoint(config, "f32");
  const optimizer = chooseOptimizer({ weightDecay: 0.01 });
  const engine = createEngine(executor, { config, source, tuning, strategy, tokens: [TOKENS], optimizer });
  initialiseAdapter(engine, 3);
  return engine;
}

/** Losses and gradients of a step, an update, and the same again with the weights that it has left. */
function train(engine: Engine) {
  const optimizer = createOptimizer(engine, { clip: 1 });
  const first = gradients(engine, TOKENS);
  const norm = optimizer.step(1, 5e-3);
  const second = gradients(engine, TOKENS);
  return { losses: [...first.losses, norm, ...second.losses], values: second.values };
}

const openWebGpu = () => createOrtExecutor({ provider: "webgpu", threads: 1 });

async function expectParity(tuning: Tuning, strategies: readonly Checkpointing[]): Promise<void> {
  const expected = train(build(await createWasmExecutor({ threads: 1 }), tuning, { name: "off" }));
  const [off, ...others] = strategies.map((strategy) => {
    const executor = openWebGpu();
    const engine = build(executor, tuning, strategy);
    const trained = train(engine);
    expectResident(executor, engine);
    return trained;
  });
  expectWithin("losses", relativeError(off!.losses, expected.losses), 1e-4);
  expect(off!.losses[0]).toBeGreaterThan(1);
  for (const [name, values] of off!.values) expectWithin(name, relativeError(values, expected.values.get(name)!), 1e-4);
  for (const { losses, values } of others) {
    expect(losses).toEqual(off!.losses);
    expectSameBits("gradients", [...values.values()], [...off!.values.values()]);
  }
}

/** A further step moves the batch's vectors in, a loss and norms out; buffers take what was predicted. */
function expectResident({ buffers, arena }: OrtExecutor, engine: Engine): void {
  const batch = packedBatch(TOKENS, config.vocabSize);
  const optimizer = createOptimizer(engine, { clip: 1 });
  const step = (count: number) => {
    optimizer.zeroGradients();
    engine.forwardBackward(batch, 1 / batch.labelled, 11, count);
    optimizer.step(count, 1e-3);
  };
  step(2);
  const before = buffers!();
  step(3);
  const after = buffers!();
  // Ids, labels, starts and example of a token, its rotary tables (cos and sin of half a head), and some scalars.
  expect(after.up - before.up).toBeLessThanOrEqual(TOKENS * 4 * (4 + 2 * (config.headDim / 2)) + 256);
  expect(after.down - before.down).toBeLessThanOrEqual(64);
  expect(after.peak).toBe(before.peak);
  const predicted = engine.predicted.peak - arena().total;
  expect(Math.abs(after.peak / predicted - 1)).toBeLessThan(0.02);
}

test("devices are opened one after the other and side by side: the process ends with exit code 0", () => {
  // Where there is no driver the process says so.
  for (let start = 0; start < (SLOW ? 10 : 1); start++) expect(tryWebGpu()).toMatchObject({ exitCode: 0 });
});

webGpuTest(
  "LoRA on WebGPU: as on the wasm executor within 1e-4, the same bits by every strategy; only the batch and sums move",
  () => expectParity(METHODS["LoRA"]!, [{ name: "off" }, { name: "per-segment" }]),
);

slowWebGpuTest.each(Object.entries(METHODS))("%s on WebGPU by more strategies: the same", (_, tuning) =>
  expectParity(tuning, [{ name: "off" }, { name: "sqrt" }, { name: "optimal", limit: { share: 0.6 } }]),
);
