import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith, size } from "../../../base/schema.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, llamaLayers } from "./llama.ts";
import { type CommonConfig, layerBiases, NO_WINDOW, readDecoder, windowByTypes } from "../reading/common.ts";
import { givenBiases } from "../reading/gguf.ts";

const rotarySchema = z.object({
  no_rope_layers: z.array(z.int().min(0).max(1)).nullish(),
  no_rope_layer_interval: size.default(4),
});

/** Marks the layers with rotary positions. Whatever its name says, `no_rope_layers` has a 1 for each of these. */
function rotaryLayersOf(raw: unknown, layers: number, where: string): boolean[] {
  const { no_rope_layers: given, no_rope_layer_interval: interval } = parseWith(rotarySchema, raw, where);
  if (given && given.length < layers) {
    throw new UserError(`${where}: no_rope_layers has ${given.length} entries; expected one for each of ${layers} layers`);
  }
  return Array.from({ length: layers }, (_, i) => (given ? given[i] === 1 : (i + 1) % interval !== 0));
}

/** A window in the layers that `layer_types` marks; without such a list, on request, in those without rotary positions. */
function windowOf(
  config: CommonConfig,
  rotaryLayers: readonly boolean[],
  where: string,
): Pick<ModelConfig, "slidingWindow" | "windowLayers"> {
  const { layer_types: types, sliding_window: window, use_sliding_window: isUsed } = config;
  if (types) return windowByTypes(types, config, where);
  const windowLayers = rotaryLayers.map((isRotated) => !isRotated);
  return isUsed && window && windowLayers.includes(true) ? { slidingWindow: window, windowLayers } : NO_WINDOW;
}

/**
 * SmolLM3 (Bakouch et al. 2025, https://huggingface.co/blog/smollm3): a Llama in which every fourth layer has no rotary positions (Yang et
 * al. 2025, https://arxiv.org/abs/2501.18795).
 */
export const smollm3: Family = {
  type: "smollm3",
  architecture: "SmolLM3ForCausalLM",
  models: ["SmolLM3"],
  read(raw, where, generation) {
    const plain = {
      tie_word_embeddings: true,
      pad_token_id: 128_004,
      ...raw,
      rope_theta: raw["rope_theta"] ?? 2_000_000,
    };
    const rotary = (config: CommonConfig) => rotaryLayersOf(raw, config.num_hidden_layers, where);
    return readDecoder(plain, where, generation, {
      family: "smollm3",
      defaults: { maxPositions: 32_768, kvHeads: 4, headDim: null, bos: 128_000, eos: 128_001 },
      biases: layerBiases,
      window: (config) => windowOf(config, rotary(config), where),
      more: (config) => ({ rotaryLayers: rotary(config) }),
    });
  },
  modules: LLAMA_MODULES,
  layers: llamaLayers,
  gguf: {
    ...LLAMA_GGUF,
    architecture: "smollm3",
    scalings: [],
    keys: (given) => ({ ...givenBiases(given), no_rope_layer_interval: 4, use_sliding_window: false }),
    check({ rotaryLayers, rope: { scaling }, attentionOutputBias, mlpBias }) {
      const refuse = (what: string) => new UserError(`llama.cpp's smollm3 models have ${what}`);
      const odd = rotaryLayers.findIndex((isRotated, i) => isRotated !== ((i + 1) % 4 !== 0));
      if (odd >= 0) throw refuse(`no rotary positions in every fourth layer, and this one differs in layer ${odd + 1}`);
      if (scaling.type === "llama3") throw refuse("no llama3 scaling");
      if (attentionOutputBias || mlpBias) throw refuse("no biases on the output of attention and in the MLP");
    },
  },
};
