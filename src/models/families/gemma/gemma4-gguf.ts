import { UserError } from "../../../base/errors.ts";
import type { ModelConfig } from "../../config.ts";
import type { GgufFacts, GgufGiven, GgufSetting, Raw } from "../family.ts";
import { run } from "../orders.ts";
import { UNROTATED } from "../reading/gguf.ts";
import { gemmaGguf } from "./gemma2.ts";

/** The layers without a window are the last of so many, where the file does not list them. */
const PERIOD = 6;

const { modules: GEMMA, ...FACTS } = gemmaGguf({ architecture: "gemma4", period: PERIOD, largest: 0, capped: false, keys: null });

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

/** The other way round. @throws {UserError} what is not supported */
function keys(given: GgufGiven): Raw {
  const { layers, own, need, kvHeads, headDim } = given;
  if (own("expert_count")) throw given.refusal("a mixture of experts");
  const windows = given.flags("attention.sliding_window_pattern") ?? run(layers).map((layer) => (layer + 1) % PERIOD !== 0);
  const kvOf = (window: boolean) => [...new Set(kvHeads.filter((_, layer) => windows[layer] === window))];
  const [kv = 0, ...otherKv] = kvOf(true);
  const [fullKv = kv, ...otherFull] = kvOf(false);
  const keysAreValues = !given.hasTensor(`blk.${windows.indexOf(false)}.attn_v.weight`);
  if (otherKv.length + otherFull.length > 0 || (fullKv !== kv && !keysAreValues))
    throw given.refusal(`heads of keys ${kvHeads.join(", ")} by layer`);
  const widths = given.numbers("feed_forward_length") ?? [need("feed_forward_length")];
  const [width = 0] = widths;
  const divisors = given.factors("rope_freqs.weight") ?? new Float32Array(headDim / 2).fill(1);
  const rotated = divisors.filter((divisor) => divisor < UNROTATED / 2);
  return {
    head_dim: need("attention.key_length_swa"),
    global_head_dim: headDim,
    num_key_value_heads: kv,
    num_global_key_value_heads: fullKv,
    attention_k_eq_v: keysAreValues,
    layer_types: windows.map((window) => (window ? "sliding_attention" : "full_attention")),
    sliding_window: need("attention.sliding_window"),
    num_kv_shared_layers: own("attention.shared_kv_layers") ?? 0,
    intermediate_size: width,
    use_double_wide_mlp: widths.at(-1) === 2 * width,
    hidden_size_per_layer_input: own("embedding_length_per_layer_input") ?? 0,
    vocab_size_per_layer_input: given.vocabSize,
    final_logit_softcapping: own("final_logit_softcapping"),
    rope_parameters: {
      full_attention: {
        rope_type: "proportional",
        partial_rotary_factor: rotated.length / divisors.length,
        rope_theta: need("rope.freq_base"),
        factor: rotated[0] ?? 1,
      },
      sliding_attention: { rope_type: "default", rope_theta: own("rope.freq_base_swa") ?? 10_000 },
    },
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
  keys,
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
