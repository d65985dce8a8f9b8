import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { chooseOptimizer, OPTIMIZER_NAMES, type OptimizerName } from "../../src/optimizers/index.ts";
import { planOptimizer } from "../../src/optimizers/plan.ts";
import { collectParams, type ParamInfo } from "../../src/runtime/resident.ts";
import { fixedTotal } from "../../src/train/memory/forecast.ts";
import { planModel } from "../../src/train/memory/model-plan.ts";
import { LimitError } from "../../src/train/memory/step-plan.ts";
import { createCheckpoints, START } from "../../src/train/run/checkpoint.ts";
import type { Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { shapeConfig } from "../../bench/shapes.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { build, closeExecutors, llama, lora, packedBatch } from "../support/engine.ts";
import { some } from "../support/slow.ts";

setDefaultTimeout(120_000);
afterEach(closeExecutors);

const folder = temporaryFolder();
const TOKENS = 16;

/** Blocks whose matrices have codes, odd sizes and no whole number of blocks, beside vectors and an embedding that have none. */
const CONFIG = llama(2, 56, { intermediate_size: 83, tie_word_embeddings: false });

async function engineOf(optimizer: OptimizerName, config = CONFIG, tokens = TOKENS, threads = 1): Promise<Engine> {
  const choice = chooseOptimizer({ optimizer, weightDecay: 0.1 });
  return build(config, { method: "full" }, { name: "per-segment" }, tokens, threads, { optimizer: choice });
}

/** Trains from after step `from` on; returns the losses. */
function train(engine: Engine, from: number, to: number, tokens = TOKENS): number[] {
  const optimizer = createOptimizer(engine, { clip: 1 });
  const batch = packedBatch(tokens, engine.config.vocabSize);
  return Array.from({ length: to - from }, (_, i) => {
    const step = from + i + 1;
    optimizer.zeroGradients();
    const loss = engine.forwardBackward(batch, 1 / batch.labelled, 11, step);
    optimizer.step(step, RATES[engine.optimizer!.plan.choice.name]);
    return loss;
  });
}

const RATES: Readonly<Record<OptimizerName, number>> = {
  adamw: 1e-2,
  adamw8bit: 1e-2,
  muon: 1e-2,
  lion: 2e-3,
  sgd: 0.3,
  adafactor: 0.1,
};

describe.each(some(OPTIMIZER_NAMES, 4))("%s", (name) => {
  test("the loss falls to less than half of what it was, and memory is what was predicted", async () => {
    const engine = await engineOf(name);
    const before = engine.executor.reserved;
    const losses = train(engine, 0, 30);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! / 2);
    expect(engine.measuredPeak).toBe(engine.predicted.peak);
    expect(engine.executor.reserved).toBeGreaterThanOrEqual(engine.measuredPeak);
    // What an optimizer reserves beside its state: hyperparameters, and a sum for each piece.
    expect(engine.executor.reserved - before).toBeLessThanOrEqual(4 * (4096 + 64));
  });

  test("a run that goes on from a checkpoint has the same losses and the same state to the bit", async () => {
    const whole = await engineOf(name);
    const first = train(whole, 0, 3);
    const checkpoints = createCheckpoints(join(folder, name), whole, { keep: 1, fingerprint: name });
    checkpoints.save({ ...START, step: 3 });
    const second = train(whole, 3, 6);
    const resumed = await engineOf(name);
    expect(train(resumed, 0, 1)).toEqual(first.slice(0, 1));
    expect(createCheckpoints(join(folder, name), resumed, { keep: 1, fingerprint: name }).restore(() => {})!.step).toBe(3);
    expect(train(resumed, 3, 6)).toEqual(second);
    const all = ({ executor, optimizer }: Engine) => executor.read(optimizer!.address, optimizer!.plan.bytes).slice();
    expect(all(resumed)).toEqual(all(whole));
  });

  test("the whole step is the same to the bit with 1 and 2 threads", async () => {
    const [one, two] = [await engineOf(name), await engineOf(name, CONFIG, TOKENS, 2)];
    expect(train(one, 0, 4)).toEqual(train(two, 0, 4));
  });
});

