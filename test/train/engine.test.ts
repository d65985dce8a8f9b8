import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { schedulePrograms } from "../../src/runtime/scheduled.ts";
import type { Strategy } from "../../src/schedule/strategies.ts";
import { uniformAdapters } from "../../src/models/tuning.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import type { Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { build, closeExecutors, gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { relativeError } from "../support/ops.ts";
import { combinations, some } from "../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const STRATEGIES: Strategy[] = [
  { name: "off" },
  { name: "per-segment" },
  { name: "sqrt" },
  { name: "every", k: 2 },
  { name: "first", count: 2 },
  { name: "ratio", ratio: 0.5 },
  { name: "uniform", size: 2 },
  { name: "revolve", slots: 2 },
];

describe("gradients are the same to the bit", () => {
  const smollm3 = {
    architectures: undefined,
    model_type: "smollm3",
    no_rope_layer_interval: 2,
    use_sliding_window: true,
    sliding_window: 9,
  };
  const lfm2 = { architectures: undefined, model_type: "lfm2", full_attn_idxs: [1, 4], block_multiple_of: 8 };
  const convolved = uniformAdapters({ rank: 4, scale: 1.5, dropout: 0.2, targets: new Set(["in_proj", "out_proj", "w2"]) });
  const qwen = {
    architectures: undefined,
    model_type: "qwen3_5_text",
    num_key_value_heads: 2,
    head_dim: 16,
    full_attention_interval: 3,
    linear_num_key_heads: 2,
    linear_num_value_heads: 4,
    linear_key_head_dim: 5,
    linear_value_head_dim: 6,
  };
  const states = uniformAdapters({
    rank: 4,
    scale: 1.5,
    dropout: 0.2,
    targets: new Set(["in_proj_qkv", "in_proj_a", "out_proj", "q_proj"]),
  });
  const moe = {
    architectures: undefined,
    model_type: "qwen3_moe",
    num_key_value_heads: 2,
    head_dim: 10,
    num_experts: 6,
    num_experts_per_tok: 2,
    moe_intermediate_size: 19,
    norm_topk_prob: true,
  };
  const lfm2Moe = {
    architectures: undefined,
    model_type: "lfm2_moe",
    layer_types: ["conv", "full_attention", "conv", "full_attention"],
    num_dense_layers: 1,
    num_experts: 6,
    num_experts_per_tok: 2,
    moe_intermediate_size: 19,
  };
  const gptOss = {
    architectures: undefined,
    model_type: "gpt_oss",
    num_key_value_heads: 2,
    head_dim: 10,
    sliding_window: 7,
    num_local_experts: 6,
    num_experts_per_tok: 2,
    intermediate_size: 19,
    swiglu_limit: 1,
  };
  const qwenNext = {
    ...qwen,
    model_type: "qwen3_next",
    num_experts: 6,
    num_experts_per_tok: 2,
    moe_intermediate_size: 19,
    shared_expert_intermediate_size: 11,
    mlp_only_layers: [1],
  };
  const cases = [
    ["LoRA with dropout", lora(0.2), llama(5)],
    ["LoRA with dropout, experts", lora(0.2), llama(4, 32, moe)],
    ["full, layers with a state", { method: "full" }, llama(5, 32, qwen)],
    ["full, two kinds of layers", { method: "full" }, llama(5, 32, smollm3)],
    ["LoRA with dropout, layers with a state", states, llama(5, 32, qwen)],
    ["LoRA with dropout, layers that convolve", convolved, llama(5, 32, lfm2)],
    ["full", { method: "full" }, llama(5)],
    ["full, experts", { method: "full" }, llama(4, 32, moe)],
    ["full, layers that convolve", { method: "full" }, llama(5, 32, { ...lfm2, conv_bias: true })],
    ["LoRA with dropout, two kinds of layers", lora(0.2), llama(5, 32, smollm3)],
    ["LoRA with dropout, experts chosen with biases", convolved, llama(4, 32, lfm2Moe)],
    ["full, experts chosen with biases", { method: "full" }, llama(4, 32, lfm2Moe)],
    ["LoRA with dropout, sinks and experts within limits", lora(0.2), llama(4, 32, gptOss)],
    ["full, sinks and experts within limits", { method: "full" }, llama(4, 32, gptOss)],
    ["full, layers with a state, and an expert of all tokens", { method: "full" }, llama(3, 32, qwenNext)],
  ] as const;
  for (const [title, tuning, config] of some(cases, 3)) {
    test(`${title}: for every strategy, and for 1 and 2 threads`, async () => {
      const reference = gradients(await build(config, tuning, { name: "off" }, 37), 37);
      expect(reference.losses[0]).toBeGreaterThan(1);
      for (const values of reference.values.values()) expect(values.some((value) => value !== 0)).toBe(true);
      for (const [strategy, threads] of combinations(STRATEGIES, [1, 2]))
        expect(gradients(await build(config, tuning, strategy, 37, threads), 37)).toEqual(reference);
    });
  }

  test("decoding between steps sees the present weights, and leaves losses and gradients as they are to the bit", async () => {
    const optimizer = chooseOptimizer({ beta2: 0.99 });
    const more = { optimizer, decode: 40, logits: { tokens: [37], rows: 1 } };
    const engine = await build(llama(3), lora(0.2), { name: "per-segment" }, 37, 2, more);
    const plain = await build(llama(3), lora(0.2), { name: "per-segment" }, 37, 2, { optimizer });
    const optimizers = [engine, plain].map((one) => createOptimizer(one, { clip: 0 }));
    const batch = { ...packedBatch(37, 67), starts: new Int32Array(37), positions: Int32Array.from({ length: 37 }, (_, t) => t) };
    let before: Float32Array | null = null;
    for (let step = 1; step <= 3; step++) {
      const decoded = engine.decoder().feed([...batch.ids]);
      expect(relativeError(decoded, engine.logits(batch, Int32Array.of(36)))).toBeLessThan(1e-5);
      expect(before === null || relativeError(decoded, before) > 1e-3).toBe(true);
      before = decoded;
      const losses = [engine, plain].map((one, i) => {
        optimizers[i]!.zeroGradients();
        const loss = one.forwardBackward(batch, 1 / batch.labelled, 1, step);
        optimizers[i]!.step(step, 0.05);
        return loss;
      });
      expect(losses[0]).toBe(losses[1]!);
    }
  });

  test("dropout draws anew for each micro-batch and seed, and is off in evaluation", async () => {
    const engine = await build(llama(2), lora(0.3), { name: "per-segment" }, 37);
    const batch = packedBatch(37, 67);
    const loss = (seed: number, draw: number) => engine.forwardBackward(batch, 1, seed, draw);
    expect(loss(1, 0)).toBe(loss(1, 0));
    expect(new Set([loss(1, 0), loss(1, 1), loss(2, 0)]).size).toBe(3);
    const still = await build(llama(2), lora(0), { name: "per-segment" }, 37);
    expect(engine.evaluate(batch)).toEqual(still.evaluate(batch));
    expect(still.evaluate(batch).loss).toBe(still.forwardBackward(batch, 1, 1, 0));
  });
});

