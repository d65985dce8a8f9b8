import { z } from "zod";
import { parseWith } from "../../../base/schema.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers, refuseBiases } from "../llama/llama.ts";
import { readDecoder } from "../reading/common.ts";

const ownSchema = z.object({ use_bias: z.boolean().nullish() });

/** ERNIE 4.5, dense (Baidu 2025, https://github.com/PaddlePaddle/ERNIE): a Llama in which neighbouring features are rotated. */
export const ernie45: Family = {
  type: "ernie4_5",
  architecture: "Ernie4_5ForCausalLM",
  classifier: null,
  models: ["ERNIE 4.5 (dense)"],
  read(raw, where, generation) {
    const plain = {
      rms_norm_eps: 1e-5,
      tie_word_embeddings: true,
      pad_token_id: 0,
      ...raw,
      rope_theta: raw["rope_theta"] ?? 500_000,
    };
    // A null head_dim is hidden_size / num_attention_heads, unlike an absent one.
    const { hidden_size: hidden, num_attention_heads: heads } = raw;
    const headDim = raw["head_dim"] === null ? Number(hidden) / Number(heads) : raw["head_dim"];
    return readDecoder({ ...plain, head_dim: headDim }, where, generation, {
      family: "ernie4_5",
      defaults: { maxPositions: 131_072, kvHeads: 2, headDim: 128, bos: 1, eos: 2 },
      biases() {
        const bias = parseWith(ownSchema, raw, where).use_bias ?? false;
        return { attentionBias: bias, attentionOutputBias: bias, mlpBias: bias };
      },
      more: () => ({ rotatesNeighbours: true }),
    });
  },
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: {
    ...LLAMA_GGUF,
    architecture: "ernie4_5",
    scalings: [],
    keys: () => ({ use_bias: false }),
    check: refuseBiases("ernie4_5"),
  },
};
