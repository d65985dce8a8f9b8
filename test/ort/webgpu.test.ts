import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import type { FloatType } from "../../src/base/dtype.ts";
import { toFloat32 } from "../../src/base/float16.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph } from "../../src/graph/types.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { computeType, weightTypeOf } from "../../src/load/weights.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { explainWork } from "../../src/ort/providers.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { createOrtExecutor, type OrtExecutor } from "../../src/ort/executor.ts";
import type { Executor, Halves } from "../../src/runtime/executor.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { createEngine, type Engine, type EngineOptions } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { gradients, llama, lora, packedBatch } from "../support/engine.ts";
import {
  type Data,
  expectSameBits,
  expectWithin,
  generator,
  half,
  opGraph,
  random,
  relativeError,
  runGraph,
  type TestTensor,
} from "../support/ops.ts";
import { runOn } from "../support/executor.ts";
import { SAMPLES } from "../onnx/samples.ts";
import { SLOW } from "../support/slow.ts";
import { halfTest, LAVAPIPE, slowHalfTest, slowLavapipeTest, slowWebGpuTest, tryWebGpu, webGpuTest } from "../support/webgpu.ts";

setDefaultTimeout(120_000);

const executors = new Set<Executor>();
afterAll(() => executors.forEach((executor) => executor.close()));

const folder = temporaryFolder();
const TOKENS = 12;
const small = llama(SLOW ? 3 : 2);
const qwen2 = llama(4, 32, { architectures: ["Qwen2ForCausalLM"], model_type: "qwen2" });
// A mask of dropout takes hundreds of small nodes, which software is slow at: it is tested by itself.
const LORA = lora(0);
const FULL: Tuning = { method: "full" };

function build(
  executor: Executor,
  config: ModelConfig,
  tuning: Tuning,
  strategy: Checkpointing,
  more: Pick<EngineOptions, "dtype" | "offload"> = {},
): Engine {
  executors.add(executor);
  const source = randomCheckpoint(config, "f32");
  const optimizer = chooseOptimizer({ weightDecay: 0.01 });
  const engine = createEngine(executor, { config, source, tuning, strategy, tokens: [TOKENS], optimizer, ...more });
  initialiseAdapter(engine, 3);
  return engine;
}

/** z = x y' */
function productGraph(dtype: FloatType, rows: number, terms: number): Graph {
  const builder = new GraphBuilder("product");
  const [x, y] = ["x", "y"].map((name) => builder.input(name, "boundary", { dtype, shape: [rows, terms] }));
  const product = builder.value(Gemm, [x!, y!], { transA: 0, transB: 1, alpha: 1, beta: 1 }, "z");
  builder.output({ name: product, role: "boundary" });
  return builder.build();
}

const floatsOf = (data: Data) => toFloat32(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), "f16");

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

test("a type that a device does not have is refused where it is asked for, and widened where weights are stored in it", () => {
  const source = randomCheckpoint(small, "bf16");
  const [name] = [...source.tensors.keys()].filter((each) => each.endsWith("q_proj.weight"));
  const typeOn = (halves: Halves, dtype?: FloatType) => weightTypeOf({ halves }, source, { dtype })(name!);
  expect([typeOn("none"), typeOn("f16"), typeOn("weights"), typeOn("all")]).toEqual(["f32", "f32", "bf16", "bf16"]);
  expect([typeOn("none", "f32"), typeOn("f16", "f16"), typeOn("weights", "f16"), typeOn("all", "f16")]).toEqual([
    "f32",
    "f16",
    "f16",
    "f16",
  ]);
  // Gemma rounds the scale of its embedding to the type that the weights are meant to be in.
  expect(weightTypeOf({ halves: "none" }, source, {}).meant!(name!)).toBe("bf16");
  expect(computeType({ halves: "f16" }, "f16")).toBe("f16");
  expect(computeType({ halves: "weights" }, "f16")).toBe("f32");
  expect(userError(() => typeOn("f16", "bf16"))).toBe(
    "--dtype bf16 cannot be had on this device, which has f32 and f16; use another --dtype or --device",
  );
  expect(userError(() => typeOn("none", "f16"))).toBe(
    "--dtype f16 cannot be had on this device, which has f32 alone (on webgpu f16 wants an adapter with shader-f16); use another --dtype or --device",
  );
});

