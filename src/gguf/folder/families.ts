import { UserError } from "../../base/errors.ts";
import type { Raw } from "../../models/families/family.ts";
import type { Facts } from "./facts.ts";

/** Describes a model as its file says it, to what is a family's own. */
export interface Given {
  readonly facts: Facts;
  readonly layers: number;
  readonly heads: number;
  /** By layer; 0 in layers that do not attend. */
  readonly kvHeads: readonly number[];
  readonly headDim: number;
  readonly hiddenSize: number;
  readonly rotaryDim: number;
  readonly epsilon: number;
  /** A number of the architecture's own keys, or null; an f32 as the decimal number that it was made of. */
  own(key: string): number | null;
  /** @throws {UserError} a key that is missing */
  need(key: string): number;
  hasTensor(name: string): boolean;
}

/** The keys of a family in `config.json` beside those that all have: `GgufFacts.settings` the other way round. */
export interface FamilyKeys {
  keys(given: Given): Raw;
  /** False where models of this family do not round YaRN's dimensions. */
  readonly roundsYarn?: boolean;
}

const attentionBias = ({ hasTensor }: Given): Raw => ({ attention_bias: hasTensor("blk.0.attn_q.bias") });

const layerBiases = (given: Given): Raw => ({ ...attentionBias(given), mlp_bias: given.hasTensor("blk.0.ffn_up.bias") });

/** @throws {UserError} */
function refuseExperts({ own, facts }: Given): void {
  const count = own("expert_count") ?? 0;
  if (count > 0)
    throw new UserError(
      `${facts.path} is a mixture of ${count} experts of ${facts.architecture} (Mixtral), which is not supported`,
    );
}

const experts = ({ need }: Given, normalised: boolean): Raw => ({
  num_experts: need("expert_count"),
  num_experts_per_tok: need("expert_used_count"),
  norm_topk_prob: normalised,
});

/** Scores are scaled by the heads' features, and by others in the largest model. */
const gemmaScale = (largest: number, { layers, heads, hiddenSize, headDim }: Given): Raw => ({
  query_pre_attn_scalar: layers === largest ? Math.floor(hiddenSize / heads) : headDim,
});

const rotaryPart = (rotaryDim: number, headDim: number): Raw => ({ partial_rotary_factor: rotaryDim / headDim });

const partialRotary = ({ rotaryDim, headDim }: Given): Raw => rotaryPart(rotaryDim, headDim);

const lfm = ({ kvHeads, need, epsilon }: Given): Raw => ({
  layer_types: kvHeads.map((count) => (count === 0 ? "conv" : "full_attention")),
  conv_L_cache: need("shortconv.l_cache"),
  norm_eps: epsilon,
  block_auto_adjust_ff_dim: false,
});

/** Layers with a state are all but one in each period, or listed. */
function deltaKeys(given: Given): Raw {
  const { facts, need, own, layers, rotaryDim, headDim } = given;
  const states = facts.flags(`${facts.architecture}.attention.recurrent_layers`);
  const interval = own("full_attention_interval") ?? 4;
  const heads = need("ssm.time_step_rank");
  const hasState = (layer: number) => (states ? states[layer] === true : (layer + 1) % interval !== 0);
  const types = Array.from({ length: layers }, (_, layer) => (hasState(layer) ? "linear_attention" : "full_attention"));
  return {
    layer_types: types,
    linear_conv_kernel_dim: need("ssm.conv_kernel"),
    linear_key_head_dim: need("ssm.state_size"),
    linear_num_key_heads: need("ssm.group_count"),
    linear_num_value_heads: heads,
    linear_value_head_dim: need("ssm.inner_size") / heads,
    ...rotaryPart(rotaryDim, headDim),
  };
}

const sharedExpert = (given: Given): Raw => ({
  ...deltaKeys(given),
  ...experts(given, true),
  moe_intermediate_size: given.need("expert_feed_forward_length"),
  shared_expert_intermediate_size: given.need("expert_shared_feed_forward_length"),
  decoder_sparse_step: 1,
  mlp_only_layers: [],
});

const layerNorm: FamilyKeys["keys"] = ({ epsilon }) => ({ layer_norm_eps: epsilon });