test("bytes of state for each trained weight: 8, 2.1 with eight bits, 4 with one momentum", () => {
  const config = shapeConfig("smollm2-135m");
  const bytesOf = (name: OptimizerName, method: "full" | "lora") => {
    const tuning = method === "full" ? ({ method } as const) : lora(0, 16);
    const params = collectParams(buildSegments(config, { tokens: 8, tuning, weightType: () => "bf16" }));
    const count = params.filter(({ trainable }) => trainable).reduce((sum, { type }) => sum + elements(type.shape), 0);
    return planOptimizer(chooseOptimizer({ optimizer: name }), params).bytes / count;
  };
  for (const method of ["full", "lora"] as const) {
    expect(bytesOf("adamw", method)).toBe(8);
    // Of adapters of rank 16, one in ten is smaller than 4096 and kept in f32.
    expect(bytesOf("adamw8bit", method)).toBeLessThanOrEqual(method === "full" ? 2.1 : 2.2);
    expect(bytesOf("lion", method)).toBe(4);
    expect(bytesOf("sgd", method)).toBe(4);
    // A value for each place of the longer side: of adapters of rank 16 a quarter of a byte for each weight.
    expect(bytesOf("adafactor", method)).toBeLessThanOrEqual(method === "full" ? 0.02 : 0.3);
  }
  expect(bytesOf("muon", "lora")).toBe(4);
  // The embedding, a fifth of the weights, is AdamW's.
  expect(bytesOf("muon", "full")).toBeWithin(4.5, 5.5);
});

describe("an update that needs more than a training step", () => {
  const wide = llama(1, 64, { intermediate_size: 512, vocab_size: 16 });

  test("is in the predicted peak, in the arena and in the measured one", async () => {
    const engine = await engineOf("muon", wide, 4);
    const { plan } = engine;
    expect(plan.update!.workspace).toBeGreaterThan(plan.largest.placement.extent);
    expect(plan.predicted).toBe(plan.update!);
    expect(plan.arena).toBe(plan.update!.workspace);
    const step = packedBatch(4, 16);
    engine.forwardBackward(step, 1, 1, 1);
    expect(engine.measuredPeak).toBeLessThan(plan.predicted.peak);
    train(engine, 0, 1, 4);
    expect(engine.measuredPeak).toBe(plan.predicted.peak);
  });

  test("does not fit a limit that a training step would fit", async () => {
    const executor = await createWasmExecutor({ threads: 1 });
    const options = (bytes: number, optimizer: OptimizerName) => ({
      config: wide,
      tuning: { method: "full" } as const,
      strategy: { name: "budget", bytes } as const,
      tokens: [4],
      weightType: () => "f32" as const,
      optimizer: chooseOptimizer({ optimizer }),
    });
    const { fixed, update } = planModel(executor, options(2 ** 30, "muon"));
    const limit = fixedTotal(fixed) + update!.workspace;
    expect(planModel(executor, options(limit, "muon")).predicted.peak).toBeLessThanOrEqual(limit);
    expect(() => planModel(executor, options(limit - 64, "muon"))).toThrow(LimitError);
    // Lion keeps less, and works in place.
    expect(planModel(executor, options(limit - 64, "lion")).predicted.peak).toBeLessThan(limit);
    executor.close();
  });
});

test("muon leaves tables, vectors and nothing else to AdamW", () => {
  const { ruleOf } = chooseOptimizer({ optimizer: "muon" });
  const param = (name: string, ...shape: number[]): ParamInfo => ({ name, type: { dtype: "f32", shape }, trainable: true });
  const names = {
    muon: [
      param("model.layers.0.self_attn.q_proj.weight", 8, 8),
      param("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", 1, 8),
      param("base_model.model.lm_head.lora_B.weight", 8, 2),
      param("model.layers.3.attention.wo.weight", 8, 8),
    ],
    adamw: [
      param("model.embed_tokens.weight", 8, 8),
      param("model.tok_embeddings.weight", 8, 8),
      param("lm_head.weight", 8, 8),
      param("base_model.model.model.embed_tokens.lora_embedding_A", 2, 8),
      param("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", 8),
      param("output.weight", 8, 8),
      param("model.norm.weight", 8),
      param("model.layers.0.self_attn.q_proj.bias", 8),
    ],
  };
  for (const [rule, params] of Object.entries(names))
    expect(params.map((each) => [each.name, ruleOf(each).name])).toEqual(params.map((each) => [each.name, rule]));
});
