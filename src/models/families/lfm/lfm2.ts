import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { parseWith, positive, size } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { convolutionLayer, gatedConvolution } from "../../blocks/convolution.ts";
import type { BlockParts, Layer } from "../../blocks/layer.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { ConvolutionConfig, ModelConfig } from "../../config.ts";
import type { Family, FamilyModules, GgufFacts, GgufGiven, Raw } from "../family.ts";
import { LLAMA_GGUF } from "../llama/llama.ts";
import { noBiases, readDecoder } from "../reading/common.ts";

const ATTENTION = {
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.out_proj",
  queryNorm: "self_attn.q_layernorm",
  keyNorm: "self_attn.k_layernorm",
};

export const LFM_MLP = { gate: "feed_forward.w1", up: "feed_forward.w3", down: "feed_forward.w2" };

/** Keys of LFM2's kind, with the defaults of Transformers. */
export const lfmShape = {
  num_hidden_layers: size,
  norm_eps: z.number().nonnegative().default(1e-5),
  conv_bias: z.boolean().default(false),
  conv_L_cache: size.default(3),
  layer_types: z.array(z.string()).nullish(),
  full_attn_idxs: z.array(z.int().nonnegative()).nullish(),
  tie_embedding: z.boolean().optional(),
  tie_word_embeddings: z.boolean().default(true),
};

const lfmSchema = z.object({
  ...lfmShape,
  intermediate_size: size.default(12_288),
  block_ff_dim: size.optional(),
  block_auto_adjust_ff_dim: z.boolean().default(true),
  block_ffn_dim_multiplier: positive.nullable().default(1),
  block_multiple_of: size.default(256),
});

type LfmConfig = z.infer<typeof lfmSchema>;
type LfmShape = z.infer<z.ZodObject<typeof lfmShape>>;

/** Width of the MLP: two thirds of what the file says, times its factor, rounded up to a multiple; or what the file says. */
function widthOf(config: LfmConfig): number {
  const {
    block_ff_dim: width = config.intermediate_size,
    block_multiple_of: multiple,
    block_ffn_dim_multiplier: factor,
  } = config;
  if (!config.block_auto_adjust_ff_dim) return width;
  const narrowed = Math.floor((2 * width) / 3);
  return factor === null ? narrowed : multiple * Math.ceil(Math.floor(factor * narrowed) / multiple);
}

/** @throws {UserError} a list that does not fit the layers */
function convolutionOf(config: LfmShape, where: string): ConvolutionConfig | null {
  const { num_hidden_layers: count, layer_types: types, full_attn_idxs: attending } = config;
  if (types && (types.length !== count || types.some((type) => type !== "conv" && type !== "full_attention"))) {
    const other = types.find((type) => type !== "conv" && type !== "full_attention");
    throw new UserError(
      `${where}: layer_types has ${other === undefined ? `${types.length} entries` : show(other)}; expected conv or full_attention for each of ${count} layers`,
    );
  }
  const layers = Array.from({ length: count }, (_, i) =>
    types ? types[i] === "conv" : attending ? !attending.includes(i) : false,
  );
  return layers.includes(true) ? { width: config.conv_L_cache, bias: config.conv_bias, layers } : null;
}

function read(raw: Raw, where: string, generation: Raw): ModelConfig {
  const config = parseWith(lfmSchema, raw, where);
  return readLfm({ ...raw, intermediate_size: widthOf(config) }, where, generation, "lfm2");
}

/** Reads a configuration of LFM2's kind whose MLP has the width that the file says. @throws {UserError} */
export function readLfm(raw: Raw, where: string, generation: Raw, family: string, more: Partial<ModelConfig> = {}): ModelConfig {
  const config = parseWith(z.object(lfmShape), raw, where);
  const plain = {
    pad_token_id: 0,
    ...raw,
    rope_theta: raw["rope_theta"] ?? 1_000_000,
    rms_norm_eps: config.norm_eps,
    hidden_act: "silu",
    tie_word_embeddings: config.tie_embedding ?? config.tie_word_embeddings,
  };
  return readDecoder(plain, where, generation, {
    family,
    defaults: { maxPositions: 128_000, kvHeads: 8, headDim: null, bos: 1, eos: 2 },
    biases: noBiases,
    more: () => ({ qkNorm: "heads", convolution: convolutionOf(config, where), ...more }),
  });
}

/** A norm in front of attention or of the convolution, and in front of what is in the place of the MLP. */
export function lfmLayers(config: ModelConfig, mlp: (parts: BlockParts, x: string, layer: number) => string): Layer[] {
  const { convolution } = config;
  return Array.from({ length: config.layers }, (_, layer) => {
    const block = (operator: (parts: BlockParts, x: string) => string) => (parts: BlockParts) =>
      residual(
        parts,
        { norm: "operator_norm", add: (x) => operator(parts, x) },
        { norm: "ffn_norm", add: (x) => mlp(parts, x, layer) },
      );
    if (convolution?.layers[layer])
      return convolutionLayer(
        config.hiddenSize,
        block((parts, x) => gatedConvolution(parts, convolution, x)),
      );
    const settings = attentionOf(config, layer);
    return attentionLayer(
      settings,
      block((parts, x) => selfAttention(parts, settings, x, ATTENTION)),
    );
  });
}

export const LFM_MODULES: FamilyModules = {
  embedding: "embed_tokens",
  norm: "embedding_norm",
  head: "lm_head",
  linear: ["q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "w1", "w3", "w2"],
  scaled: { outputs: ["k_proj", "v_proj"], inputs: ["w2"] },
};

/** The other way round: layers without heads of keys are convolutions. */
export const lfmKeys = ({ kvHeads, need, epsilon }: GgufGiven): Raw => ({
  layer_types: kvHeads.map((count) => (count === 0 ? "conv" : "full_attention")),
  conv_L_cache: need("shortconv.l_cache"),
  norm_eps: epsilon,
  block_auto_adjust_ff_dim: false,
});

/** How llama.cpp has an LFM2. */
export const LFM_GGUF: GgufFacts = {
  ...LLAMA_GGUF,
  keys: lfmKeys,
  architecture: "lfm2",
  outputNorm: "token_embd_norm",
  modules: {
    operator_norm: "attn_norm",
    ffn_norm: "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": { name: "shortconv.conv", isFull: true },
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
  },
  rotatesNeighbours: false,
  scalings: [],
  check({ family, convolution }) {
    const refuse = (what: string) => new UserError(`llama.cpp's ${family.replace("_", "")} models have ${what}`);
    if (convolution === null) throw refuse("layers that convolve, and this one has none");
    if (convolution.bias) throw refuse("no biases on the convolution");
  },
};

/**
 * LFM2 and LFM2.5, dense (https://arxiv.org/abs/2511.23404): most layers convolve each channel over three tokens, between two gates; the others
 * attend, with normed queries and keys.
 */
export const lfm2: Family = {
  type: "lfm2",
  architecture: "Lfm2ForCausalLM",
  classifier: null,
  models: ["LFM2 (LFM2.5 included)"],
  read,
  modules: LFM_MODULES,
  layers: (config) => lfmLayers(config, (parts, x) => gatedMlp(parts, x, LFM_MLP)),
  gguf: LFM_GGUF,
};
