import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.ts";
import type { FloatType } from "../graph/types.ts";
import { readJsonObject, show } from "./files.ts";
import { gemma3Text, plainGemma } from "./gemma-config.ts";

/** Model families: decoder blocks with RMSNorm, rotary positions and a gated MLP. */
export type Family = "llama" | "mistral" | "qwen2" | "qwen3" | "gemma2" | "gemma3_text";

export type HiddenAct = "silu" | "gelu" | "gelu_pytorch_tanh";

/** How rotary frequencies are stretched beyond the context of pre-training (Transformers' `rope_type`). */
export type RopeScaling =
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  /** Frequencies grow only beyond `maxPositions`, which training never exceeds: the same as `default` here. */
  | { readonly type: "dynamic"; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly originalMaxPositions: number;
      /** Multiplies cos and sin; null: derived from `factor`, `mscale` and `mscaleAllDim`. */
      readonly attentionFactor: number | null;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly mscale: number | null;
      readonly mscaleAllDim: number | null;
      readonly truncate: boolean;
    };

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
}

/** What the model builder needs of `config.json` (and of `generation_config.json`: the ids that end a text). */
export interface ModelConfig {
  readonly family: Family;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediateSize: number;
  readonly vocabSize: number;
  readonly rmsNormEps: number;
  readonly hiddenAct: HiddenAct;
  readonly tieWordEmbeddings: boolean;
  /** The longest context, in tokens, that the model was made for (before `rope.scaling`). */
  readonly maxPositions: number;
  readonly rope: RopeConfig;
  /** Tokens that a token sees, itself included, in the layers that `windowLayers` marks; null: no layer has a window. */
  readonly slidingWindow: number | null;
  /** Layer by layer; empty without a window. */
  readonly windowLayers: readonly boolean[];
  /** Rotary positions of the layers with a window, where they have their own (Gemma 3); null: `rope`. */
  readonly windowRope: RopeConfig | null;
  /** Factor of the attention scores: 1 / sqrt(headDim), or what Gemma's `query_pre_attn_scalar` gives. */
  readonly attentionScale: number;
  /** Attention scores s, or logits, become cap * tanh(s / cap) (Gemma 2); null: they stay. */
  readonly attentionSoftCap: number | null;
  readonly logitSoftCap: number | null;
  /** What is added to the weights of RMSNorm: 1 for Gemma, whose weights are offsets from it. */
  readonly normOffset: 0 | 1;
  /** Factor of the embeddings, not rounded: sqrt(hiddenSize) for Gemma, 1 for all others. */
  readonly embeddingScale: number;
  /** What the names of all modules but `lm_head` begin with: a Gemma 3 with images holds its text part apart. */
  readonly modulePrefix: "model." | "model.language_model.";
  /** Biases on the query, key and value projections. */
  readonly attentionBias: boolean;
  /** A bias on the attention output projection (Llama and Qwen3 with `attention_bias`; never Qwen2). */
  readonly attentionOutputBias: boolean;
  readonly mlpBias: boolean;
  /** RMSNorm of each query and key head (Qwen3). */
  readonly qkNorm: boolean;
  readonly bosTokenId: number | null;
  /** All ids that end a text, the model's own first. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** The dtype that the checkpoint is meant to be in. */
  readonly dtype: FloatType;
}

/** Class names per family, and the defaults that Transformers uses where config.json is silent. */
const FAMILIES: Readonly<Record<Family, FamilyDefaults>> = {
  llama: { architecture: "LlamaForCausalLM", maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
  mistral: { architecture: "MistralForCausalLM", maxPositions: 131_072, kvHeads: 8, headDim: null, bos: 1, eos: 2 },
  qwen2: { architecture: "Qwen2ForCausalLM", maxPositions: 32_768, kvHeads: 32, headDim: null, bos: null, eos: null },
  qwen3: { architecture: "Qwen3ForCausalLM", maxPositions: 32_768, kvHeads: 32, headDim: 128, bos: null, eos: null },
  // Whose own defaults are in gemma-config.ts.
  gemma2: { architecture: "Gemma2ForCausalLM", maxPositions: 8192, kvHeads: null, headDim: null, bos: null, eos: null },
  gemma3_text: { architecture: "Gemma3ForCausalLM", maxPositions: 131_072, kvHeads: null, headDim: null, bos: null, eos: null },
};

interface FamilyDefaults {
  readonly architecture: string;
  readonly maxPositions: number;
  /** null: as many as heads. */
  readonly kvHeads: number | null;
  /** null: hiddenSize / heads. */
  readonly headDim: number | null;
  readonly bos: number | null;
  readonly eos: number | null;
}

const SUPPORTED = "Llama (SmolLM2 included), Mistral, Qwen2, Qwen2.5, Qwen3, Gemma 2 and Gemma 3";

const DTYPES: Readonly<Record<string, FloatType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

const ACTIVATIONS: Readonly<Record<string, HiddenAct>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu_pytorch_tanh",
  gelu_pytorch_tanh: "gelu_pytorch_tanh",
};

