import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { parseWith, size } from "../../../base/schema.ts";
import { MAX_DELTA_DIM } from "../../../ops/gated-delta.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { deltaLayer, gatedDelta } from "../../blocks/delta.ts";
import { expertMlp } from "../../blocks/experts.ts";
import type { BlockParts, Layer } from "../../blocks/layer.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { DeltaConfig, ModelConfig } from "../../config.ts";
import type { Family, Raw } from "../family.ts";
import { LLAMA_MODULES } from "../llama/llama.ts";
import { attentionBiases, readDecoder, type ReadingRules } from "../reading/common.ts";
import { textPart } from "../reading/wrapped.ts";
import { deltaGguf } from "./delta-gguf.ts";
import { QWEN_NAMES } from "./qwen2.ts";

/** Keys of layers with a state, with the defaults of Transformers. */
const deltaSchema = z.object({
  num_hidden_layers: size,
  layer_types: z.array(z.string()).nullish(),
  full_attention_interval: size.nullish(),
  linear_conv_kernel_dim: size.default(4),
  linear_key_head_dim: size.default(128),
  linear_value_head_dim: size.default(128),
  linear_num_key_heads: size.default(16),
  linear_num_value_heads: size.default(32),
});

/** @throws {UserError} a list that does not fit the layers, heads that do not fit each other */
export function deltaOf(raw: Raw, where: string, fused = false): DeltaConfig | null {
  const config = parseWith(deltaSchema, raw, where);
  const { num_hidden_layers: count, layer_types: types, full_attention_interval: interval } = config;
  if (types && (types.length !== count || types.some((type) => type !== "linear_attention" && type !== "full_attention"))) {
    const other = types.find((type) => type !== "linear_attention" && type !== "full_attention");
    throw new UserError(
      `${where}: layer_types has ${other === undefined ? `${types.length} entries` : show(other)}; expected linear_attention or full_attention for each of ${count} layers`,
    );
  }
  const { linear_num_key_heads: keyHeads, linear_num_value_heads: heads } = config;
  if (heads % keyHeads !== 0)
    throw new UserError(`${where}: linear_num_value_heads (${heads}) is not a multiple of linear_num_key_heads (${keyHeads})`);
  const { linear_key_head_dim: keyDim, linear_value_head_dim: valueDim } = config;
  if (Math.max(keyDim, valueDim) > MAX_DELTA_DIM)
    throw new UserError(
      `${where}: linear_key_head_dim ${keyDim} and linear_value_head_dim ${valueDim} are not supported; expected at most ${MAX_DELTA_DIM}`,
    );
  const layers = Array.from({ length: count }, (_, i) =>
    types ? types[i] === "linear_attention" : (i + 1) % (interval ?? 4) !== 0,
  );
  return layers.includes(true)
    ? { keyHeads, heads, keyDim, valueDim, width: config.linear_conv_kernel_dim, fused, layers }
    : null;
}

/** The text part of a Qwen3.5 with images, in whose texts all rotary positions count in one direction. */
export function textOf(raw: Raw, where: string): Raw {
  return { ...textPart(raw, where), tie_word_embeddings: raw["tie_word_embeddings"] ?? false };
}

/** A norm in front of attention or of the layer with a state, and in front of the gated MLP or of experts. */
export function deltaLayers(config: ModelConfig): Layer[] {
  const { delta, experts } = config;
  return Array.from({ length: config.layers }, (_, layer) => {
    const block = (mixer: (parts: BlockParts, x: string) => string) => (parts: BlockParts) =>
      residual(
        parts,
        { norm: "input_layernorm", add: (x) => mixer(parts, x) },
        {
          norm: "post_attention_layernorm",
          add: (x) => (experts?.layers[layer] ? expertMlp(parts, x, experts) : gatedMlp(parts, x)),
        },
      );
    if (delta?.layers[layer])
      return deltaLayer(
        delta,
        block((parts, x) => gatedDelta(parts, delta, x)),
      );
    const settings = attentionOf(config, layer);
    return attentionLayer(
      settings,
      block((parts, x) => selfAttention(parts, settings, x)),
    );
  });
}

/** How families of this kind read their configuration. */
export function deltaRules(family: string, kvHeads: number, more: Partial<ModelConfig>): ReadingRules {
  return {
    family,
    defaults: { maxPositions: 32_768, kvHeads, headDim: 256, bos: null, eos: null },
    biases: attentionBiases,
    partialRotary: 0.25,
    more: () => ({ qkNorm: "heads", normOffset: 1, attentionGate: true, ...more }),
  };
}

/** The linear layers of those with a state. */
export const DELTA_LINEAR = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"];

/**
 * Qwen3.5, dense: most layers keep a state of the text by the gated delta rule (https://arxiv.org/abs/2412.06464) behind a short convolution; the
 * others attend, with normed queries and keys of which a part is rotated, and a gate on the result.
 */
export const qwen35: Family = {
  type: "qwen3_5_text",
  architecture: "Qwen3_5ForCausalLM",
  classifier: null,
  bare: "Qwen3_5TextModel",
  models: ["Qwen3.5 (dense)"],
  wrappers: [{ type: "qwen3_5", text: textOf, ...QWEN_NAMES }],
  read: (raw, where, generation) =>
    readDecoder(raw, where, generation, deltaRules("qwen3_5_text", 4, { delta: deltaOf(raw, where) })),
  modules: { ...LLAMA_MODULES, linear: [...LLAMA_MODULES.linear, ...DELTA_LINEAR] },
  layers: deltaLayers,
  gguf: deltaGguf("qwen35"),
};
