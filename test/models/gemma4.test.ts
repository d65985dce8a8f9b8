import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { createDecoder, createDecoders } from "../../src/generate/open-decoder.ts";
import { argmax } from "../../src/generate/sampler.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openAdapter } from "../../src/hf/peft/peft.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import { planModel } from "../../src/train/memory/model-plan.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import type { ParamInfo } from "../../src/runtime/resident.ts";
import { isOnDisk } from "../../src/load/streamed-weights.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import type { Engine, EngineOptions } from "../../src/train/step/engine.ts";
import { tuningOf } from "../../src/train/step/tuning.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { build, closeExecutors, gradients, llama } from "../support/engine.ts";
import { adapterFolder, modelFolder } from "../support/golden.ts";
import { combinations, SLOW } from "../support/slow.ts";
import { removeStored, storedCheckpoint } from "../support/stored.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
afterEach(closeExecutors);
afterAll(removeStored);

const TOKENS = 37;

/** Of seven layers the last three attend to keys and values of layers 2 and 3. */
const gemma = (more: object = {}): ModelConfig =>
  llama(7, 32, {
    architectures: undefined,
    model_type: "gemma4_text",
    num_key_value_heads: 2,
    head_dim: 6,
    global_head_dim: 10,
    vocab_size_per_layer_input: 101,
    hidden_size_per_layer_input: 12,
    num_kv_shared_layers: 3,
    use_double_wide_mlp: true,
    sliding_window: 9,
    layer_types: [..."ssfsfsf"].map((kind) => (kind === "s" ? "sliding_attention" : "full_attention")),
    ...more,
  });

const lora = (targets: readonly string[], dropout = 0.2): Tuning =>
  uniformAdapters({ rank: 4, scale: 1.5, dropout, targets: new Set(targets) });

const CASES: readonly (readonly [title: string, tuning: Tuning])[] = [
  ["LoRA with dropout", lora(["k_proj", "o_proj", "up_proj", "per_layer_projection", "per_layer_model_projection"])],
  ["full", { method: "full" }],
];

/** The same with experts beside the MLP. */
const mixture = (): ModelConfig => gemma({ enable_moe_block: true, num_experts: 5, top_k_experts: 2, moe_intermediate_size: 12 });

const STRATEGIES: readonly Checkpointing[] = [
  { name: "off" },
  { name: "per-segment" },
  { name: "sqrt" },
  { name: "every", k: 2 },
  { name: "first", count: 3 },
  { name: "uniform", size: 2 },
  { name: "revolve", slots: 2 },
  { name: "optimal", limit: { share: 0.6 } },
  { name: "optimal", limit: { share: 0.3 } },
];

/** An engine whose counted peak is the predicted one, with what it gives. */
async function results(
  model: ModelConfig,
  tuning: Tuning,
  strategy: Checkpointing,
  threads = 1,
  more: Partial<EngineOptions> = {},
) {
  const engine = await build(model, tuning, strategy, TOKENS, threads, more);
  const found = gradients(engine, TOKENS);
  expect(engine.measuredPeak).toBe(engine.predicted.peak);
  return { engine, found };
}

describe("keys, values and inputs of blocks that cross segments", () => {
  for (const [number, [title, tuning]] of CASES.entries()) {
    const strategies = SLOW ? STRATEGIES : STRATEGIES.filter((_, i) => i % 4 === 1 + number);
    test(`${title}: the same bits by every schedule, with 1 and 2 threads; the peak is as predicted`, async () => {
      const { found: reference } = await results(gemma(), tuning, { name: "off" });
      for (const values of reference.values.values()) expect(values.some((value) => value !== 0)).toBe(true);
      for (const [strategy, threads] of combinations(strategies, [2, 1]))
        expect((await results(gemma(), tuning, strategy, threads)).found).toEqual(reference);
    });
  }

  for (const [title, tuning] of [["LoRA on the router and the MLP", lora(["proj", "up_proj"])], CASES[1]!] as const)
    test(`experts beside the MLP, ${title}: the same bits by every schedule, with 1 and 2 threads`, async () => {
      const { found: reference } = await results(mixture(), tuning, { name: "off" });
      for (const values of reference.values.values()) expect(values.some((value) => value !== 0)).toBe(true);
      const strategies = SLOW ? STRATEGIES : STRATEGIES.slice(6, 7);
      for (const [strategy, threads] of combinations(strategies, [2, 1]))
        expect((await results(mixture(), tuning, strategy, threads)).found).toEqual(reference);
    });

  test("with boundaries and tapes outside, and what is computed again compared: the same bits", async () => {
    const [, tuning] = CASES[0]!;
    const { found: reference } = await results(gemma(), tuning, { name: "off" });
    for (const strategy of SLOW ? STRATEGIES : STRATEGIES.slice(1, 2)) {
      const more = { offload: { folder, leastBytes: 4096 }, verifyReplay: true };
      const engine = await build(gemma(), tuning, strategy, TOKENS, 2, more);
      expect(gradients(engine, TOKENS)).toEqual(reference);
      expect(engine.store!.counts().in).toBeGreaterThan(0);
      engine.close();
    }
  });

  test("each value has one place, and its gradient one where something is trained before it", async () => {
    const carriedOf = async (tuning: Tuning, model = gemma()): Promise<Engine["plan"]["carried"]> =>
      (await build(model, tuning, { name: "per-segment" }, TOKENS)).plan.carried;
    const inputs = Array.from({ length: 7 }, (_, layer) => `layers.${layer}.input`);
    const shared = ["layers.2.keys", "layers.2.values", "layers.3.keys", "layers.3.values"];
    const names = ({ values, gradients }: Engine["plan"]["carried"]) => [[...values.keys()].sort(), [...gradients.keys()].sort()];
    const of = (gradients: readonly string[]) => [[...inputs, ...shared].sort(), gradients.map((name) => `d.${name}`).sort()];
    expect(names(await carriedOf({ method: "full" }))).toEqual(of([...inputs, ...shared]));
    expect(names(await carriedOf(lora(["v_proj"])))).toEqual(of(shared));
    const last = (lastLayers: number) =>
      tuningOf(trainConfigSchema.parse({ model: "m", data: "d", rank: 4, lastLayers }), gemma(), { tensors: new Map() });
    expect(names(await carriedOf(last(3)))).toEqual(of([]));
    expect(names(await carriedOf(last(4)))).toEqual(of(shared.slice(2)));
    const { values, gradients } = await carriedOf(lora(["v_proj"]));
    const align = (bytes: number) => Math.ceil(bytes / 64) * 64;
    expect(values.get("layers.4.input")).toBe(align(4 * TOKENS * 12));
    expect(values.get("layers.2.keys")).toBe(align(4 * TOKENS * 2 * 10));
    expect(gradients.get("d.layers.3.values")).toBe(align(4 * TOKENS * 2 * 6));
  });
});

