import { isRecord } from "../../../base/json.ts";
import type { EncoderConfig, ModelConfig } from "../../config.ts";
import type { Family, Raw } from "../family.ts";
import { GEMMA_DEFAULTS, gemmaGguf, gemmaLayers, gemmaRules, plainGemma } from "./gemma2.ts";
import { MODULES_WITH_QUERIES } from "../llama/llama.ts";
import { readDecoder } from "../reading/common.ts";
import { LLAVA_NAMES, textPart } from "../reading/wrapped.ts";

/** The text part of a model of text and images. Its final soft cap is not applied, as in Transformers. @throws {UserError} */
function textOf(raw: Raw, where: string): Raw {
  const text = textPart(raw, where);
  return { ...text, tie_word_embeddings: raw["tie_word_embeddings"] ?? true, final_logit_softcapping: null };
}

/**
 * Rotary settings of the layers with full attention as `rope_parameters`, of those with a window as `window_rope_parameters`. Old
 * configurations name the two bases and a scaling of the full attention, new ones hold settings by kind of layer.
 */
function ropeOfBoth(config: Raw): Raw {
  const { rope_parameters: given, rope_scaling: scaling, max_position_embeddings: positions } = config;
  const part = (key: string): Raw => (isRecord(given) && isRecord(given[key]) ? given[key] : {});
  const full: Raw = {
    rope_theta: config["rope_theta"],
    ...part("full_attention"),
    ...(isRecord(scaling) ? scaling : {}),
  };
  const factor = (full["rope_type"] ?? full["type"]) === "linear" ? Number(full["factor"]) : 1;
  return {
    rope_scaling: undefined,
    rope_parameters: full,
    window_rope_parameters: { rope_theta: config["rope_local_base_freq"], ...part("sliding_attention") },
    // Unlike elsewhere, the context that the scaling gives.
    max_position_embeddings: factor >= 1 ? Math.ceil(Number(positions) / factor) : positions,
  };
}

/**
 * What an EmbeddingGemma (https://arxiv.org/abs/2509.20354) has of an encoder: its tokens see both sides, those of layers with a window half of it each, and there is no
 * head that predicts tokens.
 */
const TO_BOTH_SIDES: EncoderConfig = {
  typeRows: 0,
  predictsTokens: false,
  hasDecoderBody: true,
};

function withBothSides(config: ModelConfig): ModelConfig {
  const { slidingWindow } = config;
  return { ...config, encoder: TO_BOTH_SIDES, slidingWindow: slidingWindow && Math.floor(slidingWindow / 2) + 1 };
}

/**
 * Gemma 3 (https://arxiv.org/abs/2503.19786): five layers with a window, and rotary positions of their own, for each without; and EmbeddingGemma, whose tokens attend to
 * both sides.
 */
export const gemma3: Family = {
  type: "gemma3_text",
  architecture: "Gemma3ForCausalLM",
  classifier: "Gemma3TextForSequenceClassification",
  models: ["Gemma 3", "EmbeddingGemma"],
  bare: "Gemma3TextModel",
  wrappers: [{ type: "gemma3", text: textOf, ...LLAVA_NAMES }],
  read(raw, where, generation) {
    const config = {
      ...GEMMA_DEFAULTS,
      vocab_size: 262_208,
      max_position_embeddings: 131_072,
      sliding_window_pattern: 6,
      rope_theta: 1_000_000,
      rope_local_base_freq: 10_000,
      ...raw,
    };
    const plain = { ...plainGemma(config), ...ropeOfBoth(config), attn_logit_softcapping: null };
    const read = readDecoder(plain, where, generation, gemmaRules("gemma3_text", 131_072, { qkNorm: "heads" }));
    return raw["use_bidirectional_attention"] === true ? withBothSides(read) : read;
  },
  modules: MODULES_WITH_QUERIES,
  layers: gemmaLayers,
  gguf: gemmaGguf({
    architecture: "gemma3",
    period: 6,
    largest: 62,
    capped: false,
    keys: ({ own, need }) => ({
      sliding_window: need("attention.sliding_window"),
      // Ollama's converter has names of its own.
      rope_theta: own("rope.freq_base") ?? own("rope.global.freq_base") ?? 1_000_000,
      rope_local_base_freq: own("rope.freq_base_swa") ?? own("rope.local.freq_base") ?? 10_000,
      final_logit_softcapping: own("final_logit_softcapping"),
      // Unlike elsewhere, the context that the scaling gives.
      max_position_embeddings: need("context_length"),
    }),
  }),
};
