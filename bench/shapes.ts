import { elements, type Quantised } from "../src/graph/types.ts";
import { DTYPE_BYTES, type FloatType } from "../src/base/dtype.ts";
import type { ModelConfig } from "../src/models/config.ts";
import { parseConfig } from "../src/models/families/index.ts";
import { fromFloat32 } from "../src/base/float16.ts";
import type { TensorEntry, TensorSource } from "../src/hf/weights/safetensors.ts";
import type { HeadKind } from "../src/models/parts.ts";
import { buildSegments } from "../src/models/chain/segments.ts";
import { createRandom } from "../src/base/random.ts";
import { collectParams } from "../src/runtime/resident.ts";
import type { WeightStorage } from "../src/load/weights.ts";

/** Shapes of published models (from their config.json), to be filled with random weights. */
export const SHAPES = {
  "smollm2-135m": {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    vocab_size: 49152,
    max_position_embeddings: 8192,
    rms_norm_eps: 1e-5,
    rope_theta: 100000,
    tie_word_embeddings: true,
    hidden_act: "silu",
  },
  "qwen2.5-0.5b": {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_size: 896,
    intermediate_size: 4864,
    num_hidden_layers: 24,
    num_attention_heads: 14,
    num_key_value_heads: 2,
    vocab_size: 151936,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    tie_word_embeddings: true,
    hidden_act: "silu",
  },
  "qwen2.5-1.5b": {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_size: 1536,
    intermediate_size: 8960,
    num_hidden_layers: 28,
    num_attention_heads: 12,
    num_key_value_heads: 2,
    vocab_size: 151936,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    tie_word_embeddings: true,
    hidden_act: "silu",
  },
  "qwen2.5-3b": {
    architectures: ["Qwen2ForCausalLM"],
    model_type: "qwen2",
    hidden_size: 2048,
    intermediate_size: 11008,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    vocab_size: 151936,
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000,
    tie_word_embeddings: true,
    hidden_act: "silu",
  },
  "qwen3.5-0.8b": {
    architectures: ["Qwen3_5ForCausalLM"],
    model_type: "qwen3_5_text",
    hidden_size: 1024,
    intermediate_size: 3584,
    num_hidden_layers: 24,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    head_dim: 256,
    linear_num_key_heads: 16,
    linear_num_value_heads: 16,
    vocab_size: 248320,
    max_position_embeddings: 262144,
    rms_norm_eps: 1e-6,
    rope_theta: 10000000,
    tie_word_embeddings: true,
    hidden_act: "silu",
  },
  "lfm2-350m": {
    architectures: ["Lfm2ForCausalLM"],
    model_type: "lfm2",
    hidden_size: 1024,
    block_ff_dim: 6656,
    block_multiple_of: 256,
    block_ffn_dim_multiplier: 1,
    block_auto_adjust_ff_dim: true,
    num_hidden_layers: 16,
    full_attn_idxs: [2, 5, 8, 10, 12, 14],
    num_attention_heads: 16,
    num_key_value_heads: 8,
    conv_L_cache: 3,
    conv_bias: false,
    vocab_size: 65536,
    max_position_embeddings: 128000,
    norm_eps: 1e-5,
    rope_theta: 1000000,
    tie_embedding: true,
  },
  /** 10 of 35 layers of Gemma 4 E2B, half of them without keys of their own: PyTorch's f32 step of all does not fit into 24 GiB. */
  "gemma-4-e2b-10l": {
    architectures: ["Gemma4ForCausalLM"],
    model_type: "gemma4_text",
    hidden_size: 1536,
    intermediate_size: 6144,
    num_hidden_layers: 10,
    num_attention_heads: 8,
    num_key_value_heads: 1,
    head_dim: 256,
    global_head_dim: 512,
    hidden_size_per_layer_input: 256,
    vocab_size_per_layer_input: 262144,
    num_kv_shared_layers: 5,
    use_double_wide_mlp: true,
    sliding_window: 512,
    layer_types: [0, 1].flatMap(() => [...Array.from({ length: 4 }, () => "sliding_attention"), "full_attention"]),
    final_logit_softcapping: 30,
    vocab_size: 262144,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    hidden_activation: "gelu_pytorch_tanh",
    rope_parameters: {
      full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1000000 },
      sliding_attention: { rope_type: "default", rope_theta: 10000 },
    },
  },
} as const;

/** all-MiniLM-L6-v2's shape. */
export const MINILM = {
  architectures: ["BertModel"],
  model_type: "bert",
  hidden_size: 384,
  intermediate_size: 1536,
  num_hidden_layers: 6,
  num_attention_heads: 12,
  vocab_size: 30522,
  max_position_embeddings: 512,
  type_vocab_size: 2,
  layer_norm_eps: 1e-12,
  hidden_act: "gelu",
  hidden_dropout_prob: 0,
  attention_probs_dropout_prob: 0,
  pad_token_id: 0,
} as const;

export type ShapeName = keyof typeof SHAPES;

export function shapeConfig(name: ShapeName, layers?: number): ModelConfig {
  return parseConfig(
    { ...SHAPES[name], ...(layers === undefined ? {} : { num_hidden_layers: layers }) },
    `bench/shapes.ts (${name})`,
  );
}

/** Returns what `--dtype` of a benchmark says of frozen weights: q8 and nf4 are made of a checkpoint in bf16, q8-all and nf4-all with the embedding. */
export function storageOf(dtype: string): WeightStorage & { readonly stored: FloatType } {
  const [, quantize, all] = /^(q8|nf4)(-all)?$/.exec(dtype) ?? [];
  if (quantize) return { stored: "bf16", quantize: quantize as Quantised, quantizeEmbedding: all !== undefined };
  return { stored: dtype as FloatType, dtype: dtype as FloatType };
}

/** A checkpoint of a configuration that is made up as it is read: normal weights of deviation 0.02, norms of 1. */
export function randomCheckpoint(config: ModelConfig, dtype: FloatType, head: HeadKind = "loss"): TensorSource {
  const segments = buildSegments(config, { tokens: 8, tuning: { method: "full" }, weightType: () => "f32", head, texts: 1 });
  const entries = collectParams(segments).map(({ name, type }): TensorEntry => {
    const bytes = elements(type.shape) * DTYPE_BYTES[dtype];
    return { name, stored: dtype.toUpperCase(), dtype, shape: type.shape, path: "random", offset: 0, bytes };
  });
  const random = createRandom(1, "checkpoint");
  const block = fromFloat32(
    Float32Array.from({ length: 65_536 }, () => 0.02 * random.normal()),
    dtype,
  );
  const ones = fromFloat32(new Float32Array(65_536).fill(1), dtype);
  return {
    path: "random",
    tensors: new Map(entries.map((entry) => [entry.name, entry])),
    metadata: new Map(),
    files: [],
    read(entry, target) {
      const fill = entry.shape.length === 1 && /(norm\.weight|layer_scalar)$/i.test(entry.name) ? ones : block;
      for (let at = 0; at < target.length; at += fill.length)
        target.set(fill.subarray(0, Math.min(fill.length, target.length - at)), at);
    },
    close() {},
  };
}