test("texts that are decoded side by side share caches block by block too: the bits of each are those of a decoder of its own", async () => {
  const executor = await createWasmExecutor({ threads: 1 });
  const [config, source] = [loadConfig(modelFolder("gemma4")), openSafetensors(modelFolder("gemma4"))];
  const options = { config, source, adapter: openAdapter(adapterFolder("gemma4"), config), maxTokens: 24 };
  const texts = [
    [3, 4, 5, 6, 7, 8, 9],
    [20, 21],
    [30, 31, 32, 33],
  ];
  const together = createDecoders(executor, options, texts.length);
  const alone = texts.map(() => createDecoder(executor, options));
  for (let step = 0; step < 8; step++) {
    const logits = together.feed(new Map(texts.entries()));
    for (const [i, text] of texts.entries()) {
      const own = alone[i]!.feed(text);
      expect(logits.get(i)).toEqual(own);
      text.push(argmax(own));
    }
  }
  executor.close();
  source.close();
  options.adapter.source.close();
});

describe("the table of what blocks are told", () => {
  const streaming = (mode: "all" | "auto", canStream: (param: ParamInfo) => boolean) =>
    ({ mode, canStream, folder, bandwidth: 1e9, free: () => Infinity }) as const;

  for (const [title, tuning] of SLOW ? CASES : CASES.slice(0, 1)) {
    test(`${title}: rows are read of its file, and all other weights too: the same bits as in memory, in decoding too`, async () => {
      // Tables and matrices are large enough to be left in files.
      const model = gemma({ hidden_size: 128, hidden_size_per_layer_input: 64 });
      const source = storedCheckpoint(model, "bf16");
      const make = (more: Partial<EngineOptions>) =>
        build(model, tuning, { name: "per-segment" }, TOKENS, 2, { source, decode: 24, ...more });
      const stream = streaming("all", (param) => isOnDisk(source, param));
      const [resident, streamed] = [await make({}), await make({ stream })];
      const found = (engine: Engine) => ({
        ...gradients(engine, TOKENS),
        next: [
          [5, 6, 7, 8],
          [5, 6, 7, 8, 9],
        ].map((ids) => engine.decoder().feed(ids)),
      });
      expect(found(streamed)).toEqual(found(resident));
      const isFull = tuning.method === "full";
      expect([...streamed.plan.residency.rowBytes]).toEqual(isFull ? [] : [["model.embed_tokens_per_layer.weight", 7 * 64 * 2]]);
      expect(streamed.measuredPeak).toBe(streamed.predicted.peak);
      streamed.close();
    });
  }

  test("of a gigabyte or more stays in its file although all would fit into memory; a smaller one does not", async () => {
    const executor = await createWasmExecutor({ threads: 1 });
    const planned = (rows: number) => {
      const config = gemma({ hidden_size_per_layer_input: 256, vocab_size: rows, vocab_size_per_layer_input: rows });
      const stream = streaming("auto", () => true);
      const options = { tuning: lora(["q_proj"]), strategy: { name: "off" }, tokens: [TOKENS], optimizer: null, stream } as const;
      return planModel({ ...executor, capacity: 2 ** 40 }, { config, weightType: () => "bf16", ...options });
    };
    const rows = 2 ** 29 / (7 * 256);
    const [huge, large] = [planned(Math.ceil(rows)), planned(Math.floor(rows))];
    expect([...huge.residency.streamed]).toEqual(["model.embed_tokens_per_layer.weight"]);
    expect([...huge.residency.rowBytes.values()]).toEqual([7 * 256 * 2]);
    expect(large.residency.streamed.size).toBe(0);
    expect(huge.predicted.peak).toBeLessThan(large.predicted.peak - 2 ** 30 + 2 ** 21);
    executor.close();
  });
});
