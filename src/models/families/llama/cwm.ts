import type { Family } from "../family.ts";
import { readDecoder, typesByPeriod, windowByTypes } from "../reading/common.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "./llama.ts";

/** The rotary scaling of a configuration that has none. */
const ROPE = {
  rope_type: "llama3",
  rope_theta: 1_000_000,
  factor: 16,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8192,
};

/**
 * CWM, Code World Model (https://arxiv.org/abs/2510.02387): a Llama with a window in the layers that `layer_types` marks, without such a
 * list in three of four, the first one not among them.
 */
export const cwm: Family = {
  type: "cwm",
  architecture: "CwmForCausalLM",
  classifier: null,
  models: ["CWM"],
  read(raw, where, generation) {
    const plain = {
      rms_norm_eps: 1e-5,
      sliding_window: 8192,
      ...raw,
      rope_theta: raw["rope_theta"] ?? 1_000_000,
      rope_parameters: raw["rope_parameters"] ?? ROPE,
      eos_token_id: raw["eos_token_id"] ?? [128_001, 128_008, 128_009],
    };
    return readDecoder(plain, where, generation, {
      family: "cwm",
      defaults: { maxPositions: 131_072, kvHeads: 8, headDim: 128, bos: 128_000, eos: null },
      biases: ({ mlp_bias: mlp }) => ({ attentionBias: false, attentionOutputBias: false, mlpBias: mlp }),
      window(config) {
        const { layer_types: given, num_hidden_layers: layers } = config;
        const usual = typesByPeriod(layers, 4, 0);
        return windowByTypes(given ?? usual, config, where);
      },
    });
  },
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: LLAMA_GGUF,
};
