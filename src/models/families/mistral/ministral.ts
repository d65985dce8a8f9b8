import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "../llama/llama.ts";
import { noBiases, readDecoder, windowByTypes, windowEverywhere } from "../reading/common.ts";

/** Ministral: a Mistral with the window in the layers that `layer_types` marks, without such a list in all. */
export const ministral: Family = {
  type: "ministral",
  architecture: "MinistralForCausalLM",
  models: ["Ministral"],
  read: (raw, where, generation) =>
    readDecoder({ sliding_window: 4096, ...raw }, where, generation, {
      family: "ministral",
      defaults: { maxPositions: 131_072, kvHeads: 8, headDim: null, bos: 1, eos: 2 },
      biases: noBiases,
      window: (config) =>
        config.layer_types
          ? windowByTypes(config.layer_types, config, where)
          : windowEverywhere(config.sliding_window, config.num_hidden_layers),
    }),
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: LLAMA_GGUF,
};
