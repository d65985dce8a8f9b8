import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { fusedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family, FamilyModules, GgufFacts, Raw } from "../family.ts";
import { LLAMA_MODULES, refuseOtherHeads } from "../llama/llama.ts";
import { readDecoder, type ReadingRules } from "../reading/common.ts";
import { givenAttentionBias, givenRotary } from "../reading/gguf.ts";

/** Transformers' defaults where the config.json of a GLM is silent. */
export function withGlmDefaults(raw: Raw): Raw {
  return {
    rms_norm_eps: 1.5625e-7,
    attention_bias: true,
    pad_token_id: 151_329,
    ...raw,
    eos_token_id: raw["eos_token_id"] ?? [151_329, 151_336, 151_338],
  };
}

export function glmRules(family: string): ReadingRules {
  return {
    family,
    defaults: { maxPositions: 131_072, kvHeads: 2, headDim: 128, bos: null, eos: null },
    biases: ({ attention_bias: attention }) => ({ attentionBias: attention, attentionOutputBias: false, mlpBias: false }),
    partialRotary: 0.5,
    more: () => ({ rotatesNeighbours: true }),
  };
}

export const GLM_MODULES: FamilyModules = {
  ...LLAMA_MODULES,
  linear: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"],
};

/** How llama.cpp has a GLM. */
export const GLM_GGUF: GgufFacts = {
  architecture: "chatglm",
  modules: {
    input_layernorm: "attn_norm",
    post_attention_layernorm: "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    // Gate and up, one after the other.
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
  },
  rotatesNeighbours: true,
  activation: "silu",
  window: "unknown",
  scalings: [],
  keys: (given) => ({ ...givenAttentionBias(given), ...givenRotary(given) }),
};

/**
 * GLM-4 of 2024 as Transformers has it, and GLM-Edge (https://arxiv.org/abs/2406.12793): half of each head is rotated, neighbouring features
 * with each other; gate and up are one matrix.
 */
export const glm: Family = {
  type: "glm",
  architecture: "GlmForCausalLM",
  models: ["GLM-Edge"],
  read: (raw, where, generation) => readDecoder(withGlmDefaults(raw), where, generation, glmRules("glm")),
  modules: GLM_MODULES,
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x) },
          { norm: "post_attention_layernorm", add: (x) => fusedMlp(parts, x) },
        ),
      );
    }),
  gguf: { ...GLM_GGUF, check: refuseOtherHeads("chatglm") },
};
