import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import type { Family, Raw } from "../family.ts";
import { LLAMA_MODULES, refuseOtherHeads } from "../llama/llama.ts";
import { POST_NORM_GGUF, postNormLayers } from "../olmo/olmo2.ts";
import { type CommonConfig, NO_WINDOW, noBiases, readDecoder, typesByPeriod, windowByTypes } from "../reading/common.ts";

/** A window in the layers that `layer_types` marks; without such a list, in all but each `sliding_window_pattern`th. @throws {UserError} */
function windowOf(config: CommonConfig, raw: Raw, where: string) {
  const { layer_types: given, num_hidden_layers: layers, sliding_window: window } = config;
  if (given) return windowByTypes(given, config, where);
  if (!window) return NO_WINDOW;
  const { sliding_window_pattern: pattern = 4 } = raw;
  if (typeof pattern !== "number" || !Number.isInteger(pattern) || pattern < 1)
    throw new UserError(
      `${where}: sliding_window_pattern is ${show(pattern)}; without layer_types a whole number above 0 is expected`,
    );
  return windowByTypes(typesByPeriod(layers, pattern), config, where);
}

/**
 * EXAONE 4 (https://arxiv.org/abs/2507.11407): norms behind the branches and on each head; in a model with windows the layers without one
 * have no rotary positions.
 */
export const exaone4: Family = {
  type: "exaone4",
  architecture: "Exaone4ForCausalLM",
  models: ["EXAONE 4"],
  read(raw, where, generation) {
    const plain = { rms_norm_eps: 1e-5, sliding_window: 4096, ...raw };
    return readDecoder(plain, where, generation, {
      family: "exaone4",
      defaults: { maxPositions: 2048, kvHeads: 32, headDim: null, bos: 0, eos: 2 },
      biases: noBiases,
      window: (config) => windowOf(config, raw, where),
      more(config) {
        const { windowLayers } = windowOf(config, raw, where);
        const { sliding_window: window, num_hidden_layers: layers } = config;
        const rotated = (layer: number) => windowLayers[layer] ?? false;
        return { qkNorm: "heads", rotaryLayers: window ? Array.from({ length: layers }, (_, i) => rotated(i)) : [] };
      },
    });
  },
  modules: LLAMA_MODULES,
  layers: postNormLayers,
  gguf: {
    ...POST_NORM_GGUF,
    architecture: "exaone4",
    keys(given) {
      const window = given.own("attention.sliding_window");
      if (window) throw given.refusal(`a sliding window of ${window} tokens`);
      return { sliding_window: null };
    },
    check(config) {
      refuseOtherHeads("exaone4")(config);
      const { slidingWindow, rotaryLayers } = config;
      // It knows windows of one size of model alone, by the number of its layers.
      if (slidingWindow !== null || rotaryLayers.length > 0)
        throw new UserError("GGUF's exaone4 models are written where all layers have rotary positions and none a sliding window");
    },
  },
};
