import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "../llama/llama.ts";
import { qwenWindow } from "./qwen2.ts";
import { readDecoder } from "../reading/common.ts";

/** Qwen3, dense (https://arxiv.org/abs/2505.09388): a Llama whose query and key heads are normed. */
export const qwen3: Family = {
  type: "qwen3",
  architecture: "Qwen3ForCausalLM",
  models: ["Qwen3"],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "qwen3",
      defaults: { maxPositions: 32_768, kvHeads: 32, headDim: 128, bos: null, eos: null },
      biases: ({ attention_bias: attention }) => ({
        attentionBias: attention,
        attentionOutputBias: attention,
        mlpBias: false,
      }),
      window: qwenWindow,
      more: () => ({ qkNorm: true }),
    }),
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: { ...LLAMA_GGUF, architecture: "qwen3", rotatesNeighbours: false, scalings: [] },
};
