import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import type { Layer } from "../../blocks/layer.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family, GgufFacts, Raw } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, refuseBiases } from "../llama/llama.ts";
import { attentionBiases, readDecoder, type ReadingRules } from "../reading/common.ts";
import { givenAttentionBias } from "../reading/gguf.ts";

/** Transformers' defaults where the config.json of an OLMo 2 or 3 is silent. */
export const OLMO_DEFAULTS: Raw = { rms_norm_eps: 1e-5, pad_token_id: 1 };

/** The rules of OLMo 2 and 3, but for `family` and what windows there are. */
export function olmoRules(family: string): ReadingRules {
  return {
    family,
    defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: null, eos: 50_279 },
    biases: attentionBiases,
    more: () => ({ qkNorm: "row" }),
  };
}

/** Blocks without norms in front of attention and MLP: what these give is normed before it is added. */
export function postNormLayers(config: ModelConfig): Layer[] {
  return Array.from({ length: config.layers }, (_, layer) => {
    const settings = attentionOf(config, layer);
    return attentionLayer(settings, (parts) =>
      residual(
        parts,
        { norm: null, add: (x) => selfAttention(parts, settings, x), after: "post_attention_layernorm" },
        { norm: null, add: (x) => gatedMlp(parts, x), after: "post_feedforward_layernorm" },
      ),
    );
  });
}

const { input_layernorm: _, ...OTHERS } = LLAMA_GGUF.modules;

/** llama.cpp's names of such blocks' modules. */
export const POST_NORM_GGUF: GgufFacts = {
  ...LLAMA_GGUF,
  modules: { ...OTHERS, post_attention_layernorm: "post_attention_norm", post_feedforward_layernorm: "post_ffw_norm" },
  rotatesNeighbours: false,
  scalings: [],
};

/** A file that names a window is an OLMo 3. */
const olmo2Keys: GgufFacts["keys"] = (given) => (given.own("attention.sliding_window") ? null : givenAttentionBias(given));

/** OLMo 2 (https://arxiv.org/abs/2501.00656): norms behind the branches, and of queries and keys, of all their heads together. */
export const olmo2: Family = {
  type: "olmo2",
  architecture: "Olmo2ForCausalLM",
  models: ["OLMo 2"],
  read: (raw, where, generation) => readDecoder({ ...OLMO_DEFAULTS, ...raw }, where, generation, olmoRules("olmo2")),
  modules: LLAMA_MODULES,
  layers: postNormLayers,
  gguf: { ...POST_NORM_GGUF, architecture: "olmo2", keys: olmo2Keys, check: refuseBiases("olmo2") },
};
