import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith } from "../../../base/schema.ts";
import type { Family, GgufSetting } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "../llama/llama.ts";
import { noBiases, readDecoder, windowEverywhere } from "../reading/common.ts";
import { ropeOf } from "../reading/rope.ts";
import { mistral3 } from "./mistral.ts";

/** The rotary scaling of a configuration that has none. */
const ROPE = {
  rope_type: "yarn",
  rope_theta: 1_000_000,
  factor: 16,
  original_max_position_embeddings: 16_384,
  beta_fast: 32,
  beta_slow: 1,
  mscale_all_dim: 1,
  mscale: 1,
  llama_4_scaling_beta: 0.1,
};

const growthSchema = z.object({
  llama_4_scaling_beta: z.number().nullish(),
  original_max_position_embeddings: z.int().positive().nullish(),
});

/**
 * Ministral 3 (Mistral AI 2025, https://mistral.ai/news/mistral-3): a Mistral whose queries at position p are multiplied by
 * 1 + beta ln(1 + floor(p / length of pre-training)).
 */
export const ministral3: Family = {
  type: "ministral3",
  architecture: "Ministral3ForCausalLM",
  models: ["Ministral 3"],
  wrappers: [mistral3("ministral3")],
  read(raw, where, generation) {
    // A null head_dim is hidden_size / num_attention_heads, unlike an absent one.
    const { hidden_size: hidden, num_attention_heads: heads } = raw;
    const headDim = raw["head_dim"] === null ? Number(hidden) / Number(heads) : raw["head_dim"];
    const rope = raw["rope_scaling"] ?? raw["rope_parameters"] ?? ROPE;
    const plain = {
      rms_norm_eps: 1e-5,
      sliding_window: null,
      pad_token_id: 11,
      ...raw,
      head_dim: headDim,
      rope_scaling: undefined,
      rope_parameters: rope,
    };
    return readDecoder(plain, where, generation, {
      family: "ministral3",
      defaults: { maxPositions: 262_144, kvHeads: 8, headDim: 128, bos: 1, eos: 2 },
      biases: noBiases,
      window: ({ sliding_window: size, num_hidden_layers: layers }) => windowEverywhere(size, layers),
      more(config) {
        const { llama_4_scaling_beta: beta, original_max_position_embeddings: every } = parseWith(growthSchema, rope, where);
        if (!beta) return {};
        if (!every) throw new UserError(`${where}: llama_4_scaling_beta needs original_max_position_embeddings`);
        return { queryRope: { ...ropeOf(config, config.max_position_embeddings ?? 262_144, where), growth: { beta, every } } };
      },
    });
  },
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: {
    ...LLAMA_GGUF,
    architecture: "mistral3",
    scalings: [],
    keys({ own }) {
      const beta = own("attention.temperature_scale");
      return beta ? { rope_scaling: { llama_4_scaling_beta: beta } } : {};
    },
    settings: ({ queryRope }): Readonly<Record<string, GgufSetting>> =>
      queryRope?.growth ? { "attention.temperature_scale": { f32: queryRope.growth.beta } } : {},
    check({ queryRope, rope: { scaling } }) {
      // There the growth begins behind the context that YaRN names.
      if (!queryRope?.growth || (scaling.type === "yarn" && scaling.originalMaxPositions === queryRope.growth.every)) return;
      throw new UserError("llama.cpp's mistral3 models have queries that grow with yarn scaling only");
    },
  },
};