describe("memory", () => {
  test("the counted peak is within 2 % of the predicted one, for each strategy and both methods", async () => {
    for (const [strategy, tuning] of combinations(STRATEGIES, [lora(0.1), { method: "full" } as const])) {
      const engine = await build(llama(9), tuning, strategy, 64);
      gradients(engine, 64);
      expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
      // What the executor handed out in all covers it.
      expect(engine.executor.reserved).toBeGreaterThanOrEqual(engine.measuredPeak);
    }
  });

  test("64 equal blocks: the stash with checkpointing is at most 1/8 of the stash without", async () => {
    for (const tuning of [lora(0), { method: "full" } as const]) {
      const engine = await build(llama(64), tuning, { name: "per-segment" }, 64);
      expect(engine.predicted.stash).toBeLessThanOrEqual(engine.withoutCheckpointing.stash / 8);
      gradients(engine, 64);
      expect(engine.measuredPeak).toBeLessThan(engine.withoutCheckpointing.peak);
    }
  });

  test("switched off, nothing runs twice; switched on, all but the last segment do", async () => {
    const count = (engine: Engine) =>
      schedulePrograms(engine.segments, engine.schedule)
        .flatMap(({ graph }) => graph?.nodes ?? [])
        .filter((node) => node.op === "Attention").length;
    const off = await build(llama(6), { method: "full" }, { name: "off" }, 16);
    const on = await build(llama(6), { method: "full" }, { name: "per-segment" }, 16);
    expect(count(off)).toBe(6);
    expect(count(on)).toBe(12);
    expect(off.predicted.peak).toBe(off.withoutCheckpointing.peak);
  });
});

test("a model of 1000 blocks trains: the loss falls over three steps", async () => {
  const engine = await build(llama(1000, 16), { method: "full" }, { name: "sqrt" }, 8, 1);
  const optimizer = createOptimizer(engine, { clip: 1 });
  const batch = { ...packedBatch(8, 67), labels: Int32Array.of(1, 2, 3, -100, 1, 2, 3, -100), labelled: 6 };
  const losses: number[] = [];
  for (let step = 1; step <= 3; step++) {
    optimizer.zeroGradients();
    losses.push(engine.forwardBackward(batch, 1 / batch.labelled, 1, step));
    optimizer.step(step, 2e-4);
  }
  expect(losses[1]!).toBeLessThan(losses[0]!);
  expect(losses[2]!).toBeLessThan(losses[1]!);
});
