import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import type { FloatType } from "../../../base/dtype.ts";
import { show } from "../../../base/json.ts";
import { parseWith, positive, size } from "../../../base/schema.ts";
import type { HiddenAct, ModelConfig } from "../../config.ts";
import type { Raw } from "../family.ts";
import { checkLongRope, ropeOf, ropeSchema } from "./rope.ts";

/** The part that the families' readers share: the keys of `config.json` that most families have, and their legal values. */

const DTYPES: Readonly<Record<string, FloatType>> = { float32: "f32", bfloat16: "bf16", float16: "f16" };

const ACTIVATIONS: Readonly<Record<string, HiddenAct>> = {
  silu: "silu",
  swish: "silu",
  gelu: "gelu",
  gelu_new: "gelu_pytorch_tanh",
  gelu_fast: "gelu_pytorch_tanh",
  gelu_pytorch_tanh: "gelu_pytorch_tanh",
  quick_gelu: "quick_gelu",
  relu: "relu",
  relu2: "relu2",
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

/** The keys that families share, checked. */
export type CommonConfig = z.infer<typeof configSchema>;

type Biases = Pick<ModelConfig, "attentionBias" | "attentionOutputBias" | "mlpBias">;
type Window = Pick<ModelConfig, "slidingWindow" | "windowLayers">;

export const noBiases = (): Biases => ({ attentionBias: false, attentionOutputBias: false, mlpBias: false });
/** Biases on all four projections of attention, where the file says so. */
export const attentionBiases = ({ attention_bias: attention }: CommonConfig): Biases => ({
  attentionBias: attention,
  attentionOutputBias: attention,
  mlpBias: false,
});
/** The same, and likewise on the layers of the MLP. */
export const layerBiases = (config: CommonConfig): Biases => ({ ...attentionBiases(config), mlpBias: config.mlp_bias });

/** Settings of a model in the places of those that are some families' own. */
export const PLAIN = {
  storedTransposed: false,
  headBias: false,
  positionTable: null,
  parallelBranches: false,
  norm: "rms",
  rotatesNeighbours: false,
  rotaryLayers: [],
  queryRope: null,
  fullHeads: null,
  keysAreValues: false,
  sharedKeys: null,
  layerInputs: null,
  attentionSoftCap: null,
  logitSoftCap: null,
  normOffset: 0,
  embeddingScale: 1,
  roundsEmbeddingScale: false,
  residualScale: 1,
  logitScale: 1,
  qkNorm: null,
  convolution: null,
  delta: null,
  attentionGate: false,
  attentionSinks: false,
  experts: null,
  textHead: null,
} satisfies Partial<ModelConfig>;

/** How a family reads what the schema holds. */
export interface ReadingRules {
  /** `Family.type`. */
  readonly family: string;
  /** Transformers' defaults where the file is silent. */
  readonly defaults: {
    readonly maxPositions: number;
    /** null: as many as heads. */
    readonly kvHeads: number | null;
    /** null: hiddenSize / heads. */
    readonly headDim: number | null;
    readonly bos: number | null;
    readonly eos: number | null;
  };
  biases(config: CommonConfig): Biases;
  /** Layers that see only the last tokens; absent: none, whatever the file says. @throws {UserError} */
  window?(config: CommonConfig, where: string): Window;
  /** What `partial_rotary_factor` is where the file is silent; absent: it has to be 1. */
  readonly partialRotary?: number;
  /** True: positions are learned, and heads rotate nothing, whatever the file says. */
  readonly learnsPositions?: boolean;
  /** The family's own names of shared keys, which errors are to speak of. */
  readonly keys?: Readonly<Record<string, string>>;
  /** Returns what else the family has, in place of what most have. @throws {UserError} */
  more?(config: CommonConfig, where: string): Partial<ModelConfig>;
}

/**
 * Reads a configuration whose keys are those of a Llama, or were given their names and the family's defaults.
 * @param where names the file in errors
 * @throws {UserError} missing or wrong values
 */
export function readDecoder(raw: Raw, where: string, generation: Raw, rules: ReadingRules): ModelConfig {
  try {
    return readShared(raw, where, generation, rules);
  } catch (error) {
    if (!(error instanceof UserError) || !rules.keys) throw error;
    const names = new RegExp(`\\b(${Object.keys(rules.keys).join("|")})\\b`, "g");
    throw new UserError(where + error.message.slice(where.length).replace(names, (key) => rules.keys![key]!));
  }
}

function readShared(raw: Raw, where: string, generation: Raw, rules: ReadingRules): ModelConfig {
  const { defaults, learnsPositions = false } = rules;
  const config = parseWith(configSchema, raw, where);
  checkQuantised(raw, where);
  const { heads, kvHeads, headDim } = headsOf(config, defaults, where);
  if (!learnsPositions && headDim % 2 !== 0)
    throw new UserError(`${where}: head_dim is ${headDim}; rotary positions need an even number`);
  const maxPositions = config.max_position_embeddings ?? defaults.maxPositions;
  const hiddenAct = activationOf(config.hidden_act, where);
  const rotaryDim = learnsPositions ? 0 : rotaryDimOf(config, headDim, rules.partialRotary, where);
  const rope = ropeOf(learnsPositions ? {} : config, maxPositions, where);
  checkLongRope(rope, rotaryDim, where);
  const { bos_token_id: bos, eos_token_id: eos, pad_token_id: pad } = config;
  return {
    family: rules.family,
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads,
    kvHeads,
    headDim,
    rotaryDim,
    intermediateSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    normEps: config.rms_norm_eps,
    ...PLAIN,
    encoder: null,
    hiddenAct,
    tieWordEmbeddings: config.tie_word_embeddings,
    maxPositions,
    rope,
    ...(rules.window?.(config, where) ?? NO_WINDOW),
    windowRope: config.window_rope_parameters
      ? ropeOf({ ...config, rope_parameters: config.window_rope_parameters }, maxPositions, where)
      : null,
    attentionScale: 1 / Math.sqrt(headDim),
    modulePrefix: "model.",
    ...rules.biases(config),
    bosTokenId: bos === undefined ? defaults.bos : bos,
    eosTokenIds: eosOf(eos === undefined ? defaults.eos : eos, generation, where),
    padTokenId: pad !== undefined && pad !== null && pad >= 0 ? pad : null,
    dtype: dtypeOf(config),
    ...rules.more?.(config, where),
  };
}

/** @throws {UserError} a checkpoint whose weights are codes */
export function checkQuantised(raw: Raw, where: string): void {
  if (raw["quantization_config"] !== undefined && raw["quantization_config"] !== null) {
    throw new UserError(`${where}: the checkpoint is quantised (quantization_config); use the original bf16, f16 or f32 model`);
  }
}

/** The dtype that the checkpoint is meant to be in. */
export function dtypeOf(config: {
  readonly dtype?: string | null | undefined;
  readonly torch_dtype?: string | null | undefined;
}): FloatType {
  return DTYPES[config.dtype ?? config.torch_dtype ?? "float32"] ?? "f32";
}

function headsOf(
  config: CommonConfig,
  defaults: ReadingRules["defaults"],
  where: string,
): Pick<ModelConfig, "heads" | "kvHeads" | "headDim"> {
  const heads = config.num_attention_heads;
  const kvHeads = config.num_key_value_heads === undefined ? (defaults.kvHeads ?? heads) : (config.num_key_value_heads ?? heads);
  if (heads % kvHeads !== 0) {
    throw new UserError(`${where}: num_attention_heads (${heads}) is not a multiple of num_key_value_heads (${kvHeads})`);
  }
  const headDim = config.head_dim ?? defaults.headDim ?? headSize(config.hidden_size, heads, where);
  return { heads, kvHeads, headDim };
}

/** @throws {UserError} features that heads cannot share */
export function headSize(hiddenSize: number, heads: number, where: string): number {
  const dim = hiddenSize / heads;
  if (!Number.isInteger(dim)) {
    throw new UserError(`${where}: hidden_size (${hiddenSize}) is not a multiple of num_attention_heads (${heads})`);
  }
  return dim;
}

export function activationOf(name: string, where: string): HiddenAct {
  const activation = Object.hasOwn(ACTIVATIONS, name) ? ACTIVATIONS[name] : undefined;
  if (activation) return activation;
  throw new UserError(
    `${where}: hidden_act ${show(name)} is not supported; expected one of ${Object.keys(ACTIVATIONS).join(", ")}`,
  );
}

/** @param usual the family's share of a head; absent: only whole heads are rotated */
function rotaryDimOf(config: CommonConfig, headDim: number, usual: number | undefined, where: string): number {
  const partOf = (rope: CommonConfig["rope_parameters"]) =>
    rope?.partial_rotary_factor ?? config.partial_rotary_factor ?? usual ?? 1;
  const partial = partOf(config.rope_scaling ?? config.rope_parameters);
  const other = [partial, partOf(config.window_rope_parameters)].find((part) => part !== 1);
  if (other !== undefined && usual === undefined) {
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

export const NO_WINDOW: Window = { slidingWindow: null, windowLayers: [] };

/** The window in all layers; null or undefined is none. */
export function windowEverywhere(size: number | null | undefined, layers: number): Window {
  return size ? { slidingWindow: size, windowLayers: Array<boolean>(layers).fill(true) } : NO_WINDOW;
}

/**
 * The window in the layers that `layer_types` calls `sliding_attention`, without such a list in those from `max_window_layers` on.
 * @throws {UserError} a list that does not fit the layers
 */
export function windowByLayer(size: number | null | undefined, config: CommonConfig, where: string): Window {
  if (!size) return NO_WINDOW;
  const { num_hidden_layers: layers, max_window_layers: first, layer_types: types } = config;
  if (types) checkLayerTypes(types, layers, where);
  const windowLayers = Array.from({ length: layers }, (_, layer) =>
    types ? types[layer] === "sliding_attention" : layer >= first,
  );
  return windowLayers.includes(true) ? { slidingWindow: size, windowLayers } : NO_WINDOW;
}

/**
 * The window in the layers that a list of types calls `sliding_attention`.
 * @throws {UserError} a list that does not fit the layers, or no size of the window
 */
export function windowByTypes(types: readonly string[], config: CommonConfig, where: string): Window {
  if (!config.sliding_window && types.includes("sliding_attention"))
    throw new UserError(`${where}: layer_types has "sliding_attention", but there is no sliding_window`);
  return windowByLayer(config.sliding_window, { ...config, layer_types: [...types] }, where);
}

/** Kinds of layers of which one in each `period` sees the whole text, and the others a window. @param place of the one among them, the last by default */
export function typesByPeriod(layers: number, period: number, place = period - 1): string[] {
  return Array.from({ length: layers }, (_, i) => (i % period === place ? "full_attention" : "sliding_attention"));
}

function checkLayerTypes(types: readonly string[], layers: number, where: string): void {
  const other = types.find((type) => type !== "full_attention" && type !== "sliding_attention");
  if (other === undefined && types.length === layers) return;
  throw new UserError(
    `${where}: layer_types has ${other === undefined ? `${types.length} entries` : show(other)}; ` +
      `expected full_attention or sliding_attention for each of ${layers} layers`,
  );
}

function eosOf(own: number | number[] | null | undefined, generation: Raw, where: string): number[] {
  const parsed = configSchema.shape.eos_token_id.safeParse(generation["eos_token_id"]);
  if (!parsed.success) throw new UserError(`${where} (generation_config.json): eos_token_id must be an id or a list of ids`);
  return [...new Set([own ?? [], parsed.data ?? []].flat())];
}
