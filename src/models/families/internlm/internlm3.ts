import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "../llama/llama.ts";
import { readDecoder } from "../reading/common.ts";

/** InternLM3: a Llama whose `qkv_bias` is of queries, keys and values, and `bias` of the other linear layers. */
export const internlm3: Family = {
  type: "internlm3",
  architecture: "InternLM3ForCausalLM",
  classifier: null,
  // Transformers 5 has no class for it.
  aliases: ["LlamaForCausalLM", "LlamaModel"],
  models: ["InternLM3"],
  read(raw, where, generation) {
    const plain = {
      rms_norm_eps: 1e-5,
      ...raw,
      attention_bias: raw["qkv_bias"] ?? raw["attention_bias"],
      mlp_bias: raw["bias"] ?? raw["mlp_bias"],
    };
    return readDecoder(plain, where, generation, {
      family: "internlm3",
      defaults: { maxPositions: 32_768, kvHeads: 2, headDim: 128, bos: 1, eos: 2 },
      biases: ({ attention_bias: attention, mlp_bias: other }) => ({
        attentionBias: attention,
        attentionOutputBias: other,
        mlpBias: other,
      }),
    });
  },
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: LLAMA_GGUF,
};
