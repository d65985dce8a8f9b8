import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { isRecord, show } from "../../../base/json.ts";
import { parseWith, positive, size } from "../../../base/schema.ts";
import { modernLayers } from "../../blocks/encoder.ts";
import type { Family, Raw } from "../family.ts";
import { readEncoder } from "../reading/encoder.ts";
import { ropeOf, ropeSchema } from "../reading/rope.ts";

const schema = z.object({
  layer_types: z.array(z.enum(["full_attention", "sliding_attention"])).nullish(),
  global_attn_every_n_layers: size.default(3),
  local_attention: size.default(128),
  rope_parameters: z.object({ full_attention: ropeSchema.nullish(), sliding_attention: ropeSchema.nullish() }).nullish(),
  rope_scaling: ropeSchema.nullish(),
  global_rope_theta: positive.nullish(),
  local_rope_theta: positive.nullish(),
  classifier_activation: z.string().default("gelu"),
  classifier_pooling: z.string().default("cls"),
});

/** Keys that are false in all published models, and true by default in none. */
const PLAIN = ["norm_bias", "attention_bias", "mlp_bias", "classifier_bias"] as const;

/** @throws {UserError} parts that published models do not have */
function checkPlain(raw: Raw, where: string): void {
  const other = PLAIN.find((key) => raw[key] === true);
  if (other !== undefined) throw new UserError(`${where}: ${other} true is not supported; expected false`);
  if (raw["decoder_bias"] === false) throw new UserError(`${where}: decoder_bias false is not supported; expected true`);
  const { architectures } = raw;
  const pooling = raw["classifier_pooling"] ?? "cls";
  if (pooling !== "cls" && Array.isArray(architectures) && architectures.includes("ModernBertForSequenceClassification"))
    throw new UserError(`${where}: classifier_pooling ${show(pooling)} is not supported; expected "cls"`);
}

/**
 * ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663), and with it mmBERT: norms without biases in front of the branches, rotary
 * positions, gated MLPs, and layers that see a few tokens to both sides alone between those that see all.
 */
export const modernBert: Family = {
  type: "modernbert",
  architecture: "ModernBertForMaskedLM",
  models: ["ModernBERT"],
  read(raw, where) {
    checkPlain(raw, where);
    const plain = {
      vocab_size: 50_368,
      intermediate_size: 1152,
      num_hidden_layers: 22,
      max_position_embeddings: 8192,
      ...raw,
      hidden_act: raw["hidden_activation"] ?? "gelu",
      layer_norm_eps: raw["norm_eps"] ?? 1e-5,
      type_vocab_size: 0,
    };
    const base = readEncoder(plain, where, {
      family: "modernbert",
      modulePrefix: "model.",
      predicting: ["ModernBertForMaskedLM"],
      padId: 50_283,
      positionsBehindPadding: false,
    });
    // Old files have one scaling and two bases, where new ones have two of each.
    const own = isRecord(raw["rope_parameters"]) ? raw : { ...raw, rope_parameters: null };
    const config = parseWith(schema, own, where);
    if (config.classifier_activation !== "gelu")
      throw new UserError(
        `${where}: classifier_activation ${show(config.classifier_activation)} is not supported; expected "gelu"`,
      );
    const { layer_types: types, global_attn_every_n_layers: every } = config;
    if (types && types.length !== base.layers)
      throw new UserError(`${where}: layer_types has ${types.length} entries; expected one for each of ${base.layers} layers`);
    const rope = (kind: "full_attention" | "sliding_attention", theta: number) => {
      const given = { ...config.rope_parameters?.[kind], ...config.rope_scaling };
      return ropeOf({ rope_parameters: { ...given, rope_theta: given.rope_theta ?? theta } }, base.maxPositions, where);
    };
    return {
      ...base,
      rotaryDim: base.headDim,
      rope: rope("full_attention", config.global_rope_theta ?? 160_000),
      windowRope: rope("sliding_attention", config.local_rope_theta ?? 10_000),
      // Half of it to each side.
      slidingWindow: Math.floor(config.local_attention / 2) + 1,
      windowLayers: Array.from({ length: base.layers }, (_, layer) =>
        types ? types[layer] === "sliding_attention" : layer % every !== 0,
      ),
      positionTable: null,
      norm: "layer-without-bias",
      attentionBias: false,
      attentionOutputBias: false,
      mlpBias: false,
    };
  },
  modules: {
    embedding: "embeddings.tok_embeddings",
    head: "decoder",
    linear: ["Wqkv", "Wo", "Wi"],
    scaled: { outputs: ["Wqkv"], inputs: [] },
    encoder: {
      types: null,
      norm: "embeddings.norm",
      finalNorm: "final_norm",
      transform: { dense: "head.dense", denseBias: false, norm: "head.norm", bias: "decoder.bias", activation: "gelu" },
      textHead: {
        output: "classifier",
        bias: true,
        dense: { module: "head.dense", bias: false, activation: "gelu", norm: "head.norm", saved: "head" },
        saved: "classifier",
      },
    },
  },
  layers: modernLayers,
  gguf: null,
};
