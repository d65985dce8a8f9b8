import { isRecord } from "../../../base/json.ts";
import type { Family, Raw, Wrapper } from "../family.ts";
import { LLAMA_GGUF, llamaLayers, MODULES_WITH_QUERIES } from "../llama/llama.ts";
import { NO_WINDOW, readDecoder, type ReadingRules, windowByLayer } from "../reading/common.ts";
import { TEXT_PREFIX, textPart } from "../reading/wrapped.ts";

/** A window on request only: `use_sliding_window`, 4096 tokens where `sliding_window` is not there. */
export const qwenWindow: NonNullable<ReadingRules["window"]> = (config, where) => {
  const { sliding_window: size = 4096, use_sliding_window: isUsed } = config;
  return isUsed ? windowByLayer(size, config, where) : NO_WINDOW;
};

/**
 * The text part of a Qwen2.5-VL (https://arxiv.org/abs/2502.13923). Published files have its keys beside those of the other part. Rotary
 * positions in three directions are the same as in one where there is only text.
 */
function textOf(raw: Raw, where: string): Raw {
  const text = textPart(raw, where, raw["text_config"] ?? raw);
  const plain = (rope: unknown): unknown =>
    isRecord(rope) && (rope["rope_type"] ?? rope["type"]) === "mrope" ? { ...rope, rope_type: "default" } : rope;
  return {
    rms_norm_eps: 1e-5,
    num_key_value_heads: 8,
    max_window_layers: 80,
    bos_token_id: 151_643,
    eos_token_id: 151_645,
    ...text,
    rope_theta: text["rope_theta"] ?? 1_000_000,
    rope_scaling: plain(text["rope_scaling"]),
    rope_parameters: plain(text["rope_parameters"]),
    tie_word_embeddings: raw["tie_word_embeddings"] === true || text["tie_word_embeddings"] === true,
  };
}

/** The begins of names of a Qwen with images, in files and in the modules. */
export const QWEN_NAMES: Pick<Wrapper, "modulePrefix" | "renamed" | "vision"> = {
  modulePrefix: TEXT_PREFIX,
  renamed: [["visual.", "model.visual."]],
  vision: ["model.visual."],
};

/** Qwen2 and 2.5 (https://arxiv.org/abs/2412.15115): a Llama with biases on queries, keys and values. */
export const qwen2: Family = {
  type: "qwen2",
  architecture: "Qwen2ForCausalLM",
  models: ["Qwen2", "Qwen2.5", "Qwen2.5-VL"],
  wrappers: [{ type: "qwen2_5_vl", text: textOf, ...QWEN_NAMES }],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, {
      family: "qwen2",
      defaults: { maxPositions: 32_768, kvHeads: 32, headDim: null, bos: null, eos: null },
      biases: () => ({ attentionBias: true, attentionOutputBias: false, mlpBias: false }),
      window: qwenWindow,
    }),
  modules: MODULES_WITH_QUERIES,
  layers: llamaLayers,
  gguf: {
    ...LLAMA_GGUF,
    architecture: "qwen2",
    rotatesNeighbours: false,
    scalings: [],
    keys: () => ({ use_sliding_window: false }),
  },
};