/** By llama.cpp's name of the architecture; of several families that are one there, the first in the table of families is meant. */
export const FAMILY_KEYS: Readonly<Record<string, FamilyKeys>> = {
  llama: {
    keys(given) {
      refuseExperts(given);
      return layerBiases(given);
    },
  },
  qwen2: { keys: () => ({ use_sliding_window: false }) },
  qwen3: { keys: attentionBias },
  qwen3moe: {
    keys: (given) => ({
      ...attentionBias(given),
      ...experts(given, true),
      moe_intermediate_size: given.need("expert_feed_forward_length"),
    }),
  },
  gemma: { keys: () => ({}) },
  gemma2: {
    keys: (given) => ({
      ...gemmaScale(46, given),
      sliding_window: given.own("attention.sliding_window") ?? 4096,
      attn_logit_softcapping: given.own("attn_logit_softcapping") ?? 50,
      final_logit_softcapping: given.own("final_logit_softcapping") ?? 30,
    }),
  },
  gemma3: {
    keys: (given) => ({
      ...gemmaScale(62, given),
      sliding_window: given.need("attention.sliding_window"),
      sliding_window_pattern: 6,
      rope_local_base_freq: given.own("rope.freq_base_swa") ?? 10_000,
      final_logit_softcapping: given.own("final_logit_softcapping"),
      // Unlike elsewhere, the context that the scaling gives.
      max_position_embeddings: given.need("context_length"),
    }),
  },
  phi3: {
    keys: (given) => ({ ...partialRotary(given), sliding_window: given.own("attention.sliding_window") || null }),
  },
  smollm3: { keys: (given) => ({ ...layerBiases(given), no_rope_layer_interval: 4, use_sliding_window: false }) },
  granite: {
    keys: (given) => ({
      ...layerBiases(given),
      embedding_multiplier: given.own("embedding_scale") ?? 1,
      attention_multiplier: given.own("attention.scale") ?? 1 / Math.sqrt(given.headDim),
      residual_multiplier: given.own("residual_scale") ?? 1,
      logits_scaling: given.own("logit_scale") ?? 1,
    }),
  },
  olmo2: { keys: attentionBias },
  olmoe: { keys: (given) => experts(given, false) },
  exaone4: { keys: () => ({ sliding_window: null }) },
  cohere2: {
    keys: ({ epsilon, need }) => ({
      layer_norm_eps: epsilon,
      logit_scale: need("logit_scale"),
      sliding_window: need("attention.sliding_window"),
      sliding_window_pattern: 4,
    }),
  },
  starcoder2: { keys: ({ epsilon, hasTensor }) => ({ norm_epsilon: epsilon, use_bias: hasTensor("blk.0.attn_q.bias") }) },
  lfm2: { keys: lfm },
  lfm2moe: {
    keys: (given) => ({
      ...lfm(given),
      ...experts(given, true),
      moe_intermediate_size: given.need("expert_feed_forward_length"),
      num_dense_layers: given.own("leading_dense_block_count") ?? 0,
      use_expert_bias: true,
    }),
  },
  "gpt-oss": {
    roundsYarn: false,
    keys: (given) => ({
      num_local_experts: given.need("expert_count"),
      num_experts_per_tok: given.need("expert_used_count"),
      intermediate_size: given.need("expert_feed_forward_length"),
      sliding_window: given.need("attention.sliding_window"),
      attention_bias: true,
    }),
  },
  seed_oss: {
    keys: (given) => ({ ...layerBiases(given), attention_out_bias: given.hasTensor("blk.0.attn_output.bias") }),
  },
  chatglm: { keys: (given) => ({ ...attentionBias(given), ...partialRotary(given) }) },
  glm4: { keys: (given) => ({ ...attentionBias(given), ...partialRotary(given) }) },
  "hunyuan-dense": { keys: () => ({}) },
  ernie4_5: { keys: () => ({ use_bias: false }) },
  stablelm: {
    keys: (given) => ({
      ...layerNorm(given),
      ...partialRotary(given),
      use_qkv_bias: given.hasTensor("blk.0.attn_q.bias"),
      // One norm in front of both branches, side by side, where there is no second one.
      use_parallel_residual: !given.hasTensor("blk.0.ffn_norm.weight"),
      qk_layernorm: given.hasTensor("blk.0.attn_q_norm.weight"),
    }),
  },
  phi2: { keys: (given) => ({ ...layerNorm(given), ...partialRotary(given) }) },
  nemotron: { keys: (given) => ({ ...layerBiases(given), ...partialRotary(given), norm_eps: given.epsilon }) },
  gptneox: {
    keys: (given) => ({
      ...layerNorm(given),
      hidden_act: "gelu",
      rotary_pct: given.rotaryDim / given.headDim,
      rotary_emb_base: given.own("rope.freq_base") ?? 10_000,
      use_parallel_residual: given.facts.flag(`${given.facts.architecture}.use_parallel_residual`) ?? true,
    }),
  },
  gpt2: {
    keys: ({ hiddenSize, layers, heads, epsilon, need }) => ({
      n_embd: hiddenSize,
      n_layer: layers,
      n_head: heads,
      n_inner: need("feed_forward_length"),
      n_positions: need("context_length"),
      activation_function: "gelu_new",
      layer_norm_epsilon: epsilon,
    }),
  },
  qwen35: { keys: deltaKeys },
  qwen35moe: { keys: sharedExpert },
  qwen3next: { keys: sharedExpert },
};
