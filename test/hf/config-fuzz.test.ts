import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { checkContext, contextLimit } from "../../src/models/context.ts";
import { fuzz, INPUTS, mutateBytes, mutateJson } from "../support/fuzz.ts";
import { temporaryFolder } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
mkdirSync(folder, { recursive: true });

const SIZES = {
  hidden_size: 64,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  intermediate_size: 96,
  vocab_size: 128,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  hidden_act: "silu",
  eos_token_id: [2, 3],
  bos_token_id: 1,
  torch_dtype: "bfloat16",
};
const SEEDS = [
  { model_type: "llama", architectures: ["LlamaForCausalLM"], ...SIZES, rope_theta: 1e4, rope_scaling: null },
  {
    model_type: "llama",
    ...SIZES,
    rope_scaling: {
      rope_type: "llama3",
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    },
  },
  { model_type: "qwen3", ...SIZES, sliding_window: 9, use_sliding_window: true, layer_types: Array(4).fill("full_attention") },
  { model_type: "qwen2", ...SIZES, rope_parameters: { rope_type: "yarn", factor: 4, rope_theta: 1e6, mscale: 1 } },
  { model_type: "smollm3", ...SIZES, sliding_window: 9, use_sliding_window: true, no_rope_layers: [1, 0, 1, 0] },
  { model_type: "cwm", ...SIZES, sliding_window: 9 },
  { model_type: "ministral3", ...SIZES, rope_parameters: { rope_type: "yarn", factor: 4, llama_4_scaling_beta: 0.1 } },
  { model_type: "granite", ...SIZES, logits_scaling: 8, residual_multiplier: 0.2 },
  { model_type: "seed_oss", ...SIZES, attention_out_bias: true },
  { model_type: "gemma", ...SIZES, hidden_act: "gelu" },
  { model_type: "ministral", ...SIZES, layer_types: Array(4).fill("sliding_attention") },
  { model_type: "bert", ...SIZES, hidden_act: "gelu", type_vocab_size: 2, position_embedding_type: "absolute" },
  { model_type: "xlm-roberta", ...SIZES, hidden_act: "gelu", eos_token_id: 2, pad_token_id: 1 },
  { model_type: "distilbert", dim: 64, n_layers: 4, n_heads: 4, hidden_dim: 96, vocab_size: 128, activation: "gelu" },
  {
    model_type: "modernbert",
    ...SIZES,
    eos_token_id: 2,
    local_attention: 8,
    rope_parameters: { full_attention: { rope_type: "default", rope_theta: 9 }, sliding_attention: { rope_theta: 5 } },
  },
  {
    model_type: "qwen3_5_text",
    ...SIZES,
    head_dim: 16,
    linear_num_key_heads: 2,
    linear_num_value_heads: 4,
    linear_key_head_dim: 8,
  },
  {
    model_type: "qwen3_5",
    text_config: { ...SIZES, head_dim: 16, layer_types: ["full_attention", ...Array(3).fill("linear_attention")] },
  },
  { model_type: "qwen3_moe", ...SIZES, num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 24, mlp_only_layers: [] },
  { model_type: "olmoe", ...SIZES, num_experts: 6, num_experts_per_tok: 2, norm_topk_prob: true, clip_qkv: null },
  { model_type: "mistral", ...SIZES, sliding_window: 16, tie_word_embeddings: true },
  {
    model_type: "lfm2",
    ...SIZES,
    block_ff_dim: 30,
    conv_L_cache: 3,
    conv_bias: true,
    full_attn_idxs: [1, 3],
    tie_embedding: true,
  },
  { model_type: "lfm2", ...SIZES, layer_types: ["conv", "conv", "full_attention", "conv"], block_ffn_dim_multiplier: 1.3 },
  { model_type: "lfm2_moe", ...SIZES, num_experts: 6, num_experts_per_tok: 2, num_dense_layers: 1, moe_intermediate_size: 24 },
  { model_type: "qwen3_next", ...SIZES, head_dim: 16, num_experts: 6, num_experts_per_tok: 2, mlp_only_layers: [1] },
  { model_type: "qwen3_5_moe", text_config: { ...SIZES, head_dim: 16, num_experts: 6, num_experts_per_tok: 2 } },
  {
    model_type: "gpt_oss",
    ...SIZES,
    num_local_experts: 6,
    num_experts_per_tok: 2,
    quantization_config: { quant_method: "mxfp4" },
  },
].map((seed) => JSON.stringify(seed));
const GENERATION = JSON.stringify({ eos_token_id: [2, 5], do_sample: true, temperature: 0.6 });

test(`${INPUTS} mutated config.json and generation_config.json: a configuration of sane numbers, or a UserError`, async () => {
  const generation = join(folder, "generation_config.json");
  const counts = await fuzz(
    "config",
    (random) => {
      const seed = SEEDS[random.below(SEEDS.length)]!;
      const kind = random.below(6);
      if (kind === 0) return { config: seed, generation: mutateJson(random, GENERATION) };
      return { config: kind === 1 ? mutateBytes(random, Buffer.from(seed)) : mutateJson(random, seed), generation: null };
    },
    (input) => {
      writeFileSync(join(folder, "config.json"), input.config);
      if (input.generation !== null) writeFileSync(generation, input.generation);
      else rmSync(generation, { force: true });
      const config = loadConfig(folder);
      const { layers, heads, kvHeads, headDim, hiddenSize, intermediateSize, vocabSize } = config;
      for (const size of [layers, heads, kvHeads, headDim, hiddenSize, intermediateSize, vocabSize, contextLimit(config)])
        if (!Number.isSafeInteger(size) || size < 1) throw new Error(`a size is ${size}`);
      for (const value of [config.normEps, config.rope.theta])
        if (!Number.isFinite(value) || value < 0) throw new Error(`a number is ${value}`);
      checkContext(config, 1);
    },
  );
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.1 * INPUTS);
});
