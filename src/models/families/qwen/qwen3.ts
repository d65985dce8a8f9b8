import type { Family, Raw } from "../family.ts";
import { LLAMA_GGUF, llamaLayers, MODULES_WITH_QUERIES } from "../llama/llama.ts";
import { QWEN_NAMES, qwenWindow } from "./qwen2.ts";
import { attentionBiases, readDecoder } from "../reading/common.ts";
import { textPart } from "../reading/wrapped.ts";
import { givenAttentionBias } from "../reading/gguf.ts";

/** The text part of a Qwen3-VL (https://arxiv.org/abs/2511.21631), in whose texts all rotary positions count in one direction. */
function textOf(raw: Raw, where: string): Raw {
  const text = textPart(raw, where);
  return {
    max_position_embeddings: 128_000,
    ...text,
    head_dim: text["head_dim"] ?? 128,
    rope_theta: text["rope_theta"] ?? 500_000,
    tie_word_embeddings: raw["tie_word_embeddings"] ?? false,
    sliding_window: null,
  };
}

/** Qwen3, dense (https://arxiv.org/abs/2505.09388): a Llama whose query and key heads are normed. */
export const qwen3: Family = {
  type: "qwen3",
  architecture: "Qwen3ForCausalLM",
  models: ["Qwen3", "Qwen3-VL"],
  wrappers: [{ type: "qwen3_vl", text: textOf, ...QWEN_NAMES }],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "qwen3",
      defaults: { maxPositions: 32_768, kvHeads: 32, headDim: 128, bos: null, eos: null },
      biases: attentionBiases,
      window: qwenWindow,
      more: () => ({ qkNorm: "heads" }),
    }),
  modules: MODULES_WITH_QUERIES,
  layers: llamaLayers,
  gguf: { ...LLAMA_GGUF, architecture: "qwen3", rotatesNeighbours: false, scalings: [], keys: givenAttentionBias },
};
