import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "../llama/llama.ts";
import { NO_WINDOW, readDecoder, type ReadingRules, windowByLayer } from "../reading/common.ts";

/** A window on request only: `use_sliding_window`, 4096 tokens where `sliding_window` is not there. */
export const qwenWindow: NonNullable<ReadingRules["window"]> = (config, where) => {
  const { sliding_window: size = 4096, use_sliding_window: isUsed } = config;
  return isUsed ? windowByLayer(size, config, where) : NO_WINDOW;
};

/** Qwen2 and 2.5 (https://arxiv.org/abs/2412.15115): a Llama with biases on queries, keys and values. */
export const qwen2: Family = {
  type: "qwen2",
  architecture: "Qwen2ForCausalLM",
  models: ["Qwen2", "Qwen2.5"],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "qwen2",
      defaults: { maxPositions: 32_768, kvHeads: 32, headDim: null, bos: null, eos: null },
      biases: () => ({ attentionBias: true, attentionOutputBias: false, mlpBias: false }),
      window: qwenWindow,
    }),
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: { ...LLAMA_GGUF, architecture: "qwen2", rotatesNeighbours: false, scalings: [] },
};
