import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { explainWork } from "../../src/ort/providers.ts";
import { userError } from "../hf/temp.ts";
import { createOrtExecutor, type OrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { expectSameBits, expectWithin, opGraph, relativeError, runGraph, type TestTensor } from "../support/ops.ts";
import { runOn } from "../support/executor.ts";
import { SAMPLES } from "../onnx/samples.ts";
import { SLOW } from "../support/slow.ts";
import { slowWebGpuTest, tryWebGpu, webGpuTest } from "../support/webgpu.ts";

setDefaultTimeout(120_000);

const executors = new Set<Executor>();
afterAll(() => executors.forEach((executor) => executor.close()));

const TOKENS = 12;
const small = llama(SLOW ? 3 : 2);
const qwen2 = llama(4, 32, { architectures: ["Qwen2ForCausalLM"], model_type: "qwen2" });
// A mask of dropout takes hundreds of small nodes, which software is slow at: it is tested by itself.
const LORA = lora(0);
const FULL: Tuning = { method: "full" };

function build(executor: Executor, config: ModelConfig, tuning: Tuning, strategy: Checkpointing): Engine {
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

async function expectParity(config: ModelConfig, tuning: Tuning, strategies: readonly Checkpointing[]): Promise<void> {
  const expected = train(build(await createWasmExecutor({ threads: 1 }), config, tuning, { name: "off" }));
  const [off, ...others] = strategies.map((strategy) => {
    const executor = openWebGpu();
    const engine = build(executor, config, tuning, strategy);
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
  const { config } = engine;
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

test("a device that fails in the middle of a run is one clear error, without a place in ONNX Runtime's source", () => {
  const fail = (): never => {
    throw new Error(
      "ONNX Runtime, CopyTensors: /src/core/buffer_manager.cc:641 void Download(WGPUBuffer) status was false. Failed to download data from buffer.",
    );
  };
  expect(userError(() => explainWork("webgpu", fail))).toBe(
    "ONNX Runtime's webgpu device has failed: Failed to download data from buffer; where its memory is exhausted, lower the batch or a budget; see remat doctor",
  );
  expect(explainWork("webgpu", () => 7)).toBe(7);
});

webGpuTest(
  "LoRA on WebGPU: as on the wasm executor within 1e-4, the same bits by every strategy; only the batch and sums move",
  () => expectParity(small, LORA, [{ name: "off" }, { name: "per-segment" }]),
);

slowWebGpuTest.each([
  ["Llama, LoRA", small, LORA],
  ["Llama, full", small, FULL],
  ["Qwen2, LoRA", qwen2, LORA],
  ["Qwen2, full", qwen2, FULL],
] as const)("%s on WebGPU by more strategies: the same", (_, config, tuning) =>
  expectParity(config, tuning, [{ name: "off" }, { name: "sqrt" }, { name: "optimal", limit: { share: 0.6 } }]),
);

/** Types that WebGPU has no kernels for: bf16, and codes of i8. */
const isForeign = (inputs: readonly (TestTensor | null)[]) =>
  inputs.some((each) => each?.dtype === "bf16" || each?.dtype === "i8");

slowWebGpuTest("every operator on WebGPU: as on the wasm executor, and none of its nodes is left to the CPU", async () => {
  const executor = createOrtExecutor({ provider: "webgpu", threads: 1, strict: true });
  executors.add(executor);
  for (const name of Object.keys(OPS) as OpName[]) {
    for (const { attrs, inputs, bound = 1e-6 } of SAMPLES[name]) {
      if (isForeign(inputs)) continue;
      const { builder, outputs, feeds } = opGraph({ op: opOf({ op: name }), inputs, attrs });
      for (const output of outputs) builder.output({ name: output, role: "boundary" });
      const graph = builder.build();
      expect([name, executor.prepare(graph)]).toMatchObject([name, { isMixed: false }]);
      const [expected, actual] = [await runGraph(graph, feeds), runOn(executor, graph, feeds)];
      for (const [output, data] of expected) {
        const most = data instanceof Float32Array ? Math.max(bound, 1e-4) : 0;
        expectWithin(`${name}: ${output}`, relativeError(actual.get(output)!, data), most);
      }
    }
  }
});