/** Dimensions above this are surely a mistake, and keep every product below 2^53. */
const size = z.int().positive().max(16_777_216);
const tokenId = z.int().nonnegative();
const positive = z.number().positive();

const ROPE_TYPES = ["default", "linear", "dynamic", "llama3", "yarn"] as const;

const ropeSchema = z.object({
  rope_type: z.string().nullish(),
  type: z.string().nullish(),
  rope_theta: positive.nullish(),
  factor: z.number().min(1).nullish(),
  low_freq_factor: positive.nullish(),
  high_freq_factor: positive.nullish(),
  original_max_position_embeddings: size.nullish(),
  attention_factor: positive.nullish(),
  beta_fast: z.number().nullish(),
  beta_slow: z.number().nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().nullish(),
  partial_rotary_factor: z.number().nullish(),
});

const configSchema = z.object({
  hidden_size: size,
  num_hidden_layers: size,
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  intermediate_size: size,
  vocab_size: size,
  rms_norm_eps: z.number().nonnegative().default(1e-6),
  hidden_act: z.string().default("silu"),
  tie_word_embeddings: z.boolean().default(false),
  max_position_embeddings: z.int().positive().optional(),
  rope_theta: positive.nullish(),
  rope_scaling: ropeSchema.nullish(),
  rope_parameters: ropeSchema.nullish(),
  window_rope_parameters: ropeSchema.optional(),
  partial_rotary_factor: z.number().nullish(),
  sliding_window: size.nullish(),
  use_sliding_window: z.boolean().default(false),
  max_window_layers: z.int().nonnegative().default(28),
  layer_types: z.array(z.string()).nullish(),
  query_pre_attn_scalar: positive.optional(),
  attn_logit_softcapping: positive.nullish(),
  final_logit_softcapping: positive.nullish(),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  pad_token_id: z.int().nullish(),
  dtype: z.string().nullish(),
  torch_dtype: z.string().nullish(),
  original_max_position_embeddings: size.nullish(),
});

type RawConfig = z.infer<typeof configSchema>;

/** Reads `config.json` and, when there is one, `generation_config.json` of a model folder. @throws {UserError} */
export function loadConfig(folder: string): ModelConfig {
  const path = join(folder, "config.json");
  const generation = join(folder, "generation_config.json");
  return parseConfig(readJsonObject(path), path, existsSync(generation) ? readJsonObject(generation) : {});
}

/**
 * @param where names the file in errors
 * @throws {UserError} unknown architecture, missing or wrong values, features that are not supported
 */