slowLavapipeTest("an adapter without shader-f16 is found out, and opened all the same", () => {
  // Mesa's software computes in f16 on processors that convert such numbers.
  const env = { VK_DRIVER_FILES: LAVAPIPE, GALLIUM_OVERRIDE_CPU_CAPS: "sse4.1" };
  expect(tryWebGpu(env)).toEqual({ exitCode: 0, output: "opened, halves: none" });
});

halfTest("a sum of 4096 products in f16 is rounded once", async () => {
  const [rows, terms] = [8, 4096];
  const graph = productGraph("f16", rows, terms);
  const feeds = new Map(["x", "y"].map((each, i) => [each, half(random(generator(i), [rows, terms]), "f16")]));
  const executor = openWebGpu();
  executors.add(executor);
  const widened = new Map(
    [...feeds].map(([each, { data, shape }]) => [each, { dtype: "f32", shape, data: floatsOf(data) } as const]),
  );
  const expected = (await runGraph(productGraph("f32", rows, terms), widened)).get("z")!;
  const actual = floatsOf(runOn(executor, graph, feeds).get("z")!);
  // f16 rounds to 4.9e-4, by 2e-4 in the mean; added up in it, this sum is off by 5e-3.
  expectWithin("z", relativeError(actual, expected), 4e-4);
});

slowHalfTest("LoRA in f16 on WebGPU: as in f32 within 2e-2, half the stash, the same bits by every strategy", async () => {
  const expected = train(build(await createWasmExecutor({ threads: 1 }), small, LORA, { name: "off" }));
  const [exact, off, others] = [
    build(openWebGpu(), small, LORA, { name: "off" }),
    build(openWebGpu(), small, LORA, { name: "off" }, { dtype: "f16" }),
    build(openWebGpu(), small, LORA, { name: "per-segment" }, { dtype: "f16" }),
  ];
  expect(off.compute).toBe("f16");
  expect(off.predicted.stash / exact.predicted.stash).toBeLessThan(0.55);
  const [one, other] = [train(off), train(others)];
  expectWithin("losses", relativeError(one.losses, expected.losses), 2e-2);
  const all = ({ values }: typeof one) => [...values.values()].flatMap((gradient) => [...gradient]);
  expectWithin("all gradients", relativeError(all(one), all(expected)), 2e-2);
  expect(other.losses).toEqual(one.losses);
  expectSameBits("gradients", [...other.values.values()], [...one.values.values()]);
});

slowWebGpuTest(
  "what is kept leaves the device's buffers for host memory and comes back: the same bits, in the memory that was planned",
  () => {
    const offload = { folder, leastBytes: 256 };
    const peaks = [null, offload].map((each) => {
      const executor = openWebGpu();
      const engine = build(executor, small, LORA, { name: "off" }, { offload: each });
      const trained = train(engine);
      const { peak } = executor.buffers!();
      const predicted = engine.predicted.peak - executor.arena().total;
      expect(Math.abs(peak / predicted - 1)).toBeLessThan(0.02);
      return { trained, peak, stash: engine.predicted.stash, store: engine.store };
    });
    const [kept, moved] = peaks as [(typeof peaks)[0], (typeof peaks)[0]];
    expect(moved.trained.losses).toEqual(kept.trained.losses);
    expectSameBits("gradients", [...moved.trained.values.values()], [...kept.trained.values.values()]);
    expect(moved.store!.description).toBe("host memory");
    const { out, in: into } = moved.store!.counts();
    expect([out > 0, into]).toEqual([true, out]);
    // Buffers take less by what the plan says that the stash does.
    expect(kept.stash - moved.stash).toBeGreaterThan(0);
    expect(Math.abs((kept.peak - moved.peak) / (kept.stash - moved.stash) - 1)).toBeLessThan(0.02);
  },
);

/** WebGPU has no kernels for bf16. */
const isForeign = (inputs: readonly (TestTensor | null)[]) => inputs.some((each) => each?.dtype === "bf16");

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
