import { UserError } from "../../../base/errors.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import type { Layer } from "../../blocks/layer.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family, GgufFacts, GgufGiven, Raw } from "../family.ts";
import { LLAMA_GGUF, MODULES_WITH_QUERIES } from "../llama/llama.ts";
import { attentionBiases, readDecoder, type ReadingRules, typesByPeriod, windowByLayer } from "../reading/common.ts";

/** Transformers' defaults where the config.json of a Gemma 2 or 3 is silent. */
export const GEMMA_DEFAULTS: Raw = {
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 26,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  hidden_activation: "gelu_pytorch_tanh",
  sliding_window: 4096,
  query_pre_attn_scalar: 256,
  tie_word_embeddings: true,
  pad_token_id: 0,
  eos_token_id: 1,
  bos_token_id: 2,
};

/** @throws {UserError} attention in both directions, which only a Gemma 3 has (EmbeddingGemma) */
export function refuseBidirectional(raw: Raw, where: string): void {
  if (raw["use_bidirectional_attention"] !== true) return;
  throw new UserError(
    `${where}: use_bidirectional_attention is not supported; expected a model that generates text, or an EmbeddingGemma`,
  );
}

/** A Gemma's `config.json` in the words of the other families, with `layer_types` written out. `raw` has its defaults. */
export function plainGemma(raw: Raw): Raw {
  const { num_hidden_layers: layers, sliding_window_pattern: pattern } = raw;
  const patterned = () => typesByPeriod(Number(layers), Number(pattern));
  const countable = [layers, pattern].every((value) => Number.isInteger(value) && Number(value) > 0 && Number(value) < 1e6);
  return {
    ...raw,
    hidden_act: raw["hidden_activation"] ?? raw["hidden_act"],
    layer_types: raw["layer_types"] ?? (countable ? patterned() : undefined),
  };
}

/** The rules of all Gemmas, but for `family`, the length of the context and what `more` gives beside. */
export function gemmaRules(family: string, maxPositions: number, more: Partial<ModelConfig> = {}): ReadingRules {
  return {
    family,
    defaults: { maxPositions, kvHeads: null, headDim: null, bos: null, eos: null },
    biases: attentionBiases,
    window: (config, where) => windowByLayer(config.sliding_window, config, where),
    more: (config) => ({
      attentionScale: 1 / Math.sqrt(config.query_pre_attn_scalar!),
      attentionSoftCap: config.attn_logit_softcapping || null,
      logitSoftCap: config.final_logit_softcapping || null,
      normOffset: 1,
      embeddingScale: Math.sqrt(config.hidden_size),
      roundsEmbeddingScale: true,
      ...more,
    }),
  };
}

/** Blocks of the Gemma kind: what attention and MLP give is normed too, before it is added. */
export function gemmaLayers(config: ModelConfig): Layer[] {
  return Array.from({ length: config.layers }, (_, layer) => {
    const settings = attentionOf(config, layer);
    return attentionLayer(settings, (parts) =>
      residual(
        parts,
        { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x), after: "post_attention_layernorm" },
        { norm: "pre_feedforward_layernorm", add: (x) => gatedMlp(parts, x), after: "post_feedforward_layernorm" },
      ),
    );
  });
}

/** Describes what llama.cpp knows of a Gemma without being told. */
interface UsualGemma {
  readonly architecture: string;
  /** Layers up to one with full attention, that one included. */
  readonly period: number;
  /** Layers of the family's largest model, whose scores are scaled otherwise. */
  readonly largest: number;
  /** True if scores and logits have soft caps. */
  readonly capped: boolean;
  /** What a file says of it beside; null: no files are read. */
  readonly keys: ((given: GgufGiven) => Raw) | null;
}

export function gemmaGguf({ architecture, period, largest, capped, keys }: UsualGemma): GgufFacts {
  const scalarOf = ({ layers, hiddenSize, heads, headDim }: Pick<GgufGiven, "layers" | "hiddenSize" | "heads" | "headDim">) =>
    layers === largest ? Math.floor(hiddenSize / heads) : headDim;
  return {
    architecture,
    modules: {
      ...LLAMA_GGUF.modules,
      post_attention_layernorm: "post_attention_norm",
      pre_feedforward_layernorm: "ffn_norm",
      post_feedforward_layernorm: "post_ffw_norm",
    },
    rotatesNeighbours: false,
    activation: "gelu_pytorch_tanh",
    window: "applied",
    scalings: [],
    keys: keys && ((given) => ({ query_pre_attn_scalar: scalarOf(given), sliding_window_pattern: period, ...keys(given) })),
    check(config) {
      const { layers, windowLayers, windowRope, attentionScale } = config;
      const refuse = (what: string) => new UserError(`llama.cpp's ${architecture} models have ${what}`);
      const scalar = scalarOf(config);
      if (config.encoder) throw refuse("tokens that see those before them alone, not those behind them too");
      if (Math.abs(attentionScale * Math.sqrt(scalar) - 1) > 1e-6) {
        throw refuse(`query_pre_attn_scalar ${scalar}, not ${Math.round(attentionScale ** -2)}`);
      }
      const isUsual = Array.from({ length: layers }, (_, i) => i).every((i) => windowLayers[i] === ((i + 1) % period !== 0));
      if (!isUsual) throw refuse(`a sliding window in all but one of each ${period} layers, and this one has it elsewhere`);
      if (windowRope && (windowRope.theta !== 10_000 || windowRope.scaling.type !== "default"))
        throw refuse(`rotary positions of base 10000 in the layers with a window, not ${windowRope.theta}`);
      if (config.attentionBias) throw refuse("no biases in attention");
      if ((config.attentionSoftCap !== null) !== capped || (config.logitSoftCap !== null) !== capped)
        throw refuse(capped ? "soft caps on scores and logits" : "no soft caps");
    },
  };
}

/** Gemma 2 (https://arxiv.org/abs/2408.00118): soft caps, and a window in every other layer. */
export const gemma2: Family = {
  type: "gemma2",
  architecture: "Gemma2ForCausalLM",
  models: ["Gemma 2"],
  read(raw, where, generation) {
    const defaults = {
      ...GEMMA_DEFAULTS,
      vocab_size: 256_000,
      max_position_embeddings: 8192,
      sliding_window_pattern: 2,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
    };
    refuseBidirectional(raw, where);
    return readDecoder(plainGemma({ ...defaults, ...raw }), where, generation, gemmaRules("gemma2", 8192));
  },
  modules: MODULES_WITH_QUERIES,
  layers: gemmaLayers,
  gguf: gemmaGguf({
    architecture: "gemma2",
    period: 2,
    largest: 46,
    capped: true,
    keys: ({ own }) => ({
      sliding_window: own("attention.sliding_window") ?? 4096,
      attn_logit_softcapping: own("attn_logit_softcapping") ?? 50,
      final_logit_softcapping: own("final_logit_softcapping") ?? 30,
    }),
  }),
};
