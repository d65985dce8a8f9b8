import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { WeightStorage } from "../../../src/load/weights.ts";
import type { AdapterTuning } from "../../../src/models/tuning.ts";
import { readTensor } from "../../../src/runtime/resident.ts";
import type { Strategy } from "../../../src/schedule/strategies.ts";
import { trainConfigSchema } from "../../../src/train/config.ts";
import { tuningOf } from "../../../src/train/step/tuning.ts";
import { randomCheckpoint } from "../../../bench/shapes.ts";
import { build, closeExecutors, gradients, llama, packedBatch } from "../../support/engine.ts";
import { relativeError } from "../../support/ops.ts";
import { combinations, SLOW, some } from "../../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

/** Biases, a head of its own, and whole blocks of 64 in each row: all linear layers can be quantised. */
const config = llama(4, 64, {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  tie_word_embeddings: false,
});
const tied = llama(3, 64);
/** Three experts, of which a token chooses two. */
const mixture = llama(3, 64, {
  architectures: undefined,
  model_type: "qwen3_moe",
  head_dim: 16,
  num_experts: 3,
  num_experts_per_tok: 2,
  moe_intermediate_size: 64,
});
/** The same with biases, gates within limits, and gate and up by turns. */
const limited = llama(3, 64, {
  architectures: undefined,
  model_type: "gpt_oss",
  head_dim: 16,
  intermediate_size: 64,
  num_local_experts: 3,
  num_experts_per_tok: 2,
  swiglu_limit: 1.5,
  tie_word_embeddings: false,
});
const TOKENS = 25;

const tuning = (changes: object, model = config) =>
  tuningOf(
    trainConfigSchema.parse({ model: "m", data: "d", rank: 4, alpha: 6, ...changes }),
    model,
    randomCheckpoint(model, "f32"),
  ) as AdapterTuning;

/** Settings of a kind without ranks. */
const ia3 = (changes: object, model = config) => tuning({ method: "ia3", rank: undefined, alpha: undefined, ...changes }, model);

const CASES: readonly (readonly [title: string, tuning: AdapterTuning, model?: typeof config])[] = [
  ["DoRA with dropout", tuning({ method: "dora", dropout: 0.2 })],
  [
    "DoRA in the last two blocks, with ranks and alphas of some modules",
    tuning({ method: "dora", lastLayers: 2, rankPattern: "down_proj=7,layers.3.self_attn.q_proj=2", alphaPattern: "v_proj=3" }),
  ],
  ["IA3 in all linear layers", ia3({ targets: ["all-linear"], feedforward: ["o_proj", "down_proj"] })],
  [
    "IA3 as PEFT has it for the family, in the last two blocks, beside a whole norm",
    ia3({ lastLayers: 2, modulesToSave: ["model.norm"] }),
  ],
  ["head and embedding, with dropout", tuning({ targets: ["q_proj", "lm_head", "embed_tokens"], dropout: 0.3 })],
  ["a head that is the embedding", tuning({ targets: ["up_proj", "lm_head"] }, tied), tied],
  [
    "biases and a norm trained whole beside DoRA",
    tuning({ method: "dora", bias: "all", modulesToSave: ["model.norm", "2.mlp.up_proj"] }),
  ],
  [
    "parameters of all experts in the last two blocks, with a rank of one",
    tuning(
      { targets: ["q_proj"], lastLayers: 2, targetParameters: ["gate_up_proj", "down_proj"], rankPattern: "experts.down_proj=3" },
      mixture,
    ),
    mixture,
  ],
  [
    "parameters of all experts with biases",
    tuning({ targets: ["q_proj"], targetParameters: ["gate_up_proj", "down_proj"], rankPattern: "experts.down_proj=3" }, limited),
    limited,
  ],
  [
    "a head that was the embedding, and the embedding, trained whole",
    tuning({ targets: ["q_proj"], modulesToSave: ["lm_head", "embed_tokens"] }, tied),
    tied,
  ],
];
const RUNS: readonly (readonly [Strategy, threads: number])[] = [
  [{ name: "per-segment" }, 1],
  [{ name: "revolve", slots: 2 }, 2],
  ...(SLOW ? ([[{ name: "sqrt" }, 3]] as const) : []),
];

const STORAGES = [
  ["f32 weights", "native", {}],
  ["quantised weights", "wasm", { quantize: "nf4", quantizeEmbedding: true }],
] as const satisfies readonly (readonly [title: string, matmul: string, storage: WeightStorage])[];

