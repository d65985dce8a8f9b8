import { UserError } from "../../../base/errors.ts";
import type { ModelConfig } from "../../config.ts";
import type { GgufFacts, GgufSetting } from "../family.ts";
import { run } from "../orders.ts";
import { gemmaGguf } from "./gemma2.ts";

const { modules: GEMMA, ...FACTS } = gemmaGguf({ architecture: "gemma4", period: 6, largest: 0, capped: false, keys: null });

/** The layers with keys and values of their own are the first ones. */
const ownKeys = ({ layers, sharedKeys }: ModelConfig): number => layers - (sharedKeys?.layers ?? 0);

/** A number for each layer: one of those with a window, or one of the others. */
const byWindow = ({ layers, windowLayers }: ModelConfig, window: number, full: number): GgufSetting => ({
  i32s: run(layers).map((layer) => (windowLayers[layer] ? window : full)),
});

function settings(config: ModelConfig): Readonly<Record<string, GgufSetting>> {
  const { headDim, kvHeads, fullHeads, rotaryDim, windowRope, sharedKeys, layerInputs, layers, intermediateSize } = config;
  const full = fullHeads ?? { headDim, kvHeads };
  const width = (layer: number) => (sharedKeys?.hasWideMlp && layer >= ownKeys(config) ? 2 : 1) * intermediateSize;
  return {
    "attention.head_count_kv": byWindow(config, kvHeads, full.kvHeads),
    "attention.key_length": { u32: full.headDim },
    "attention.value_length": { u32: full.headDim },
    "attention.key_length_swa": { u32: headDim },
    "attention.value_length_swa": { u32: headDim },
    "attention.shared_kv_layers": { u32: sharedKeys?.layers ?? 0 },
    "attention.sliding_window_pattern": { bools: config.windowLayers },
    "rope.dimension_count": { u32: full.headDim },
    "rope.dimension_count_swa": { u32: rotaryDim },
    "rope.freq_base_swa": { f32: (windowRope ?? config.rope).theta },
    embedding_length_per_layer_input: { u32: layerInputs?.size ?? 0 },
    feed_forward_length: { i32s: run(layers).map(width) },
  };
}

/** How llama.cpp has a dense Gemma 4. */
export const GEMMA4_GGUF: GgufFacts = {
  ...FACTS,
  modules: {
    ...GEMMA,
    layer_scalar: "layer_output_scale.weight",
    per_layer_input_gate: "inp_gate",
    per_layer_projection: "proj",
    post_per_layer_input_norm: "post_norm",
  },
  others: {
    embed_tokens_per_layer: {
      name: "per_layer_token_embd",
      // There are no more rows than tokens.
      rows: ({ layerInputs, vocabSize }) => (layerInputs!.rows === vocabSize ? null : () => run(vocabSize)),
    },
    per_layer_model_projection: { name: "per_layer_model_proj", isMergedOnly: true },
    per_layer_projection_norm: "per_layer_proj_norm",
  },
  settings,
  check(config) {
    const { rope, windowRope, windowLayers, slidingWindow, sharedKeys } = config;
    const refuse = (what: string) => new UserError(`llama.cpp's gemma4 models have ${what}`);
    if (slidingWindow === null) throw refuse("layers with a sliding window, and this one has none");
    if (config.attentionBias) throw refuse("no biases in attention");
    if (!["proportional", "default"].includes(rope.scaling.type) || windowRope!.scaling.type !== "default")
      throw refuse("proportional rotary positions in the layers without a window, and plain ones in the others");
    const own = ownKeys(config);
    if (sharedKeys && (windowLayers[own - 1] !== false || windowLayers[own - 2] !== true))
      throw refuse("a layer with a window and one without, in this order, in front of those that share their keys");
  },
};
