import { z } from "zod";
import { parseWith, positive } from "../../../base/schema.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family, GgufFacts, Raw } from "../family.ts";
import { layerBiases, readDecoder } from "../reading/common.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "./llama.ts";
import { givenBiases } from "../reading/gguf.ts";

const ownSchema = z.object({
  embedding_multiplier: positive.default(1),
  attention_multiplier: positive.default(1),
  residual_multiplier: positive.default(1),
  logits_scaling: positive.default(1),
});

/** A Granite's factors. @throws {UserError} */
export function factorsOf(raw: Raw, where: string): Partial<ModelConfig> {
  const own = parseWith(ownSchema, raw, where);
  return {
    embeddingScale: own.embedding_multiplier,
    attentionScale: own.attention_multiplier,
    residualScale: own.residual_multiplier,
    logitScale: 1 / own.logits_scaling,
  };
}

export const GRANITE_GGUF: GgufFacts = {
  ...LLAMA_GGUF,
  architecture: "granite",
  settings: ({ embeddingScale, attentionScale, residualScale, logitScale }) => ({
    "attention.scale": { f32: attentionScale },
    embedding_scale: { f32: embeddingScale },
    residual_scale: { f32: residualScale },
    logit_scale: { f32: 1 / logitScale },
  }),
  keys: (given) => ({
    ...givenBiases(given),
    embedding_multiplier: given.own("embedding_scale") ?? 1,
    attention_multiplier: given.own("attention.scale") ?? 1 / Math.sqrt(given.headDim),
    residual_multiplier: given.own("residual_scale") ?? 1,
    logits_scaling: given.own("logit_scale") ?? 1,
  }),
};

/** Granite 3, dense (IBM 2024, https://github.com/ibm-granite/granite-3.0-language-models): a Llama with four factors. */
export const granite: Family = {
  type: "granite",
  architecture: "GraniteForCausalLM",
  classifier: null,
  models: ["Granite 3"],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "granite",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
      biases: layerBiases,
      more: () => factorsOf(raw, where),
    }),
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: GRANITE_GGUF,
};
