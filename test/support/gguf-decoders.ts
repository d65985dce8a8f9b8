import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../../src/base/files/files.ts";
import { createRandom } from "../../src/base/random.ts";
import { elements } from "../../src/graph/types.ts";
import type { TensorData } from "../../src/hf/weights/safetensors-write.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { collectParams } from "../../src/runtime/resident.ts";
import { useTokenizer } from "./gguf-models.ts";
import { writeRandomWeights } from "./random-weights.ts";

const SIZES = {
  vocab_size: 448,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  intermediate_size: 48,
  max_position_embeddings: 128,
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "float32",
};

const EXPERTS = { num_experts: 6, num_experts_per_tok: 2, moe_intermediate_size: 24 };

const OLMOE = {
  architectures: ["OlmoeForCausalLM"],
  model_type: "olmoe",
  ...EXPERTS,
  intermediate_size: 24,
  num_key_value_heads: 4,
};

const DELTA = {
  num_hidden_layers: 4,
  rms_norm_eps: 1e-6,
  head_dim: 16,
  linear_conv_kernel_dim: 4,
  linear_key_head_dim: 16,
  linear_value_head_dim: 16,
  linear_num_key_heads: 2,
  linear_num_value_heads: 6,
  rope_parameters: { rope_type: "default", rope_theta: 10_000, partial_rotary_factor: 0.5 },
};

const SHARED = { ...EXPERTS, shared_expert_intermediate_size: 40, norm_topk_prob: true };

const GPT_OSS = {
  architectures: ["GptOssForCausalLM"],
  model_type: "gpt_oss",
  num_local_experts: 4,
  num_experts_per_tok: 2,
  intermediate_size: 32,
  sliding_window: 8,
  rope_parameters: {
    rope_type: "yarn",
    rope_theta: 150_000,
    factor: 4,
    beta_fast: 32,
    beta_slow: 1,
    truncate: true,
    original_max_position_embeddings: 32,
  },
};

const NEOX = { architectures: ["GPTNeoXForCausalLM"], model_type: "gpt_neox", rotary_pct: 0.5, rotary_emb_base: 1000 };

const GEMMA4 = {
  architectures: ["Gemma4ForCausalLM"],
  model_type: "gemma4_text",
  num_hidden_layers: 6,
  layer_types: [0, 1, 0, 1, 0, 1].map((full) => (full ? "full_attention" : "sliding_attention")),
  num_kv_shared_layers: 2,
  use_double_wide_mlp: true,
  global_head_dim: 16,
  hidden_size_per_layer_input: 16,
  vocab_size_per_layer_input: 450,
  sliding_window: 8,
  final_logit_softcapping: 30,
  tie_word_embeddings: true,
  rope_parameters: {
    full_attention: { rope_type: "proportional", partial_rotary_factor: 0.5, rope_theta: 1_000_000 },
    sliding_attention: { rope_type: "default", rope_theta: 10_000 },
  },
};

/** Small models as llama.cpp has them: what it asks for of their settings is as it is in published ones. */
export const GGUF_DECODERS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  gpt2: {
    architectures: ["GPT2LMHeadModel"],
    model_type: "gpt2",
    n_embd: 32,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
    n_inner: 48,
  },
  "gpt-neox": { ...NEOX, hidden_act: "gelu_fast" },
  "gpt-neox-serial": { ...NEOX, hidden_act: "gelu", use_parallel_residual: false },
  glm: { architectures: ["GlmForCausalLM"], model_type: "glm", rope_theta: 1000 },
  gemma4: GEMMA4,
  "gemma4-keys": {
    ...GEMMA4,
    attention_k_eq_v: true,
    num_global_key_value_heads: 1,
    num_kv_shared_layers: 0,
    hidden_size_per_layer_input: 0,
  },
  "gpt-oss": GPT_OSS,
  "gpt-oss-mxfp4": { ...GPT_OSS, quantization_config: { quant_method: "mxfp4" } },
  "qwen3-moe": { architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", ...EXPERTS, norm_topk_prob: true },
  olmoe: OLMOE,
  "olmoe-tied": { ...OLMOE, tie_word_embeddings: true },
  "lfm2-moe": {
    architectures: ["Lfm2MoeForCausalLM"],
    model_type: "lfm2_moe",
    ...EXPERTS,
    num_hidden_layers: 3,
    num_dense_layers: 1,
    layer_types: ["conv", "full_attention", "conv"],
    tie_word_embeddings: true,
  },
  "qwen3.5": { architectures: ["Qwen3_5ForCausalLM"], model_type: "qwen3_5_text", ...DELTA, tie_word_embeddings: true },
  "qwen3.5-moe": {
    architectures: ["Qwen3_5MoeForCausalLM"],
    model_type: "qwen3_5_moe_text",
    ...DELTA,
    ...SHARED,
    layer_types: ["linear_attention", "full_attention", "full_attention", "linear_attention"],
  },
  "qwen3-next": {
    architectures: ["Qwen3NextForCausalLM"],
    model_type: "qwen3_next",
    ...DELTA,
    ...SHARED,
    num_hidden_layers: 2,
    layer_types: ["linear_attention", "full_attention"],
  },
};

/** Experts in MXFP4 with random codes, and scales of which numbers up to about 0.4 come. */
function packedExperts({ layers, hiddenSize, experts }: ModelConfig): TensorData[] {
  const { count, width } = experts!;
  const tensor = (name: string, shape: number[], first: number, range: number) => {
    const random = createRandom(1, name);
    return {
      name,
      dtype: "u8" as const,
      shape,
      data: Uint8Array.from({ length: elements(shape) }, () => first + random.uniform() * range),
    };
  };
  return Array.from({ length: layers }, (_, layer) =>
    [["gate_up_proj", 2 * width, hiddenSize / 32] as const, ["down_proj", hiddenSize, width / 32] as const].flatMap(
      ([name, rows, groups]) => [
        tensor(`model.layers.${layer}.mlp.experts.${name}_blocks`, [count, rows, groups, 16], 0, 256),
        tensor(`model.layers.${layer}.mlp.experts.${name}_scales`, [count, rows, groups], 121, 3),
      ],
    ),
  ).flat();
}

const settingsOf = (name: string, more: object) => ({ ...SIZES, ...GGUF_DECODERS[name], ...more });

/** The configuration of one of them, with changes. */
export const ggufDecoder = (name: string, more: object): ModelConfig => parseConfig(settingsOf(name, more));

/** Writes one of them with random weights and a small byte-level tokenizer. */
export function writeGgufDecoder(path: string, name: string, more: Readonly<Record<string, unknown>> = {}): string {
  makeFolder(path);
  const raw = settingsOf(name, more);
  writeFileSync(join(path, "config.json"), JSON.stringify(raw));
  const config = parseConfig(raw);
  const options = { tokens: 1, tuning: { method: "full" }, weightType: () => "f32" as const } as const;
  const params = collectParams(buildSegments(config, options));
  const normWeight = (normal: number) => 1 - config.normOffset + 0.2 * normal;
  const isPacked = (parameter: string) => "quantization_config" in raw && /\.experts\.\d+\./.test(parameter);
  const plain = params.filter((param) => !isPacked(param.name));
  writeRandomWeights(path, plain, normWeight, plain.length < params.length ? packedExperts(config) : []);
  useTokenizer(path, "smollm");
  return path;
}
