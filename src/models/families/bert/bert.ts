import { encoderLayers } from "../../blocks/encoder.ts";
import type { Family, FamilyModules } from "../family.ts";
import { readEncoder } from "../reading/encoder.ts";

/** Names of the modules of a block, in BERT and its kin. */
const BLOCK = {
  attention: {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
  },
  attentionNorm: "attention.output.LayerNorm",
  up: "intermediate.dense",
  down: "output.dense",
  outputNorm: "output.LayerNorm",
} as const;

/** The modules that BERT and RoBERTa have in common. */
export const BERT_MODULES: Omit<FamilyModules, "head" | "encoder"> = {
  embedding: "embeddings.word_embeddings",
  positions: "embeddings.position_embeddings",
  linear: ["query", "key", "value", "dense"],
  scaled: { outputs: ["key", "value"], inputs: [] },
};

export const BERT_TABLES = {
  types: "embeddings.token_type_embeddings",
  norm: "embeddings.LayerNorm",
  finalNorm: null,
} as const;

export const bertLayers: Family["layers"] = encoderLayers(BLOCK);

/** BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), and with it MiniLM, BGE, E5, GTE and others that are saved as one. */
export const bert: Family = {
  type: "bert",
  architecture: "BertForMaskedLM",
  aliases: ["BertForPreTraining"],
  models: ["BERT"],
  read: (raw, where) =>
    readEncoder(raw, where, {
      family: "bert",
      modulePrefix: "bert.",
      predicting: ["BertForMaskedLM", "BertForPreTraining"],
      padId: 0,
      positionsBehindPadding: false,
    }),
  modules: {
    ...BERT_MODULES,
    head: "cls.predictions.decoder",
    encoder: {
      ...BERT_TABLES,
      transform: {
        dense: "cls.predictions.transform.dense",
        denseBias: true,
        norm: "cls.predictions.transform.LayerNorm",
        bias: "cls.predictions.bias",
        activation: null,
      },
      textHead: {
        output: "classifier",
        bias: true,
        dense: { module: "bert.pooler.dense", bias: true, activation: "tanh", norm: null, saved: "bert.pooler.dense" },
        saved: "classifier",
      },
    },
  },
  layers: bertLayers,
  gguf: null,
  ggufEncoder: "bert",
  tokenizerClass: "BertTokenizer",
};
