import { UserError } from "../../base/errors.ts";
import { isRecord, show } from "../../base/json.ts";

type Raw = Readonly<Record<string, unknown>>;

/** What Transformers assumes where the config.json of a Gemma is silent. */
const COMMON: Raw = {
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

const GEMMA2: Raw = {
  ...COMMON,
  vocab_size: 256_000,
  max_position_embeddings: 8192,
  sliding_window_pattern: 2,
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
};

const GEMMA3: Raw = {
  ...COMMON,
  vocab_size: 262_208,
  max_position_embeddings: 131_072,
  sliding_window_pattern: 6,
  rope_theta: 1_000_000,
  rope_local_base_freq: 10_000,
};

/**
 * The text part of a `config.json` of model type `gemma3` (text and images) as one of type `gemma3_text`: what the outer
 * part says of tokens and dtypes goes along. Its final soft cap is not applied, as in Transformers.
 * @throws {UserError} no text part
 */
export function gemma3Text(raw: Raw, where: string): Raw {
  const { text_config: text } = raw;
  if (!isRecord(text)) throw new UserError(`${where}: "text_config" is ${show(text)}; a gemma3 model needs an object`);
  const outer = ["eos_token_id", "bos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config"];
  const known = Object.fromEntries(outer.flatMap((key) => (raw[key] === undefined ? [] : [[key, raw[key]]])));
  const tied = raw.tie_word_embeddings ?? true;
  return {
    ...text,
    ...known,
    tie_word_embeddings: tied,
    final_logit_softcapping: null,
    model_type: "gemma3_text",
    architectures: undefined,
  };
}

/**
 * A Gemma's `config.json` in the words of the other families: defaults filled in, `layer_types` written out, and for Gemma
 * 3 the rotary settings of the layers with full attention as `rope_parameters`, of those with a window as
 * `window_rope_parameters`.
 * @throws {UserError} attention in both directions (EmbeddingGemma)
 */
export function plainGemma(raw: Raw, family: "gemma2" | "gemma3_text", where: string): Raw {
  if (raw.use_bidirectional_attention === true) {
    throw new UserError(`${where}: use_bidirectional_attention is not supported; expected a model that generates text`);
  }
  const config: Raw = { ...(family === "gemma2" ? GEMMA2 : GEMMA3), ...raw };
  const { num_hidden_layers: layers, sliding_window_pattern: pattern } = config;
  const patterned = () =>
    Array.from({ length: Number(layers) }, (_, i) => ((i + 1) % Number(pattern) ? "sliding_attention" : "full_attention"));
  const countable = [layers, pattern].every((value) => Number.isInteger(value) && Number(value) > 0 && Number(value) < 1e6);
  const plain = {
    ...config,
    hidden_act: config.hidden_activation ?? config.hidden_act,
    layer_types: config.layer_types ?? (countable ? patterned() : undefined),
  };
  return family === "gemma2" ? plain : { ...plain, ...ropeOfBoth(config), attn_logit_softcapping: null };
}

/** Old configurations name the two bases and a scaling of the full attention, new ones hold settings by kind of layer. */
function ropeOfBoth(config: Raw): Raw {
  const { rope_parameters: given, rope_scaling: scaling, max_position_embeddings: positions } = config;
  const part = (key: string): Raw => (isRecord(given) && isRecord(given[key]) ? given[key] : {});
  const full = {
    rope_theta: config.rope_theta,
    ...part("full_attention"),
    ...(isRecord(scaling) ? scaling : {}),
  } as Raw;
  const factor = (full.rope_type ?? full.type) === "linear" ? Number(full.factor) : 1;
  return {
    rope_scaling: undefined,
    rope_parameters: full,
    window_rope_parameters: { rope_theta: config.rope_local_base_freq, ...part("sliding_attention") },
    // Unlike elsewhere, the context that the scaling gives.
    max_position_embeddings: factor >= 1 ? Math.ceil(Number(positions) / factor) : positions,
  };
}
