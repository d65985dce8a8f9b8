import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, truncateSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TensorSource } from "../../src/hf/weights/safetensors.ts";
import { SPARE } from "../../src/load/open-weights.ts";
import { isOnDisk } from "../../src/load/streamed-weights.ts";
import { byteLength } from "../../src/graph/types.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { trainedTensors } from "../../src/optimizers/plan.ts";
import { createCheckpoints, START } from "../../src/train/run/checkpoint.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import type { StreamOptions } from "../../src/train/memory/stream.ts";
import { CapacityError, LimitError } from "../../src/train/memory/step-plan.ts";
import type { Engine } from "../../src/train/step/engine.ts";
import type { WasmExecutor } from "../../src/wasm/executor.ts";
import { build, closeExecutors, gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { combinations, SLOW, slowTest, some } from "../support/slow.ts";
import { removeStored, storedCheckpoint } from "../support/stored.ts";

setDefaultTimeout(120_000);

const scratch = mkdtempSync(join(tmpdir(), "remat-stream-"));
afterEach(closeExecutors);
afterAll(() => {
  removeStored();
  rmSync(scratch, { recursive: true });
});

const TOKENS = 40;
const config = llama(3, 256);
/** Its head is three pages of at least 16 MiB in f32. */
const wordy = (tied: boolean) => llama(2, 128, { vocab_size: 70_000, tie_word_embeddings: tied });
const OFF = { name: "per-segment" } as const;

function streaming(source: TensorSource, mode: StreamOptions["mode"] = "all"): StreamOptions {
  return { mode, canStream: (param) => isOnDisk(source, param), folder: scratch, bandwidth: 1e9, free: () => Infinity };
}

/** Hashes of all that an engine computes: losses, gradients, an evaluation and logits of a text that is continued. */
function results(engine: Engine, tokens = TOKENS): Record<string, unknown> {
  const { losses, values } = gradients(engine, tokens);
  const evaluated = engine.evaluate(packedBatch(tokens, engine.config.vocabSize));
  const decoder = engine.plan.decoder ? engine.decoder() : null;
  const next =
    decoder &&
    [
      [5, 6, 7, 8],
      [5, 6, 7, 8, 9],
    ].map((ids) => Bun.hash(decoder.feed(ids)));
  return { losses, evaluated, next, ...Object.fromEntries([...values].map(([name, value]) => [name, Bun.hash(value)])) };
}

describe("weights that come into a window when they are read give the same bits as resident ones", () => {
  const cases = {
    "per segment": {},
    "everything kept": { strategy: { name: "off" } },
    planned: { strategy: { name: "optimal", limit: { share: 0.6 } } },
    "in 4 bits": { quantize: "nf4" },
    "in 8 bits, embedding and head too": { quantize: "q8", quantizeEmbedding: true },
    "in f16": { dtype: "f16" },
  } as const;
  for (const [[name, options], matmul] of some(combinations(Object.entries(cases), ["native", "wasm"] as const), 4)) {
    test(`${name}, products by ${matmul}; the peak is as predicted`, async () => {
      const source = storedCheckpoint(config, "bf16");
      const { strategy = OFF, ...more } = options as { strategy?: typeof OFF };
      const make = (stream?: StreamOptions) =>
        build(
          config,
          lora(0.1),
          strategy,
          TOKENS,
          { threads: 2, matmul },
          { source, decode: 32, ...more, ...(stream && { stream }) },
        );
      const resident = await make();
      const streamed = await make(streaming(source));
      expect(resident.streamed).toBeNull();
      expect(streamed.streamed!.window.streamed.size).toBeGreaterThan(8);
      expect(results(streamed)).toEqual(results(resident));
      expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
      expect(streamed.plan.fixed.frozen).toBeLessThan(resident.plan.fixed.frozen);
      streamed.close();
    });
  }

  for (const tied of SLOW ? [true, false] : [false]) {
    test(`a head in pages, ${tied ? "tied to" : "beside"} an embedding of which rows are read; it is read twice for all rows`, async () => {
      // Two chunks of rows.
      const tokens = 160;
      const source = storedCheckpoint(wordy(tied), "f32");
      const make = (stream?: StreamOptions) =>
        build(
          wordy(tied),
          lora(0),
          OFF,
          tokens,
          { threads: 2, matmul: "native" },
          { source, decode: 32, ...(stream && { stream }) },
        );
      const resident = await make();
      const streamed = await make(streaming(source));
      expect(results(streamed, tokens)).toEqual(results(resident, tokens));
      expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
      const { residency } = streamed.plan;
      expect([...residency.rowBytes.values()]).toEqual([4 * 128]);
      const head = 70_000 * 128 * 4;
      expect(streamed.plan.largest.streaming!.bytes).toBeLessThan(2.25 * head);
      // Two pages at a time.
      expect(residency.window).toBeLessThan(2.3 * 2 ** 24);
      streamed.close();
    });
  }

  for (const matmul of SLOW ? (["native", "wasm"] as const) : (["native"] as const))
    test(`experts, products by ${matmul}: those that no token has chosen are not read, in training and decoding`, async () => {
      // Ten tokens choose at most ten of sixteen experts in a layer.
      const tokens = 10;
      const mixture = llama(3, 256, {
        architectures: undefined,
        model_type: "qwen3_moe",
        head_dim: 64,
        num_experts: 16,
        num_experts_per_tok: 1,
        moe_intermediate_size: 128,
      });
      const source = storedCheckpoint(mixture, "bf16");
      const make = (stream?: StreamOptions) =>
        build(mixture, lora(0.1), OFF, tokens, { threads: 2, matmul }, { source, decode: 32, ...(stream && { stream }) });
      const [resident, streamed] = [await make(), await make(streaming(source))];
      const { stream } = streamed.streamed!.window;
      expect(results(streamed, tokens)).toEqual(results(resident, tokens));
      expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
      const before = stream.counts.bytes;
      gradients(streamed, tokens);
      const read = stream.counts.bytes - before;
      // Two micro-batches, of which each passes over the layers' weights at least twice.
      const ofExperts = 3 * 16 * 3 * 256 * 128 * 2;
      const promised = 2 * streamed.plan.largest.streaming!.bytes;
      expect(promised).toBeGreaterThan(2 * ofExperts);
      expect(read).toBeLessThan(promised - 2 * (6 / 16) * ofExperts);
      const decoder = streamed.decoder();
      const [start, all] = [stream.counts.bytes, source.tensors];
      decoder.feed([5]);
      const others = [...all].reduce((sum, [name, { bytes }]) => sum + (/layers.*experts/.test(name) ? 0 : bytes), 0);
      // One expert of each layer.
      expect(stream.counts.bytes - start).toBeLessThanOrEqual(ofExperts / 16 + others);
      streamed.close();
    });

  test("layers that convolve, in training and decoding", async () => {
    const lfm2 = llama(3, 256, { architectures: undefined, model_type: "lfm2", full_attn_idxs: [1], block_multiple_of: 8 });
    const source = storedCheckpoint(lfm2, "bf16");
    const targets = new Set(["in_proj", "out_proj"]);
    const tuning = uniformAdapters({ rank: 4, scale: 1, dropout: 0.1, targets });
    const [resident, streamed] = [
      await build(lfm2, tuning, OFF, TOKENS, 2, { source, decode: 32 }),
      await build(lfm2, tuning, OFF, TOKENS, 2, { source, decode: 32, stream: streaming(source) }),
    ];
    expect(streamed.streamed!.window.streamed.size).toBeGreaterThan(8);
    expect(results(streamed)).toEqual(results(resident));
    expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
    streamed.close();
  });

  for (const dtype of some(["bf16", "f32"] as const, 1)) {
    test(`experts in ${dtype}, in training and decoding`, async () => {
      const moe = llama(3, 256, {
        architectures: undefined,
        model_type: "olmoe",
        num_experts: 5,
        num_experts_per_tok: 2,
        intermediate_size: 160,
      });
      const source = storedCheckpoint(moe, dtype);
      const tuning = uniformAdapters({ rank: 4, scale: 1, dropout: 0.1, targets: new Set(["q_proj", "o_proj"]) });
      const [resident, streamed] = [
        await build(moe, tuning, OFF, TOKENS, 2, { source, decode: 32 }),
        await build(moe, tuning, OFF, TOKENS, 2, { source, decode: 32, stream: streaming(source) }),
      ];
      expect(streamed.streamed!.window.streamed.size).toBeGreaterThan(3 * 5 * 3);
      expect(results(streamed)).toEqual(results(resident));
      expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
      streamed.close();
    });
  }

  slowTest("layers with a state, in training and decoding", async () => {
    const qwen = llama(3, 256, {
      architectures: undefined,
      model_type: "qwen3_5_text",
      full_attention_interval: 3,
      head_dim: 16,
      linear_num_key_heads: 2,
      linear_num_value_heads: 4,
      linear_key_head_dim: 20,
      linear_value_head_dim: 24,
    });
    const source = storedCheckpoint(qwen, "bf16");
    const targets = new Set(["in_proj_qkv", "in_proj_b", "out_proj"]);
    const tuning = uniformAdapters({ rank: 4, scale: 1, dropout: 0.1, targets });
    const [resident, streamed] = [
      await build(qwen, tuning, OFF, TOKENS, 2, { source, decode: 32 }),
      await build(qwen, tuning, OFF, TOKENS, 2, { source, decode: 32, stream: streaming(source) }),
    ];
    expect(streamed.streamed!.window.streamed.size).toBeGreaterThan(8);
    expect(results(streamed)).toEqual(results(resident));
    expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
    streamed.close();
  });

  test("adapters of head and embedding, and lengths of rows (DoRA), which are computed of the weights", async () => {
    const targets = new Set(["q_proj", "down_proj", "embed_tokens", "lm_head"]);
    const big = llama(2, 128, { vocab_size: 700, tie_word_embeddings: false });
    const source = storedCheckpoint(big, "f32");
    const adapters = { rank: 4, scale: 1, dropout: 0.1, targets };
    for (const tuning of [
      uniformAdapters(adapters),
      { ...uniformAdapters({ ...adapters, targets: new Set(["q_proj"]) }), method: "dora" } as const,
    ]) {
      const [resident, streamed] = [
        await build(big, tuning, OFF, TOKENS, 2, { source, decode: 32 }),
        await build(big, tuning, OFF, TOKENS, 2, { source, decode: 32, stream: streaming(source) }),
      ];
      expect(results(streamed)).toEqual(results(resident));
      streamed.close();
    }
  });
});

describe("the planner decides what stays in memory", () => {
  const source = () => storedCheckpoint(config, "f32");
  const plan = async (from: TensorSource, bytes: number, mode: StreamOptions["mode"] = "auto", more = {}) =>
    build(config, lora(0), { name: "budget", bytes }, TOKENS, 2, { source: from, stream: streaming(from, mode), ...more });

  test("everything if it fits; else as much as is fastest, within the limit; too low a limit names the least, which works", async () => {
    const from = source();
    const whole = await build(config, lora(0), { name: "off" }, TOKENS, 2, { source: from });
    const all = whole.predicted.peak;
    const ample = await plan(from, all);
    expect(ample.streamed).toBeNull();
    const reference = results(ample);
    const frozen = ample.plan.fixed.frozen;
    for (const share of [0.9, 0.6, 0.3]) {
      const bytes = Math.round(all - (1 - share) * frozen);
      const tight = await plan(from, bytes);
      expect(tight.predicted.peak).toBeLessThanOrEqual(bytes);
      expect(results(tight)).toEqual(reference);
      expect(tight.measuredPeak).toBeLessThanOrEqual(bytes);
      tight.close();
    }
    const least = await plan(from, 1000).catch((error: unknown) => error);
    expect(least).toBeInstanceOf(LimitError);
    const { least: activations, fixed } = least as LimitError;
    const lowest = fixed + activations;
    const works = await plan(from, lowest);
    expect(works.predicted.peak).toBeLessThanOrEqual(lowest);
    expect(results(works)).toEqual(reference);
    expect(await plan(from, lowest - 64).catch((error: unknown) => error)).toBeInstanceOf(LimitError);
    works.close();
  });

  test("addresses of the executor are a limit, too: auto streams, off says what is missing", async () => {
    const from = source();
    const whole = await build(config, lora(0), OFF, TOKENS, 2, { source: from });
    const { reserved, overhead } = whole.executor as WasmExecutor;
    // What is spared for the executor itself, and a little less than the rest takes.
    const memoryLimit = reserved + overhead + SPARE;
    const small = { threads: 2, memoryLimit };
    const options = { source: from, stream: streaming(from, "auto") };
    const streamed = await build(config, lora(0), OFF, TOKENS, small, options);
    expect(streamed.streamed).not.toBeNull();
    expect(gradients(streamed, TOKENS)).toEqual(gradients(whole, TOKENS));
    streamed.close();
    const refused = build(config, lora(0), OFF, TOKENS, small, { source: from, stream: streaming(from, "off") });
    expect(await refused.catch((error: unknown) => error)).toBeInstanceOf(CapacityError);
  });
});

test("a file that is cut, or written to, while a model trains is an error with its name, before the step counts", async () => {
  for (const [what, damage] of [
    ["was cut", (path: string) => truncateSync(path, 1000)],
    ["was written to", (path: string) => (writeFileSync(path, "x", { flag: "r+" }), utimesSync(path, 1, 1))],
  ] as const) {
    const source = storedCheckpoint(config, "bf16");
    const engine = await build(config, lora(0), OFF, TOKENS, 2, { source, stream: streaming(source) });
    gradients(engine, TOKENS);
    const { path } = source.files[0]!;
    damage(path);
    expect(() => gradients(engine, TOKENS)).toThrow(new RegExp(`${path}.* ${what}`));
    engine.close();
  }
});

test("a quantised model is converted once: two engines share the file", async () => {
  const source = storedCheckpoint(config, "bf16");
  const stored = { cache: true, folder: join(scratch, "weights") };
  const options = { source, quantize: "nf4", stream: streaming(source) } as const;
  const first = await build(config, lora(0), OFF, TOKENS, 2, options, stored);
  const second = await build(config, lora(0), OFF, TOKENS, 2, options, stored);
  expect(readdirSync(stored.folder).filter((name) => name.endsWith(".weights"))).toHaveLength(1);
  const resident = await build(config, lora(0), OFF, TOKENS, 2, { source, quantize: "nf4" });
  const expected = results(resident);
  expect(results(first)).toEqual(expected);
  expect(results(second)).toEqual(expected);
  first.close();
  second.close();
});

describe("trained state that lies in a file is the same to the bit as in memory", () => {
  const cases = {
    "full, tied head, AdamW": { tuning: { method: "full" } },
    "full, a head of its own, 8-bit AdamW": { tuning: { method: "full" }, optimizer: { optimizer: "adamw8bit" }, tied: false },
    "full, Muon": { tuning: { method: "full" }, optimizer: { optimizer: "muon" } },
    "adapters on everything, Adafactor": {
      tuning: uniformAdapters({
        rank: 4,
        scale: 1,
        dropout: 0.1,
        targets: new Set(["q_proj", "down_proj", "embed_tokens", "lm_head"]),
      }),
      optimizer: { optimizer: "adafactor" },
      tied: false,
    },
  } as const;
  for (const [name, options] of Object.entries(cases)) {
    test(`${name}: gradients, updates, norms, evaluations and checkpoints`, async () => {
      const {
        tuning,
        optimizer = {},
        tied = true,
      } = options as {
        tuning: Tuning;
        optimizer?: Parameters<typeof chooseOptimizer>[0];
        tied?: boolean;
      };
      const model = llama(2, 64, { vocab_size: 300, tie_word_embeddings: tied });
      const source = storedCheckpoint(model, "bf16");
      const trained = async (stream?: StreamOptions) => {
        const choice = chooseOptimizer(optimizer);
        const more = { source, decode: 32, optimizer: choice, ...(stream && { stream }) };
        const engine = await build(model, tuning, { name: "optimal", limit: { share: 0.7 } }, TOKENS, 2, more);
        const updates = createOptimizer(engine, { clip: 1 });
        const state = () =>
          trainedTensors(engine.resident.trainable, engine.optimizer!).map(({ name, type, address }) => [
            name,
            Bun.hash(engine.executor.read(address, byteLength(type))),
          ]);
        const told: unknown[] = [];
        for (let step = 1; step <= 3; step++) {
          updates.zeroGradients();
          told.push(results(engine), updates.step(step, 0.01), state());
        }
        return { engine, updates, told, state };
      };
      const inMemory = await trained();
      const outside = await trained({ ...streaming(source), isTrainedOutside: true });
      expect(outside.engine.gradients).not.toBeNull();
      expect(outside.told).toEqual(inMemory.told);
      expect(outside.engine.measuredPeak).toBe(outside.engine.predicted.peak);
      const { trainable, gradients, optimizer: kept } = inMemory.engine.plan.fixed;
      const fixed = outside.engine.plan.fixed;
      expect(fixed.trainable + fixed.gradients + fixed.optimizer).toBeLessThan(trainable + gradients + kept);

      const folder = mkdtempSync(join(scratch, "run-"));
      const checkpoints = createCheckpoints(folder, outside.engine, { fingerprint: "f", keep: 1 });
      checkpoints.save(START);
      const before = outside.state();
      outside.updates.step(4, 0.01);
      expect(outside.state()).not.toEqual(before);
      checkpoints.restore(() => {});
      expect(outside.state()).toEqual(before);
      createCheckpoints(folder, inMemory.engine, { fingerprint: "f", keep: 1 }).restore(() => {});
      expect(inMemory.state()).toEqual(before);
      outside.engine.close();
    });
  }
});
