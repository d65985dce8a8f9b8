import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { parseWith, size } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { plainMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { readDecoder } from "../reading/common.ts";

/** The row of the table of positions that a text's first token has. */
const FIRST = 2;

const ownSchema = z.object({
  hidden_size: size.default(768),
  ffn_dim: size.default(3072),
  word_embed_proj_dim: size.nullish(),
  max_position_embeddings: size.default(2048),
  enable_bias: z.boolean().default(true),
  activation_function: z.string().default("relu"),
});

/** Flags of models that are built otherwise, and what they are here. */
const USUAL = { do_layer_norm_before: true, _remove_final_layer_norm: false, layer_norm_elementwise_affine: true } as const;

const ATTENTION = {
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.out_proj",
};

/** OPT (https://arxiv.org/abs/2205.01068): LayerNorm, learned positions that begin at row 2 of their table, ReLU, biases everywhere. */
export const opt: Family = {
  type: "opt",
  architecture: "OPTForCausalLM",
  models: ["OPT"],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    for (const [key, value] of Object.entries(USUAL))
      if ((raw[key] ?? value) !== value)
        throw new UserError(`${where}: ${key} ${show(raw[key])} is not supported; expected ${value}`);
    if ((own.word_embed_proj_dim ?? own.hidden_size) !== own.hidden_size)
      throw new UserError(
        `${where}: word_embed_proj_dim (${own.word_embed_proj_dim}) differs from hidden_size (${own.hidden_size}), which is not supported`,
      );
    const plain = {
      tie_word_embeddings: true,
      pad_token_id: 1,
      ...raw,
      hidden_size: own.hidden_size,
      intermediate_size: own.ffn_dim,
      hidden_act: own.activation_function,
      num_key_value_heads: undefined,
      head_dim: undefined,
      rms_norm_eps: 1e-5,
    };
    return readDecoder(plain, where, generation, {
      family: "opt",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 2, eos: 2 },
      learnsPositions: true,
      keys: { hidden_act: "activation_function", intermediate_size: "ffn_dim" },
      biases: () => ({ attentionBias: own.enable_bias, attentionOutputBias: own.enable_bias, mlpBias: own.enable_bias }),
      more: () => ({
        norm: "layer",
        modulePrefix: "model.decoder.",
        positionTable: { rows: own.max_position_embeddings + FIRST, first: FIRST },
      }),
    });
  },
  modules: {
    embedding: "embed_tokens",
    positions: "embed_positions",
    norm: "final_layer_norm",
    head: "lm_head",
    linear: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    scaled: { outputs: ["q_proj", "k_proj"], inputs: ["fc2"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "self_attn_layer_norm", add: (x) => selfAttention(parts, settings, x, ATTENTION) },
          { norm: "final_layer_norm", add: (x) => plainMlp(parts, x, { up: "fc1", down: "fc2" }) },
        ),
      );
    }),
  gguf: null,
};