export function parseConfig(
  raw: Readonly<Record<string, unknown>>,
  where = "config.json",
  generation: Readonly<Record<string, unknown>> = {},
): ModelConfig {
  if (raw.model_type === "gemma3") {
    return { ...parseConfig(gemma3Text(raw, where), where, generation), modulePrefix: "model.language_model." };
  }
  const family = familyOf(raw, where);
  const defaults = FAMILIES[family];
  const isGemma = family === "gemma2" || family === "gemma3_text";
  const config = parseWith(configSchema, isGemma ? plainGemma(raw, family, where) : raw, where);
  if (raw.quantization_config !== undefined && raw.quantization_config !== null) {
    throw new UserError(`${where}: the checkpoint is quantised (quantization_config); use the original bf16, f16 or f32 model`);
  }
  const heads = config.num_attention_heads;
  const kvHeads = config.num_key_value_heads === undefined ? (defaults.kvHeads ?? heads) : (config.num_key_value_heads ?? heads);
  if (heads % kvHeads !== 0) {
    throw new UserError(`${where}: num_attention_heads (${heads}) is not a multiple of num_key_value_heads (${kvHeads})`);
  }
  const headDim = config.head_dim ?? defaults.headDim ?? config.hidden_size / heads;
  if (!Number.isInteger(headDim)) {
    throw new UserError(`${where}: hidden_size (${config.hidden_size}) is not a multiple of num_attention_heads (${heads})`);
  }
  if (headDim % 2 !== 0) throw new UserError(`${where}: head_dim is ${headDim}; rotary positions need an even number`);
  const hiddenAct = Object.hasOwn(ACTIVATIONS, config.hidden_act) ? ACTIVATIONS[config.hidden_act] : undefined;
  if (!hiddenAct) {
    throw new UserError(
      `${where}: hidden_act ${show(config.hidden_act)} is not supported; expected one of ${Object.keys(ACTIVATIONS).join(", ")}`,
    );
  }
  const maxPositions = config.max_position_embeddings ?? defaults.maxPositions;
  const dtypeName = config.dtype ?? config.torch_dtype ?? "float32";
  return {
    family,
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    intermediateSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    rmsNormEps: config.rms_norm_eps,
    hiddenAct,
    tieWordEmbeddings: config.tie_word_embeddings,
    maxPositions,
    rope: ropeOf(config, maxPositions, where),
    ...windowOf(family, raw, config, where),
    windowRope: config.window_rope_parameters
      ? ropeOf({ ...config, rope_parameters: config.window_rope_parameters }, maxPositions, where)
      : null,
    attentionScale: 1 / Math.sqrt(isGemma ? config.query_pre_attn_scalar! : headDim),
    attentionSoftCap: (isGemma && config.attn_logit_softcapping) || null,
    logitSoftCap: (isGemma && config.final_logit_softcapping) || null,
    normOffset: isGemma ? 1 : 0,
    embeddingScale: isGemma ? Math.sqrt(config.hidden_size) : 1,
    modulePrefix: "model.",
    // Qwen2 always has these three biases and never the fourth; Mistral has none.
    attentionBias: family === "qwen2" || (family !== "mistral" && config.attention_bias),
    attentionOutputBias: (isGemma || family === "llama" || family === "qwen3") && config.attention_bias,
    mlpBias: family === "llama" && config.mlp_bias,
    qkNorm: family === "qwen3" || family === "gemma3_text",
    bosTokenId: config.bos_token_id === undefined ? defaults.bos : config.bos_token_id,
    eosTokenIds: eosOf(config.eos_token_id === undefined ? defaults.eos : config.eos_token_id, generation, where),
    padTokenId:
      config.pad_token_id !== undefined && config.pad_token_id !== null && config.pad_token_id >= 0 ? config.pad_token_id : null,
    dtype: DTYPES[dtypeName] ?? "f32",
  };
}

function familyOf(raw: Readonly<Record<string, unknown>>, where: string): Family {
  const { model_type: type, architectures } = raw;
  const names = Array.isArray(architectures) ? architectures.filter((name) => typeof name === "string") : [];
  const found = Object.entries(FAMILIES).find(([family, { architecture }]) =>
    typeof type === "string" ? family === type : names.includes(architecture),
  );
  if (!found)
    throw new UserError(`${where}: architecture ${show(names[0] ?? type)} is not supported; supported are ${SUPPORTED}`);
  const [family, { architecture }] = found as [Family, FamilyDefaults];
  if (names.length > 0 && !names.includes(architecture)) {
    throw new UserError(`${where}: architecture ${show(names[0])} is not supported; expected ${architecture}`);
  }
  return family;
}

