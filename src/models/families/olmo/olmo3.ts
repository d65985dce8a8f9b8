import { UserError } from "../../../base/errors.ts";
import { isRecord, show } from "../../../base/json.ts";
import type { Family, Raw } from "../family.ts";
import { LLAMA_MODULES, refuseBiases } from "../llama/llama.ts";
import { readDecoder, typesByPeriod, windowByTypes } from "../reading/common.ts";
import { OLMO_DEFAULTS, olmoRules, POST_NORM_GGUF, postNormLayers } from "./olmo2.ts";
import { givenAttentionBias } from "../reading/gguf.ts";

const THETA = 500_000;

/**
 * Rotary settings of the layers with full attention as `rope_parameters`, of those with a window as `window_rope_parameters`. `rope_theta` and
 * `rope_scaling` beside them are those of full attention, as in Transformers.
 * @throws {UserError} settings for no kind of layer, which Transformers passes over: what the model was trained with is not known then
 */
function ropeOfBoth(raw: Raw, where: string): Raw {
  const { rope_parameters: given, rope_scaling: scaling } = raw;
  const parts: Raw = isRecord(given) ? given : {};
  const part = (key: string): Raw => (isRecord(parts[key]) ? parts[key] : {});
  const isFlat = !isRecord(parts["full_attention"]) && !isRecord(parts["sliding_attention"]);
  const { rope_theta: theta = THETA, rope_type: type = "default" } = parts;
  if (isFlat && (theta !== THETA || type !== "default"))
    throw new UserError(
      `${where}: rope_parameters has rope_theta ${show(theta)} and rope_type ${show(type)} for no kind of layer; expected them in full_attention and in sliding_attention`,
    );
  return {
    rope_scaling: undefined,
    rope_parameters: {
      rope_theta: raw["rope_theta"] ?? THETA,
      ...part("full_attention"),
      ...(isRecord(scaling) ? scaling : {}),
    },
    window_rope_parameters: { rope_theta: THETA, ...part("sliding_attention") },
  };
}

/** OLMo 3 (https://arxiv.org/abs/2512.13961): an OLMo 2 with a window in three of four layers, whose rotary positions are not stretched. */
export const olmo3: Family = {
  type: "olmo3",
  architecture: "Olmo3ForCausalLM",
  models: ["OLMo 3"],
  read(raw, where, generation) {
    const plain = { ...OLMO_DEFAULTS, sliding_window: 4096, ...raw, ...ropeOfBoth(raw, where) };
    return readDecoder(plain, where, generation, {
      ...olmoRules("olmo3"),
      window(config) {
        const { layer_types: given, num_hidden_layers: layers } = config;
        const usual = typesByPeriod(layers, 4);
        return windowByTypes(given ?? usual, config, where);
      },
    });
  },
  modules: LLAMA_MODULES,
  layers: postNormLayers,
  gguf: {
    ...POST_NORM_GGUF,
    architecture: "olmo2",
    window: "applied",
    keys: (given) => ({
      ...givenAttentionBias(given),
      sliding_window: given.need("attention.sliding_window"),
      rope_parameters: { sliding_attention: { rope_theta: given.own("rope.freq_base") ?? THETA } },
    }),
    check(config) {
      refuseBiases("olmo2")(config);
      const { windowLayers, windowRope, rope } = config;
      const refuse = (what: string) => new UserError(`llama.cpp's olmo2 models have ${what}`);
      const odd = windowLayers.findIndex((hasWindow, i) => hasWindow !== ((i + 1) % 4 !== 0));
      if (odd >= 0) throw refuse(`a sliding window in all but every fourth layer, and this one differs in layer ${odd + 1}`);
      if (windowRope && (windowRope.theta !== rope.theta || windowRope.scaling.type !== "default"))
        throw refuse("one base of rotary positions, which is not stretched in the layers with a window");
    },
  },
};
