import type { Family, FamilyModules } from "../family.ts";
import { readEncoder } from "../reading/encoder.ts";
import { BERT_MODULES, BERT_TABLES, bertLayers } from "./bert.ts";

const MODULES: FamilyModules = {
  ...BERT_MODULES,
  head: "lm_head.decoder",
  encoder: {
    ...BERT_TABLES,
    transform: { dense: "lm_head.dense", denseBias: true, norm: "lm_head.layer_norm", bias: "lm_head.bias", activation: "gelu" },
    textHead: {
      output: "classifier.out_proj",
      bias: true,
      dense: { module: "classifier.dense", bias: true, activation: "tanh", norm: null, saved: null },
      saved: "classifier",
    },
  },
};

/** RoBERTa (Liu et al. 2019, https://arxiv.org/abs/1907.11692): a BERT whose first position is the row behind that of padding. */
export const roberta: Family = {
  type: "roberta",
  architecture: "RobertaForMaskedLM",
  models: ["RoBERTa"],
  read: (raw, where) =>
    readEncoder({ vocab_size: 50_265, bos_token_id: 0, eos_token_id: 2, ...raw }, where, {
      family: "roberta",
      modulePrefix: "roberta.",
      predicting: ["RobertaForMaskedLM"],
      padId: 1,
      positionsBehindPadding: true,
    }),
  modules: MODULES,
  layers: bertLayers,
  gguf: null,
  ggufEncoder: "bert",
};

/** XLM-RoBERTa (Conneau et al. 2019, https://arxiv.org/abs/1911.02116): a RoBERTa with another tokenizer. */
export const xlmRoberta: Family = {
  type: "xlm-roberta",
  architecture: "XLMRobertaForMaskedLM",
  models: ["XLM-RoBERTa"],
  read: (raw, where) =>
    readEncoder({ bos_token_id: 0, eos_token_id: 2, ...raw }, where, {
      family: "xlm-roberta",
      modulePrefix: "roberta.",
      predicting: ["XLMRobertaForMaskedLM"],
      padId: 1,
      positionsBehindPadding: true,
    }),
  modules: MODULES,
  layers: bertLayers,
  gguf: null,
  ggufEncoder: "bert",
};
