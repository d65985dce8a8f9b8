import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith } from "../../../base/schema.ts";
import type { Family } from "../family.ts";
import { readDecoder } from "../reading/common.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "./llama.ts";
import { givenBiases } from "../reading/gguf.ts";

const ownSchema = z.object({ attention_out_bias: z.boolean().default(false) });

/**
 * Seed-OSS (ByteDance 2025, https://github.com/ByteDance-Seed/seed-oss): a Llama with biases on queries, keys and values, and a flag of its
 * own for the one on the output. Its two dropouts are not applied, as nothing of the kind is elsewhere.
 */
export const seedOss: Family = {
  type: "seed_oss",
  architecture: "SeedOssForCausalLM",
  models: ["Seed-OSS"],
  read(raw, where, generation) {
    // A null head_dim is hidden_size / num_attention_heads, unlike an absent one.
    const { hidden_size: hidden, num_attention_heads: heads } = raw;
    const headDim = raw["head_dim"] === null ? Number(hidden) / Number(heads) : raw["head_dim"];
    const plain = { pad_token_id: 1, attention_bias: true, ...raw, head_dim: headDim };
    return readDecoder(plain, where, generation, {
      family: "seed_oss",
      defaults: { maxPositions: 524_288, kvHeads: 8, headDim: 128, bos: 0, eos: 2 },
      biases: ({ attention_bias: attention, mlp_bias: mlp }) => ({
        attentionBias: attention,
        attentionOutputBias: parseWith(ownSchema, raw, where).attention_out_bias,
        mlpBias: mlp,
      }),
    });
  },
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: {
    ...LLAMA_GGUF,
    architecture: "seed_oss",
    modules: { ...LLAMA_GGUF.modules, post_attention_layernorm: "post_attention_norm" },
    rotatesNeighbours: false,
    scalings: [],
    keys: (given) => ({ ...givenBiases(given), attention_out_bias: given.hasTensor("blk.0.attn_output.bias") }),
    check({ rope: { scaling }, attentionOutputBias, mlpBias }) {
      const refuse = (what: string) => new UserError(`llama.cpp's seed_oss models have ${what}`);
      if (scaling.type === "llama3") throw refuse("no llama3 scaling");
      if (attentionOutputBias || mlpBias) throw refuse("no biases on the output of attention and in the MLP");
    },
  },
};
