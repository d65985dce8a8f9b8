import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith, size } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, fusedAttention } from "../../blocks/attention.ts";
import { plainMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { readDecoder } from "../reading/common.ts";

const ownSchema = z.object({
  n_embd: size.default(768),
  n_layer: size.default(12),
  n_head: size.default(12),
  n_inner: size.nullish(),
  n_positions: size.default(1024),
  activation_function: z.string().default("gelu_new"),
  layer_norm_epsilon: z.number().nonnegative().default(1e-5),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
  add_cross_attention: z.boolean().default(false),
});

/** @throws {UserError} models that are built otherwise */
function checkPlain(own: z.infer<typeof ownSchema>, where: string): void {
  for (const key of ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] as const)
    if (own[key]) throw new UserError(`${where}: ${key} true is not supported; expected false`);
}

/**
 * GPT-2 (Radford et al. 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf): LayerNorm,
 * learned positions, an MLP without a gate, biases everywhere. The matrices of its blocks are stored transposed.
 */
export const gpt2: Family = {
  type: "gpt2",
  architecture: "GPT2LMHeadModel",
  classifier: "GPT2ForSequenceClassification",
  bare: "GPT2Model",
  models: ["GPT-2"],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    checkPlain(own, where);
    const plain = {
      vocab_size: 50_257,
      tie_word_embeddings: true,
      ...raw,
      hidden_size: own.n_embd,
      num_hidden_layers: own.n_layer,
      num_attention_heads: own.n_head,
      intermediate_size: own.n_inner ?? 4 * own.n_embd,
      max_position_embeddings: own.n_positions,
      hidden_act: own.activation_function,
      num_key_value_heads: undefined,
      head_dim: undefined,
      rms_norm_eps: own.layer_norm_epsilon,
    };
    return readDecoder(plain, where, generation, {
      family: "gpt2",
      defaults: { maxPositions: 1024, kvHeads: null, headDim: null, bos: 50_256, eos: 50_256 },
      learnsPositions: true,
      keys: { hidden_act: "activation_function", hidden_size: "n_embd", num_attention_heads: "n_head" },
      biases: () => ({ attentionBias: true, attentionOutputBias: true, mlpBias: true }),
      more: () => ({
        norm: "layer",
        modulePrefix: "transformer.",
        storedTransposed: true,
        positionTable: { rows: own.n_positions, first: 0 },
        ...(own.scale_attn_weights ? {} : { attentionScale: 1 }),
      }),
    });
  },
  modules: {
    embedding: "wte",
    positions: "wpe",
    norm: "ln_f",
    head: "lm_head",
    linear: ["c_attn", "c_proj", "c_fc"],
    scaled: { outputs: ["c_attn"], inputs: [] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      const names = { qkv: "attn.c_attn", output: "attn.c_proj", groups: 1 };
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "ln_1", add: (x) => fusedAttention(parts, settings, x, names) },
          { norm: "ln_2", add: (x) => plainMlp(parts, x, { up: "mlp.c_fc", down: "mlp.c_proj" }) },
        ),
      );
    }),
  gguf: {
    architecture: "gpt2",
    modules: {
      ln_1: "attn_norm",
      ln_2: "ffn_norm",
      "attn.c_attn": { name: "attn_qkv", isTransposed: true },
      "attn.c_proj": { name: "attn_output", isTransposed: true },
      "mlp.c_fc": { name: "ffn_up", isTransposed: true },
      "mlp.c_proj": { name: "ffn_down", isTransposed: true },
    },
    others: { wpe: { name: "position_embd", isFull: true } },
    rotatesNeighbours: false,
    activation: "gelu_pytorch_tanh",
    window: "unknown",
    scalings: [],
    keys: ({ hiddenSize, layers, heads, epsilon, need }) => ({
      n_embd: hiddenSize,
      n_layer: layers,
      n_head: heads,
      n_inner: need("feed_forward_length"),
      n_positions: need("context_length"),
      activation_function: "gelu_new",
      layer_norm_epsilon: epsilon,
    }),
    check({ attentionScale, headDim }) {
      if (attentionScale === 1 && headDim > 1)
        throw new UserError("llama.cpp's gpt2 models have scale_attn_weights true, not false");
    },
  },
};
