import type { Family, Wrapper } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "../llama/llama.ts";
import { noBiases, readDecoder, windowEverywhere } from "../reading/common.ts";
import { LLAVA_NAMES, textPart } from "../reading/wrapped.ts";

/** The text part of a Mistral Small 3.1 or a Ministral 3 with images. Versions differ in where they say that the embedding is the head. */
export function mistral3(textType: string): Wrapper {
  return {
    type: "mistral3",
    textType,
    text(raw, where) {
      const text = textPart(raw, where);
      return { ...text, tie_word_embeddings: raw["tie_word_embeddings"] ?? text["tie_word_embeddings"] ?? true };
    },
    ...LLAVA_NAMES,
  };
}

/** Mistral (Jiang et al. 2023, https://arxiv.org/abs/2310.06825): a Llama without biases and with a window in all layers. */
export const mistral: Family = {
  type: "mistral",
  architecture: "MistralForCausalLM",
  models: ["Mistral"],
  wrappers: [mistral3("mistral")],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "mistral",
      defaults: { maxPositions: 131_072, kvHeads: 8, headDim: null, bos: 1, eos: 2 },
      biases: noBiases,
      window: ({ sliding_window: size = 4096, num_hidden_layers: layers }) => windowEverywhere(size, layers),
    }),
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: LLAMA_GGUF,
};
