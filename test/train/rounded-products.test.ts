import { afterAll, afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { hasBf16, hasInt8 } from "../../src/wasm/machine-code/executable.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { build, closeExecutors, gradients, llama, lora } from "../support/engine.ts";
import { isOnDisk } from "../../src/load/streamed-weights.ts";
import { uniformAdapters } from "../../src/models/tuning.ts";
import type { MatmulChoice } from "../../src/wasm/matmul.ts";
import type { StreamOptions } from "../../src/train/memory/stream.ts";
import { removeStored, storedCheckpoint } from "../support/stored.ts";
import { relativeError } from "../support/ops.ts";
import { ok, root } from "../support/cli.ts";
import { slowTest, some } from "../support/slow.ts";
import { temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

/** So many that products, attention and head all go to the native library. */
const TOKENS = 150;
const GEMMA = {
  architectures: ["Gemma2ForCausalLM"],
  model_type: "gemma2",
  vocab_size: 300,
  head_dim: 32,
  query_pre_attn_scalar: 24,
  sliding_window: 40,
  attn_logit_softcapping: 0.5,
  final_logit_softcapping: 2,
};
const EXPERTS = {
  architectures: ["Qwen3MoeForCausalLM"],
  model_type: "qwen3_moe",
  vocab_size: 300,
  head_dim: 32,
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 64,
  norm_topk_prob: true,
};
/** Its matrices lie as [in, out], so that what is multiplied as those of others in the forward pass are its gradients. */
const GPT2 = { architectures: ["GPT2LMHeadModel"], model_type: "gpt2", n_embd: 128, n_layer: 2, n_head: 4, n_positions: 256 };
const CASES = [
  ["bf16", "Llama, LoRA with dropout, weights in bf16", llama(3, 128, { vocab_size: 300 }), lora(0.2), { dtype: "bf16" }],
  ["int8", "Llama, LoRA with dropout, 8-bit weights", llama(3, 128, { vocab_size: 300 }), lora(0.2), { quantize: "q8" }],
  ["int8", "Qwen3 with experts, LoRA, 8-bit weights", llama(2, 128, EXPERTS), lora(0), { quantize: "q8" }],
  ["bf16", "Llama, LoRA, NF4", llama(3, 128, { vocab_size: 300 }), lora(0), { quantize: "nf4" }],
  ["bf16", "Gemma 2, full", llama(2, 128, GEMMA), { method: "full" }, {}],
] as const;
const HAS = { bf16: hasBf16(), int8: hasInt8() } as const;
/** What losses of products that round may differ by. */
const SHARE = [0.995, 1.005] as const;
const RUNS: readonly (readonly [Checkpointing, number])[] = [
  [{ name: "per-segment" }, 2],
  [{ name: "sqrt" }, 3],
  [{ name: "auto", free: () => 2 ** 30 }, 1],
];

describe.each(some(CASES, 2))("%s products: %s", (rounding, _, config, tuning, storage) => {
  test.skipIf(!HAS[rounding])(
    "the same bits for every schedule and 1 to 3 threads, within the rounding of f32's; memory is as planned",
    async () => {
      const open = (strategy: Checkpointing, threads: number, matmul: "bf16" | "int8" | "native") =>
        build(config, tuning, strategy, TOKENS, { threads, matmul }, storage);
      const reference = gradients(await open({ name: "off" }, 1, rounding), TOKENS);
      for (const [strategy, threads] of RUNS) {
        const engine = await open(strategy, threads, rounding);
        expect(gradients(engine, TOKENS)).toEqual(reference);
        expect(engine.measuredPeak / engine.predicted.peak).toBeWithin(0.98, 1.02);
      }
      const exact = gradients(await open({ name: "off" }, 1, "native"), TOKENS);
      exact.losses.forEach((loss, i) => expect(reference.losses[i]! / loss).toBeWithin(...SHARE));
      for (const [name, values] of exact.values) {
        const error = relativeError(reference.values.get(name)!, values);
        expect(`${name} ${error < 0.05 ? "is near" : `is off by ${error}`}`).toEndWith("is near");
      }
      expect(reference.values).not.toEqual(exact.values);
    },
  );
});

test.skipIf(!HAS.int8)("gradients of a model whose matrices lie the other way are not computed from 8-bit codes", async () => {
  const config = llama(2, 128, { ...GPT2, vocab_size: 300 });
  const tuning = uniformAdapters({ rank: 4, scale: 1.5, dropout: 0, targets: new Set(["c_attn", "c_fc", "c_proj"]) });
  const open = (matmul: MatmulChoice) =>
    build(config, tuning, { name: "per-segment" }, TOKENS, { threads: 2, matmul }, { quantize: "q8" });
  const plain = gradients(await open(HAS.bf16 ? "bf16" : "native"), TOKENS);
  expect(gradients(await open("int8"), TOKENS)).toEqual(plain);
});

const folder = temporaryFolder();
afterAll(removeStored);

test.each([
  ["bf16", {}],
  ["int8", { quantize: "q8" }],
] as const)(
  "%s products of weights that come from their file are those of weights in memory, to the bit",
  async (matmul, storage) => {
    if (!HAS[matmul]) return;
    const [config, where] = [llama(2, 256, { vocab_size: 300 }), { threads: 2, matmul }] as const;
    const source = storedCheckpoint(config, "bf16");
    const stream: StreamOptions = {
      mode: "all",
      canStream: (param) => isOnDisk(source, param),
      folder,
      bandwidth: 1e9,
      free: () => Infinity,
    };
    const resident = await build(config, lora(0), { name: "per-segment" }, TOKENS, where, { source, ...storage });
    const streamed = await build(config, lora(0), { name: "per-segment" }, TOKENS, where, { source, stream, ...storage });
    expect(streamed.streamed!.window.streamed.size).toBeGreaterThan(8);
    expect(gradients(streamed, TOKENS)).toEqual(gradients(resident, TOKENS));
    streamed.close();
  },
);

describe.each([
  ["bf16", "off"],
  ["int8", "q8"],
] as const)("a run of the bundled model with %s products", (rounding, quantize) => {
  const has = "has losses within 0.5 % of the same run with products in f32, at each step and on held-out examples";
  (HAS[rounding] ? slowTest : test.skip)(has, async () => {
    const losses = async (matmul: string) => {
      const data = join(root, "recipes/devils-dictionary");
      const flags = ["--data", join(data, "train.jsonl"), "--valid", join(data, "valid.jsonl"), "--steps", "30", "--no-sample"];
      const run = [
        "--model",
        join(root, "recipes/base/model"),
        "--output",
        join(folder, `${matmul}-${quantize}`),
        "--learning-rate",
        "2e-3",
        "--matmul",
        matmul,
        "--quantize",
        quantize,
      ];
      const lines = (await ok("train", ...run, ...flags, "--json")).trim().split("\n");
      const events = lines.map((line) => JSON.parse(line) as { readonly type: string; readonly loss: number });
      return events.filter(({ type }) => ["step", "evaluation"].includes(type)).map(({ loss }) => loss);
    };
    const [exact, rounded] = [await losses("native"), await losses(rounding)];
    expect(rounded).toHaveLength(exact.length);
    exact.forEach((loss, i) => expect(rounded[i]! / loss).toBeWithin(...SHARE));
    expect(rounded).not.toEqual(exact);
    expect(exact.at(-1)!).toBeLessThan(0.97 * exact[0]!);
  });
});