function ropeOf(config: RawConfig, maxPositions: number, where: string): RopeConfig {
  // As in Transformers 5, a rope_scaling that is there wins over rope_parameters.
  const rope = config.rope_scaling ?? config.rope_parameters ?? {};
  const partial = rope.partial_rotary_factor ?? config.partial_rotary_factor ?? 1;
  if (partial !== 1) throw new UserError(`${where}: partial_rotary_factor ${partial} is not supported; expected 1`);
  const name = rope.rope_type ?? rope.type ?? "default";
  const type = ROPE_TYPES.find((known) => known === name);
  if (!type) throw new UserError(`${where}: rope_type ${show(name)} is not supported; expected one of ${ROPE_TYPES.join(", ")}`);
  const need = (key: "factor" | "low_freq_factor" | "high_freq_factor"): number => {
    const value = rope[key];
    if (value === undefined || value === null) throw new UserError(`${where}: rope_type "${type}" needs a number "${key}"`);
    return value;
  };
  const originalMaxPositions = config.original_max_position_embeddings ?? rope.original_max_position_embeddings ?? maxPositions;
  const theta = rope.rope_theta ?? config.rope_theta ?? 10_000;
  switch (type) {
    case "default":
      return { theta, scaling: { type } };
    case "linear":
    case "dynamic":
      return { theta, scaling: { type, factor: need("factor") } };
    case "llama3": {
      const [factor, lowFreqFactor, highFreqFactor] = [need("factor"), need("low_freq_factor"), need("high_freq_factor")];
      if (highFreqFactor <= lowFreqFactor) {
        throw new UserError(
          `${where}: high_freq_factor (${highFreqFactor}) must be greater than low_freq_factor (${lowFreqFactor})`,
        );
      }
      return { theta, scaling: { type, factor, lowFreqFactor, highFreqFactor, originalMaxPositions } };
    }
    case "yarn":
      return {
        theta,
        scaling: {
          type,
          factor: rope.factor ?? maxPositions / originalMaxPositions,
          originalMaxPositions,
          attentionFactor: rope.attention_factor ?? null,
          betaFast: rope.beta_fast || 32,
          betaSlow: rope.beta_slow || 1,
          mscale: rope.mscale ?? null,
          mscaleAllDim: rope.mscale_all_dim ?? null,
          truncate: rope.truncate ?? true,
        },
      };
  }
}

type Window = Pick<ModelConfig, "slidingWindow" | "windowLayers">;

/** Which layers see only the last tokens. Llama ignores the key; Mistral applies it everywhere; Qwen on request. */
function windowOf(family: Family, raw: Readonly<Record<string, unknown>>, config: RawConfig, where: string): Window {
  const none: Window = { slidingWindow: null, windowLayers: [] };
  if (family === "llama") return none;
  const given = raw.sliding_window === undefined && !family.startsWith("gemma") ? 4096 : config.sliding_window;
  if (given === null || given === undefined) return none;
  if (family.startsWith("qwen") && !config.use_sliding_window) return none;
  const { num_hidden_layers: layers, max_window_layers: first, layer_types: types } = config;
  if (types && family !== "mistral") checkLayerTypes(types, layers, where);
  const windowLayers = Array.from({ length: layers }, (_, layer) =>
    family === "mistral" ? true : types ? types[layer] === "sliding_attention" : layer >= first,
  );
  return windowLayers.includes(true) ? { slidingWindow: given, windowLayers } : none;
}

function checkLayerTypes(types: readonly string[], layers: number, where: string): void {
  const other = types.find((type) => type !== "full_attention" && type !== "sliding_attention");
  if (other === undefined && types.length === layers) return;
  throw new UserError(
    `${where}: layer_types has ${other === undefined ? `${types.length} entries` : show(other)}; ` +
      `expected full_attention or sliding_attention for each of ${layers} layers`,
  );
}

function eosOf(
  own: number | number[] | null | undefined,
  generation: Readonly<Record<string, unknown>>,
  where: string,
): number[] {
  const parsed = configSchema.shape.eos_token_id.safeParse(generation.eos_token_id);
  if (!parsed.success) throw new UserError(`${where} (generation_config.json): eos_token_id must be an id or a list of ids`);
  return [...new Set([own ?? [], parsed.data ?? []].flat())];
}

/** `schema.parse` whose first issue becomes one sentence. */
export function parseWith<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const key = issue.path.join(".");
  let actual: unknown = value;
  for (const part of issue.path) actual = (actual as Record<PropertyKey, unknown> | undefined)?.[part];
  throw new UserError(
    `${where}: ${key ? `"${key}" is ${actual === undefined ? "missing" : show(actual)}: ` : ""}${issue.message}`,
  );
}

/** The longest sequence, in tokens, that rotary positions are defined for. */
export function contextLimit(config: Pick<ModelConfig, "maxPositions" | "rope">): number {
  const { scaling } = config.rope;
  if (scaling.type === "linear") return Math.floor(config.maxPositions * scaling.factor);
  if (scaling.type === "yarn") return Math.max(config.maxPositions, Math.floor(scaling.originalMaxPositions * scaling.factor));
  return config.maxPositions;
}

/**
 * Checks that sequences of `length` tokens fit the model.
 * @throws {UserError}
 */
export function checkContext(config: Pick<ModelConfig, "maxPositions" | "rope">, length: number): void {
  const limit = contextLimit(config);
  if (length > limit) {
    throw new UserError(
      `sequence length ${length} is longer than the model's context of ${limit} tokens; choose ${limit} or less`,
    );
  }
}
