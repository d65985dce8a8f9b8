import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { parseWith, positive, size } from "../../../base/schema.ts";
import type { ExpertsConfig, HeadShape, LayerInputsConfig, ModelConfig, SharedKeysConfig } from "../../config.ts";
import type { RopeConfig } from "../../rope.ts";
import type { Raw } from "../family.ts";
import { attentionBiases, type CommonConfig, type ReadingRules, typesByPeriod, windowByTypes } from "../reading/common.ts";
import { ropeOf, ropeSchema } from "../reading/rope.ts";

/** Transformers' defaults where the `config.json` of a Gemma 4 is silent. */
export const GEMMA4_DEFAULTS: Raw = {
  hidden_size: 2304,
  intermediate_size: 9216,
  num_hidden_layers: 30,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  head_dim: 256,
  vocab_size: 262_144,
  hidden_activation: "gelu_pytorch_tanh",
  max_position_embeddings: 131_072,
  sliding_window: 512,
  tie_word_embeddings: true,
  pad_token_id: 0,
  eos_token_id: 1,
  bos_token_id: 2,
};

/** The layers without a window are the last of each six, where the file does not list them. */
const PERIOD = 6;

/** The keys that other families have not. */
const ownSchema = z.object({
  num_hidden_layers: size,
  layer_types: z.array(z.string()).nullish(),
  head_dim: size,
  num_key_value_heads: size,
  num_attention_heads: size,
  vocab_size: size,
  global_head_dim: size.nullish(),
  num_global_key_value_heads: size.nullish(),
  per_layer_config: z.record(z.string(), z.object({ head_dim: size.optional(), num_key_value_heads: size.optional() })).nullish(),
  attention_k_eq_v: z.boolean().default(false),
  num_kv_shared_layers: z.int().nonnegative().default(0),
  use_double_wide_mlp: z.boolean().default(false),
  hidden_size_per_layer_input: z.int().nonnegative().nullish(),
  vocab_size_per_layer_input: size.default(262_144),
  enable_moe_block: z.boolean().default(false),
  num_experts: size.nullish(),
  top_k_experts: size.nullish(),
  moe_intermediate_size: size.nullish(),
  rope_parameters: z.object({ full_attention: ropeSchema.nullish(), sliding_attention: ropeSchema.nullish() }).nullish(),
});

type OwnConfig = z.infer<typeof ownSchema>;

/** The kinds of layers; the last one has no window, whatever the file says, as in Transformers. */
function typesOf({ num_hidden_layers: layers, layer_types: given }: OwnConfig): string[] {
  const types = given ?? typesByPeriod(layers, PERIOD);
  return [...types.slice(0, -1), "full_attention"];
}

/**
 * The heads of the layers without a window: by keys of their own, as the published files have them, or layer by layer, as Transformers writes them.
 * @throws {UserError} layers of one kind that have different heads
 */
function fullHeadsOf(config: OwnConfig, types: readonly string[], where: string): HeadShape {
  const { head_dim: headDim, num_key_value_heads: kvHeads, per_layer_config: byLayer } = config;
  if (!byLayer) {
    const own = config.attention_k_eq_v ? config.num_global_key_value_heads : null;
    return checked({ headDim: config.global_head_dim ?? 512, kvHeads: own ?? kvHeads }, config, where);
  }
  const shapes = types.map((_, layer): HeadShape => {
    const own = byLayer[layer];
    return { headDim: own?.head_dim ?? headDim, kvHeads: own?.num_key_value_heads ?? kvHeads };
  });
  const full = shapes[types.indexOf("full_attention")]!;
  const expected = (type: string) => (type === "full_attention" ? full : { headDim, kvHeads });
  const other = types.findIndex((type, layer) => {
    const { headDim, kvHeads } = expected(type);
    return shapes[layer]!.headDim !== headDim || shapes[layer]!.kvHeads !== kvHeads;
  });
  if (other >= 0)
    throw new UserError(
      `${where}: per_layer_config gives layer ${other} other heads than layers of its kind (${types[other]}) have; expected one shape for each kind`,
    );
  return checked(full, config, where);
}

function checked(shape: HeadShape, { num_attention_heads: heads }: OwnConfig, where: string): HeadShape {
  if (shape.headDim % 2 !== 0)
    throw new UserError(`${where}: global_head_dim is ${shape.headDim}; rotary positions need an even number`);
  if (heads % shape.kvHeads !== 0)
    throw new UserError(
      `${where}: num_attention_heads (${heads}) is not a multiple of num_global_key_value_heads (${shape.kvHeads})`,
    );
  return shape;
}

/** @throws {UserError} shared layers of a kind that no layer before them has */
function sharedKeysOf(config: OwnConfig, types: readonly string[], where: string): SharedKeysConfig | null {
  const { num_kv_shared_layers: shared, num_hidden_layers: layers } = config;
  if (shared === 0) return null;
  const first = layers - shared;
  const lacking = types.slice(Math.max(0, first)).find((type) => !types.slice(0, Math.max(0, first)).includes(type));
  if (lacking !== undefined)
    throw new UserError(
      `${where}: num_kv_shared_layers is ${shared}; expected a layer of the type ${lacking} among the ${Math.max(0, first)} before them`,
    );
  return { layers: shared, hasWideMlp: config.use_double_wide_mlp };
}

