import { UserError } from "../../../base/errors.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import type { Layer } from "../../blocks/layer.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family, FamilyModules, GgufFacts } from "../family.ts";
import { layerBiases, readDecoder } from "../reading/common.ts";
import { givenBiases } from "../reading/gguf.ts";

/** Names of a Llama's modules, which many families have taken over. */
export const LLAMA_MODULES: FamilyModules = {
  embedding: "embed_tokens",
  head: "lm_head",
  linear: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
  scaled: { outputs: ["k_proj", "v_proj"], inputs: ["down_proj"] },
};

/** The same where PEFT's IA3 takes the queries for the keys. */
export const MODULES_WITH_QUERIES: FamilyModules = {
  ...LLAMA_MODULES,
  scaled: { outputs: ["q_proj", "v_proj"], inputs: ["down_proj"] },
};

export const LLAMA_GGUF: GgufFacts = {
  architecture: "llama",
  modules: {
    input_layernorm: "attn_norm",
    post_attention_layernorm: "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
  },
  rotatesNeighbours: true,
  activation: "silu",
  window: "unknown",
  scalings: ["yarn-betas"],
  keys(given) {
    const experts = given.own("expert_count") ?? 0;
    if (experts > 0) throw given.refusal(`a mixture of ${experts} experts in the blocks of a Llama (Mixtral)`);
    return givenBiases(given);
  },
};

/** Refuses biases, which llama.cpp has no place for in some architectures. */
export function refuseBiases(architecture: string): (config: ModelConfig) => void {
  return ({ attentionBias, attentionOutputBias, mlpBias }) => {
    if (attentionBias || attentionOutputBias || mlpBias)
      throw new UserError(`llama.cpp's ${architecture} models have no biases in attention and in the MLP`);
  };
}

/** Refuses heads that are not equal parts of the hidden size. */
export function refuseOtherHeads(architecture: string): (config: ModelConfig) => void {
  return ({ heads, headDim, hiddenSize }) => {
    if (heads * headDim !== hiddenSize)
      throw new UserError(
        `llama.cpp's ${architecture} models have heads of hidden_size / num_attention_heads features, not ${headDim}`,
      );
  };
}

/** Blocks of the Llama kind: a norm in front of attention and of the gated MLP, with the options of `ModelConfig`. */
export function llamaLayers(config: ModelConfig): Layer[] {
  return Array.from({ length: config.layers }, (_, layer) => {
    const settings = attentionOf(config, layer);
    return attentionLayer(settings, (parts) =>
      residual(
        parts,
        { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x) },
        { norm: "post_attention_layernorm", add: (x) => gatedMlp(parts, x) },
      ),
    );
  });
}

/** Llama (Touvron et al. 2023, https://arxiv.org/abs/2302.13971) and SmolLM2. A `sliding_window` is ignored, as in Transformers. */
export const llama: Family = {
  type: "llama",
  architecture: "LlamaForCausalLM",
  models: ["Llama (SmolLM2 included)"],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "llama",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
      biases: layerBiases,
    }),
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: LLAMA_GGUF,
};
