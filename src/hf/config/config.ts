import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import type { FloatType } from "../../graph/types.ts";
import { readJsonObject, show } from "../../base/json.ts";
import { gemma3Text, plainGemma } from "./gemma-config.ts";
import { plainInternlm2, plainInternlm3, plainPhi3 } from "./plain-config.ts";
import { checkLongRope, type RopeConfig, ropeOf, ropeSchema } from "./rope-config.ts";
import { parseWith, positive, size } from "../../base/schema.ts";

/** Model families: decoder blocks with RMSNorm, rotary positions and a gated MLP. */
export type Family = "llama" | "mistral" | "qwen2" | "qwen3" | "gemma2" | "gemma3_text" | "phi3" | "internlm2" | "internlm3";

export type HiddenAct = "silu" | "gelu" | "gelu_pytorch_tanh";

/** What the model builder needs of `config.json` (and of `generation_config.json`: the ids that end a text). */
export interface ModelConfig {
  readonly family: Family;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** How many features of each head are rotated, the first ones: all but in a Phi-4-mini. */
  readonly rotaryDim: number;
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
  /** What the names of all modules but the head begin with: a Gemma 3 with images holds its text part apart. */
  readonly modulePrefix: "model." | "model.language_model.";
  /** Biases on the query, key and value projections. */
  readonly attentionBias: boolean;
  /** A bias on the attention output projection. */
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
  phi3: { architecture: "Phi3ForCausalLM", maxPositions: 4096, kvHeads: null, headDim: null, bos: 1, eos: 32_000 },
  internlm2: { architecture: "InternLM2ForCausalLM", maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
  internlm3: { architecture: "InternLM3ForCausalLM", maxPositions: 32_768, kvHeads: 2, headDim: 128, bos: 1, eos: 2 },
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

const SUPPORTED =
  "Llama (SmolLM2 included), Mistral, Qwen2, Qwen2.5, Qwen3, Gemma 2, Gemma 3, Phi-3, Phi-3.5, Phi-4-mini, InternLM2, InternLM2.5 and InternLM3";

const DTYPES: Readonly<Record<string, FloatType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

const ACTIVATIONS: Readonly<Record<string, HiddenAct>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu_pytorch_tanh",
  gelu_pytorch_tanh: "gelu_pytorch_tanh",
};

const tokenId = z.int().nonnegative();

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
  const config = parseWith(configSchema, plain(raw, family, where), where);
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
  const rotaryDim = rotaryDimOf(family, config, headDim, where);
  const rope = ropeOf(config, maxPositions, where);
  checkLongRope(rope, rotaryDim, where);
  const dtypeName = config.dtype ?? config.torch_dtype ?? "float32";
  return {
    family,
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    rotaryDim,
    intermediateSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    rmsNormEps: config.rms_norm_eps,
    hiddenAct,
    tieWordEmbeddings: config.tie_word_embeddings,
    maxPositions,
    rope,
    ...windowOf(family, config, where),
    windowRope: config.window_rope_parameters
      ? ropeOf({ ...config, rope_parameters: config.window_rope_parameters }, maxPositions, where)
      : null,
    attentionScale: 1 / Math.sqrt(isGemma ? config.query_pre_attn_scalar! : headDim),
    attentionSoftCap: (isGemma && config.attn_logit_softcapping) || null,
    logitSoftCap: (isGemma && config.final_logit_softcapping) || null,
    normOffset: isGemma ? 1 : 0,
    embeddingScale: isGemma ? Math.sqrt(config.hidden_size) : 1,
    modulePrefix: "model.",
    ...biasesOf(family, config),
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

/** A configuration in the words of the schema, with the family's own defaults. */
function plain(raw: Readonly<Record<string, unknown>>, family: Family, where: string): Readonly<Record<string, unknown>> {
  switch (family) {
    case "gemma2":
    case "gemma3_text":
      return plainGemma(raw, family, where);
    case "phi3":
      return plainPhi3(raw);
    case "internlm2":
      return plainInternlm2(raw);
    case "internlm3":
      return plainInternlm3(raw);
    default:
      return raw;
  }
}

function biasesOf(
  family: Family,
  { attention_bias: attention, mlp_bias: mlp }: RawConfig,
): Pick<ModelConfig, "attentionBias" | "attentionOutputBias" | "mlpBias"> {
  switch (family) {
    case "mistral":
    case "phi3":
      return { attentionBias: false, attentionOutputBias: false, mlpBias: false };
    case "qwen2":
      return { attentionBias: true, attentionOutputBias: false, mlpBias: false };
    case "llama":
      return { attentionBias: attention, attentionOutputBias: attention, mlpBias: mlp };
    case "internlm3":
      return { attentionBias: attention, attentionOutputBias: mlp, mlpBias: mlp };
    case "qwen3":
    case "gemma2":
    case "gemma3_text":
    case "internlm2":
      return { attentionBias: attention, attentionOutputBias: attention, mlpBias: false };
  }
}

function rotaryDimOf(family: Family, config: RawConfig, headDim: number, where: string): number {
  const partOf = (rope: RawConfig["rope_parameters"]) => rope?.partial_rotary_factor ?? config.partial_rotary_factor ?? 1;
  const partial = partOf(config.rope_scaling ?? config.rope_parameters);
  const other = [partial, partOf(config.window_rope_parameters)].find((part) => part !== 1);
  if (other !== undefined && family !== "phi3") {
    throw new UserError(`${where}: partial_rotary_factor ${other} is not supported; expected 1`);
  }
  const dim = Math.floor(headDim * partial);
  if (dim < 2 || dim > headDim || dim % 2 !== 0) {
    throw new UserError(
      `${where}: partial_rotary_factor ${partial} rotates ${dim} of ${headDim} features of a head; expected an even number`,
    );
  }
  return dim;
}

type Window = Pick<ModelConfig, "slidingWindow" | "windowLayers">;

/**
 * Which layers see only the last tokens. Llama and InternLM ignore the key; Mistral and Phi-3 apply it everywhere; Qwen on
 * request.
 */
function windowOf(family: Family, config: RawConfig, where: string): Window {
  const none: Window = { slidingWindow: null, windowLayers: [] };
  if (family === "llama" || family.startsWith("internlm")) return none;
  const byDefault = family === "mistral" || family.startsWith("qwen") ? 4096 : null;
  const given = config.sliding_window === undefined ? byDefault : config.sliding_window;
  if (given === null) return none;
  if (family.startsWith("qwen") && !config.use_sliding_window) return none;
  const { num_hidden_layers: layers, max_window_layers: first, layer_types: types } = config;
  const everywhere = family === "mistral" || family === "phi3";
  if (types && !everywhere) checkLayerTypes(types, layers, where);
  const windowLayers = Array.from({ length: layers }, (_, layer) =>
    everywhere ? true : types ? types[layer] === "sliding_attention" : layer >= first,
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