for (const [[title, adapters, model = config], [weights, matmul, storage]] of some(combinations(CASES, STORAGES), 4)) {
  test(`${title}, ${weights}, products by ${matmul}: the same bits for every strategy and 1 to 3 threads; memory is as planned`, async () => {
    const make = (strategy: Strategy, threads: number) => build(model, adapters, strategy, TOKENS, { threads, matmul }, storage);
    const reference = gradients(await make({ name: "off" }, 1), TOKENS);
    for (const [name, values] of reference.values) expect([name, values.some((value) => value !== 0)]).toEqual([name, true]);
    for (const [strategy, threads] of RUNS) {
      const engine = await make(strategy, threads);
      expect(gradients(engine, TOKENS)).toEqual(reference);
      expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
    }
  });
}

describe.each(some(CASES, 5))("%s", (_, adapters, model = config) => {
  test("a token at a time gives the logits of the whole text within a relative 1e-5", async () => {
    const more = { decode: 40, logits: { tokens: [TOKENS], rows: 1 } };
    const engine = await build(model, adapters, { name: "per-segment" }, TOKENS, 2, more);
    const positions = Int32Array.from({ length: TOKENS }, (__, t) => t);
    const batch = { ...packedBatch(TOKENS, 67), starts: new Int32Array(TOKENS), positions };
    const expectSame = () => {
      const decoder = engine.decoder();
      for (let count = 1; count < TOKENS; count++) decoder.feed([...batch.ids.subarray(0, count)]);
      const decoded = decoder.feed([...batch.ids]);
      const logits = engine.logits(batch, Int32Array.of(TOKENS - 1));
      expect(relativeError(decoded, logits)).toBeLessThan(1e-5);
      return logits;
    };
    const before = expectSame();
    // A decoder that is made later sees what was trained in between.
    const { executor, resident } = engine;
    for (const { name, type } of resident.params.filter(({ trainable }) => trainable)) {
      const address = resident.param.get(name)!;
      executor.write(address, new Uint8Array(readTensor(executor, address, type).map((x) => 1.5 * x).buffer as ArrayBuffer));
    }
    expect(relativeError(expectSame(), before)).toBeGreaterThan(1e-3);
  });
});

test.each([{}, { quantize: "nf4" }] as const)(
  "IA3 begins with factors of 1 (%j): its model is the base model to the bit",
  async (storage) => {
    const more = { ...storage, logits: { tokens: [TOKENS], rows: TOKENS } };
    const [base, adapted] = await Promise.all(
      [tuning({ targets: ["q_proj"] }), ia3({ targets: ["all-linear"] })].map(async (adapters) => {
        const engine = await build(config, adapters, { name: "off" }, TOKENS, 2, more);
        for (const { name, type } of engine.resident.params.filter(({ name }) => name.endsWith("lora_B.weight")))
          engine.executor.zero(engine.resident.param.get(name)!, 4 * type.shape[0]! * type.shape[1]!);
        return engine;
      }),
    );
    const batch = packedBatch(TOKENS, 67);
    const all = Int32Array.from({ length: TOKENS }, (_, t) => t);
    expect(adapted!.logits(batch, all)).toEqual(base!.logits(batch, all));
    expect(adapted!.resident.params.filter(({ name }) => name.endsWith("ia3_l"))).toHaveLength(4 * 7);
  },
);

test.each([{}, { quantize: "q8" }, { quantize: "nf4" }] as const)(
  "DoRA begins with the lengths of the rows in memory (%j): its model is the base model to the bit",
  async (storage) => {
    const more = { ...storage, logits: { tokens: [TOKENS], rows: TOKENS } };
    const [base, adapted] = await Promise.all(
      [tuning({ targets: ["q_proj"] }, tied), tuning({ method: "dora" }, tied)].map(async (adapters) => {
        const engine = await build(tied, adapters, { name: "off" }, TOKENS, 2, more);
        for (const { name, type } of engine.resident.params.filter(({ name }) => name.endsWith("lora_B.weight")))
          engine.executor.zero(engine.resident.param.get(name)!, 4 * type.shape[0]! * type.shape[1]!);
        return engine;
      }),
    );
    const batch = packedBatch(TOKENS, 67);
    const all = Int32Array.from({ length: TOKENS }, (_, t) => t);
    expect(adapted!.logits(batch, all)).toEqual(base!.logits(batch, all));
    const { params, param } = adapted!.resident;
    const lengths = params.filter(({ name }) => name.endsWith("lora_magnitude_vector"));
    expect(lengths).toHaveLength(3 * 7);
    for (const { name, type } of lengths)
      expect(readTensor(adapted!.executor, param.get(name)!, type).every((x) => x > 0)).toBe(true);
  },
);