/** @throws {UserError} a table without a row for each token */
function layerInputsOf(config: OwnConfig, where: string): LayerInputsConfig | null {
  const { hidden_size_per_layer_input: given, vocab_size_per_layer_input: rows, vocab_size: vocabulary } = config;
  const width = given === undefined ? 256 : (given ?? 0);
  if (width === 0) return null;
  if (rows < vocabulary)
    throw new UserError(`${where}: vocab_size_per_layer_input is ${rows}; expected at least vocab_size, ${vocabulary}`);
  return { size: width, rows };
}

/** @throws {UserError} experts without numbers, or with an activation that experts do not have */
function expertsOf(config: OwnConfig, { hiddenAct }: { readonly hiddenAct: unknown }, where: string): ExpertsConfig | null {
  const { enable_moe_block: isMixture, num_experts: count, top_k_experts: perToken, moe_intermediate_size: width } = config;
  if (!isMixture) return null;
  if (!count || !perToken || !width) {
    const missing = !count ? "num_experts" : !perToken ? "top_k_experts" : "moe_intermediate_size";
    throw new UserError(`${where}: enable_moe_block is true, but there is no ${missing}`);
  }
  if (perToken > count)
    throw new UserError(`${where}: top_k_experts is ${perToken}; expected at most the number of experts, ${count}`);
  if (hiddenAct !== "gelu_pytorch_tanh" && hiddenAct !== "silu")
    throw new UserError(
      `${where}: hidden_activation ${show(hiddenAct)} of experts is not supported; expected "gelu_pytorch_tanh" or "silu"`,
    );
  return {
    count,
    width,
    perToken,
    score: "softmax",
    normalised: true,
    choiceBias: false,
    scale: 1,
    limits: null,
    bias: false,
    sharedWidth: null,
    layers: Array<boolean>(config.num_hidden_layers).fill(true),
  };
}

const proportional = z.object({
  rope_theta: positive.default(10_000),
  factor: positive.default(1),
  share: z.number().gt(0).max(1),
});

/** @throws {UserError} a kind that is not known, or keys that are missing */
function kindRope(raw: z.infer<typeof ropeSchema>, maxPositions: number, where: string): RopeConfig {
  const { rope_type: type, rope_theta: theta, factor, partial_rotary_factor: share } = raw;
  if (type !== "proportional") return ropeOf({ rope_parameters: raw }, maxPositions, where);
  const own = { rope_theta: theta ?? undefined, factor: factor ?? undefined, share: share ?? 1 };
  const read = proportional.safeParse(own);
  if (!read.success)
    throw new UserError(`${where}: rope_parameters has partial_rotary_factor ${show(share)}; expected more than 0 and at most 1`);
  return { theta: read.data.rope_theta, scaling: { type: "proportional", share: read.data.share, factor: read.data.factor } };
}

const USUAL_ROPE = {
  full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1_000_000 },
  sliding_attention: { rope_type: "default", rope_theta: 10_000 },
};

/** What `readDecoder` is to be told of a Gemma 4's `config.json` with its defaults. @throws {UserError} */
export function gemma4Rules(raw: Raw, where: string, generation: Raw): [Raw, string, Raw, ReadingRules] {
  const config = parseWith(ownSchema, raw, where);
  const types = typesOf(config);
  const { full_attention: full, sliding_attention: sliding } = config.rope_parameters ?? USUAL_ROPE;
  const more = (common: CommonConfig): Partial<ModelConfig> => {
    const maxPositions = common.max_position_embeddings!;
    return {
      rope: kindRope(full ?? USUAL_ROPE.full_attention, maxPositions, where),
      windowRope: kindRope(sliding ?? USUAL_ROPE.sliding_attention, maxPositions, where),
      fullHeads: fullHeadsOf(config, types, where),
      keysAreValues: config.attention_k_eq_v,
      sharedKeys: sharedKeysOf(config, types, where),
      layerInputs: layerInputsOf(config, where),
      experts: expertsOf(config, { hiddenAct: raw["hidden_activation"] }, where),
      qkNorm: "heads",
      attentionScale: 1,
      logitSoftCap: common.final_logit_softcapping || null,
      embeddingScale: Math.sqrt(common.hidden_size),
      roundsEmbeddingScale: true,
    };
  };
  const plain = { ...raw, hidden_act: raw["hidden_activation"], layer_types: types, rope_parameters: undefined };
  const rules: ReadingRules = {
    family: "gemma4_text",
    defaults: { maxPositions: 131_072, kvHeads: null, headDim: null, bos: null, eos: null },
    biases: attentionBiases,
    window: (common, at) => windowByTypes(types, common, at),
    more,
  };
  return [plain, where, generation, rules];
}
