import { encoderLayers } from "../../blocks/encoder.ts";
import type { Family } from "../family.ts";
import { readEncoder } from "../reading/encoder.ts";

const BLOCK = {
  attention: { query: "attention.q_lin", key: "attention.k_lin", value: "attention.v_lin", output: "attention.out_lin" },
  attentionNorm: "sa_layer_norm",
  up: "ffn.lin1",
  down: "ffn.lin2",
  outputNorm: "output_layer_norm",
} as const;

/**
 * DistilBERT (Sanh et al. 2019, https://arxiv.org/abs/1910.01108): a BERT without types, under names of its own. Positions that were made of sines are
 * stored as a table all the same.
 */
export const distilbert: Family = {
  type: "distilbert",
  architecture: "DistilBertForMaskedLM",
  models: ["DistilBERT"],
  read(raw, where) {
    const plain = {
      ...raw,
      hidden_size: raw["dim"] ?? 768,
      num_hidden_layers: raw["n_layers"] ?? 6,
      num_attention_heads: raw["n_heads"] ?? 12,
      intermediate_size: raw["hidden_dim"] ?? 3072,
      hidden_act: raw["activation"] ?? "gelu",
      layer_norm_eps: 1e-12,
      type_vocab_size: 0,
    };
    return readEncoder(plain, where, {
      family: "distilbert",
      modulePrefix: "distilbert.",
      predicting: ["DistilBertForMaskedLM"],
      padId: 0,
      positionsBehindPadding: false,
    });
  },
  modules: {
    embedding: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    head: "vocab_projector",
    linear: ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    scaled: { outputs: ["k_lin", "v_lin"], inputs: ["lin2"] },
    encoder: {
      types: null,
      norm: "embeddings.LayerNorm",
      finalNorm: null,
      transform: {
        dense: "vocab_transform",
        denseBias: true,
        norm: "vocab_layer_norm",
        bias: "vocab_projector.bias",
        activation: null,
      },
      textHead: {
        output: "classifier",
        bias: true,
        dense: { module: "pre_classifier", bias: true, activation: "relu", norm: null, saved: null },
        saved: "classifier",
      },
    },
  },
  layers: encoderLayers(BLOCK),
  gguf: null,
};
