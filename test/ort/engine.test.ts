import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { createBatches } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import { createRandom } from "../../src/base/random.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { openOrt, PROVIDER } from "../support/provider.ts";
import { SLOW } from "../support/slow.ts";
import { expectSameBits, expectWithin, relativeError } from "../support/ops.ts";

setDefaultTimeout(120_000);

const executors: Executor[] = [];
afterEach(() => executors.splice(0).forEach((executor) => executor.close()));

const TOKENS = 37;
const VOCABULARY = 67;
const config = parseConfig(
  {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_size: 24,
    intermediate_size: 52,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: VOCABULARY,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
  },
  "test",
);

/** Caps that are felt, windows in every other layer. */
const gemma = parseConfig(
  {
    architectures: ["Gemma2ForCausalLM"],
    model_type: "gemma2",
    hidden_size: 24,
    intermediate_size: 52,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 10,
    query_pre_attn_scalar: 10,
    vocab_size: VOCABULARY,
    sliding_window: 6,
    attn_logit_softcapping: 0.5,
    final_logit_softcapping: 1.5,
  },
  "test",
);

const LORA: Tuning = uniformAdapters({
  rank: 4,
  scale: 1.5,
  dropout: 0.2,
  targets: new Set(["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
});
const METHODS: [string, Tuning][] = [
  ["LoRA with dropout", LORA],
  ["full tuning", { method: "full" }],
];

function build(executor: Executor, tuning: Tuning, strategy: Checkpointing, model = config): Engine {
  executors.push(executor);
  const source = randomCheckpoint(model, tuning.method === "lora" ? "bf16" : "f32");
  const engine = createEngine(executor, {
    config: model,
    source,
    tuning,
    strategy,
    tokens: [TOKENS],
    optimizer: chooseOptimizer({ weightDecay: 0.01 }),
  });
  initialiseAdapter(engine, 3);
  return engine;
}

const REPLAYING_SOME: readonly Checkpointing[] = [
  { name: "every", k: 2 },
  { name: "first", count: 2 },
  { name: "ratio", ratio: 0.5 },
  { name: "uniform", size: 2 },
  { name: "revolve", slots: 2 },
];

const CLIP = { clip: 1 };

/** Two examples in one row; some tokens without a label. */
function packedBatch() {
  const random = createRandom(7, "batch");
  const ids = Int32Array.from({ length: TOKENS }, () => random.below(VOCABULARY));
  const starts = ids.map((_, t) => (t < 15 ? 0 : 15));
  const positions = ids.map((_, t) => t - starts[t]!);
  const labels = ids.map((_, t) => (t === 14 || t === TOKENS - 1 || t % 5 === 0 ? -100 : ids[t + 1]!));
  return { ids, labels, starts, positions, labelled: labels.filter((label) => label >= 0).length };
}

/** Losses of `steps` AdamW steps, and the gradients of the last one by parameter. */
function train(engine: Engine, steps: number): { losses: number[]; gradients: Map<string, Float32Array> } {
  const { executor, resident } = engine;
  const optimizer = createOptimizer(engine, CLIP);
  const batch = packedBatch();
  const losses: number[] = [];
  for (let step = 1; step <= steps; step++) {
    optimizer.zeroGradients();
    losses.push(engine.forwardBackward(batch, 1 / batch.labelled, 11, step));
    optimizer.step(step, 5e-3);
  }
  const trainable = resident.params.filter((param) => param.trainable);
  return {
    losses,
    gradients: new Map(trainable.map(({ name, type }) => [name, readTensor(executor, resident.gradient.get(name)!, type)])),
  };
}

describe.each(METHODS)("%s on ONNX Runtime", (_, tuning) => {
  test.each([
    ["Qwen2", config],
    ["Gemma 2", gemma],
  ])("two steps of %s: loss and gradients as on the wasm executor, relative error <= 1e-4", async (_name, model) => {
    const expected = train(build(await createWasmExecutor({ threads: 1 }), tuning, { name: "off" }, model), 2);
    const actual = train(build(openOrt(2), tuning, { name: "off" }, model), 2);
    expectWithin("losses", relativeError(actual.losses, expected.losses), 1e-4);
    expect([...actual.gradients.keys()]).toEqual([...expected.gradients.keys()]);
    for (const [name, gradient] of actual.gradients) {
      expectWithin(name, relativeError(gradient, expected.gradients.get(name)!), 1e-4);
    }
  });

  // Other devices than the CPU may add up the rows of a gradient in another order each time.
  test("every strategy gives the same bits", () => {
    const strategies: Checkpointing[] = [
      { name: "off" },
      { name: "per-segment" },
      { name: "sqrt" },
      { name: "optimal", limit: { share: 0.6 } },
      // Which programs run does not depend on how the others choose; one method is enough for them.
      ...(tuning.method === "full" ? REPLAYING_SOME : []),
    ];
    const [off, ...others] = strategies.map((strategy) => train(build(openOrt(2), tuning, strategy), 2));
    for (const { losses, gradients } of others) {
      if (PROVIDER === "cpu") {
        expect(losses).toEqual(off!.losses);
        expectSameBits("gradients", [...gradients.values()], [...off!.gradients.values()]);
      } else {
        for (const [name, gradient] of gradients) expectWithin(name, relativeError(gradient, off!.gradients.get(name)!), 1e-5);
      }
    }
  });

  test("30 steps: the same loss curve within 1e-3, falling", async () => {
    const expected = train(build(await createWasmExecutor({ threads: 1 }), tuning, { name: "per-segment" }), 30).losses;
    const actual = train(build(openOrt(1), tuning, { name: "per-segment" }), 30).losses;
    actual.forEach((loss, step) => expect(Math.abs(loss - expected[step]!)).toBeLessThan(1e-3 * expected[step]!));
    expect(actual[29]!).toBeLessThan(0.97 * actual[0]!);
  });

  const STEPS = SLOW ? 200 : 30;
  test(`${STEPS} steps: memory is that of the tenth step, and losses are finite`, () => {
    const executor = openOrt(1);
    const engine = build(executor, tuning, { name: "per-segment" });
    const optimizer = createOptimizer(engine, CLIP);
    const batch = packedBatch();
    const sizes: number[] = [];
    for (let step = 1; step <= STEPS; step++) {
      optimizer.zeroGradients();
      expect(engine.forwardBackward(batch, 1 / batch.labelled, 11, step)).toBeFinite();
      optimizer.step(step, 1e-4);
      sizes.push(executor.reserved + executor.temporary.bytes);
    }
    expect(sizes[STEPS - 1]).toBe(sizes[9]!);
    expect(executor.temporary.bytes).toBeGreaterThan(0);
  });
});

test.each(METHODS)(
  "%s: a step moves the batch's vectors and rotary tables in, and at most 256 bytes out; nothing that grows with the model",
  (_, tuning) => {
    const moved = (hidden: number) => {
      const executor = openOrt(1);
      let [into, out] = [0, 0];
      const counted: Pick<Executor, "write" | "fill" | "read"> = {
        write(address, data) {
          into += data.byteLength;
          executor.write(address, data);
        },
        fill(address, bytes, write) {
          into += bytes;
          executor.fill(address, bytes, write);
        },
        read(address, bytes, target) {
          out += bytes;
          return executor.read(address, bytes, target);
        },
      };
      // The rest, sizes that change included, is the executor's own.
      const counting = Object.assign(Object.create(executor) as Executor, counted);
      const model = { ...config, hiddenSize: hidden, intermediateSize: 2 * hidden };
      const engine = build(counting, tuning, { name: "per-segment" }, model);
      const optimizer = createOptimizer(engine, CLIP);
      const batch = packedBatch();
      [into, out] = [0, 0];
      optimizer.zeroGradients();
      engine.forwardBackward(batch, 1 / batch.labelled, 11, 1);
      optimizer.step(1, 1e-3);
      return { into, out, weights: counting.reserved };
    };
    const [small, large] = [moved(24), moved(96)];
    expect(large.weights).toBeGreaterThan(2 * small.weights);
    expect([large.into, large.out]).toEqual([small.into, small.out]);
    // Ids, labels, starts and example of a token, its rotary tables (cos and sin of half a head), and some scalars.
    expect(small.into).toBeLessThanOrEqual(TOKENS * 4 * (4 + 2 * (config.headDim / 2)) + 256);
    expect(small.out).toBeLessThanOrEqual(256);
  },
);

test("micro-batches of many lengths: programs for a few sizes, loaded once; memory stays what it was", () => {
  const executor = openOrt(1);
  executors.push(executor);
  const random = createRandom(4, "lengths");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 60; i++) {
    const ids = Int32Array.from({ length: 3 + random.below(90) }, () => random.below(VOCABULARY));
    store.add({ ids, labels: ids, weights: null }, i + 1);
  }
  const options = { rows: 1, rowLength: 96, packing: false, seed: 5, padId: 0, shuffle: true };
  const batches = createBatches(store.finish(), options);
  const source = randomCheckpoint(config, "f32");
  const engine = createEngine(executor, {
    config,
    source,
    tuning: { ...LORA, dropout: 0 },
    strategy: { name: "per-segment" },
    tokens: batches.sizes,
    optimizer: null,
  });
  const lengths = new Set<number>();
  const state = () => ({ ...executor.loaded, bytes: executor.reserved + executor.temporary.bytes });
  const states = [0, 1, 2].map((epoch) => {
    for (let index = 0; index < batches.count(epoch); index++) {
      const batch = batches.batch(epoch, index);
      lengths.add(batch.used);
      expect(engine.forwardBackward(batch, 1 / batch.weight, 1, index)).toBeFinite();
      if (index % 7 === 0) engine.evaluate(batch);
    }
    return state();
  });
  expect(lengths.size).toBeGreaterThan(30);
  expect(batches.sizes.length).toBeLessThan(10);
  expect(states[0]!.programs).toBeLessThanOrEqual(batches.sizes.length * 16);
  expect([states[1]!.programs, states[2]!.programs]).toEqual([states[0]!.programs, states[0]!.programs]);
  expect(states[2]!.calls).toBe(states[1]!.calls);
  expect(states[2]!.bytes).toBe(states[1]!.bytes);
});
