import type { Segment } from "../../graph/segment.ts";
import { Add } from "../../ops/add.ts";
import { activated } from "../blocks/mlp.ts";
import { layerNorm, norm } from "../blocks/norm.ts";
import type { ModelConfig } from "../config.ts";
import type { EncoderModules } from "../families/family.ts";
import { modulesOf } from "../families/index.ts";
import { linear, ParamScope } from "../linear.ts";
import { type BatchInput, type SegmentOptions, startGraph } from "../parts.ts";

/** The parts of a chain that an encoder has and a decoder has not: what is added to the embedding of words, and what stands before the head. */

function encoderModules(config: ModelConfig): EncoderModules {
  const { encoder } = modulesOf(config);
  if (!encoder) throw new Error(`${config.family} has no modules of an encoder`);
  return encoder;
}

/** Batch inputs of the embedding's program. */
export function embeddingInputs({ positionTable, layerInputs, encoder }: ModelConfig): readonly BatchInput[] {
  const hasTypes = encoder !== null && encoder.typeRows > 0;
  return [
    "ids",
    ...(layerInputs ? (["tableIds"] as const) : []),
    ...(positionTable ? (["positions"] as const) : []),
    ...(hasTypes ? (["types"] as const) : []),
  ];
}

/** x plus the rows of a table that a batch input lists. */
function plus(scope: ParamScope, { hiddenSize }: ModelConfig, x: string, table: string, rows: number, which: BatchInput): string {
  return scope.builder.value(Add, [x, scope.rows(`${table}.weight`, [rows, hiddenSize], which)], {}, `${table}.sum`);
}

/** The rows of words plus those of learned positions, where there are any: f32 [tokens, hiddenSize]. */
export function withPositions(scope: ParamScope, config: ModelConfig, words: string): string {
  const { positions } = modulesOf(config);
  const { positionTable } = config;
  if (positionTable === null) return words;
  if (positions === undefined) throw new Error(`the family ${config.family} names no table of positions`);
  return plus(scope, config, words, positions, positionTable.rows, "positions");
}

/** The norm of the sum of the rows of words, types and positions, in the order in which Transformers adds them: f32 [tokens, hiddenSize]. */
export function encoderEmbedding(scope: ParamScope, config: ModelConfig, words: string): string {
  const { types, norm } = encoderModules(config);
  const typed = types === null ? words : plus(scope, config, words, types, config.encoder!.typeRows, "types");
  return layerNorm(scope, config, withPositions(scope, config, typed), norm, config.hiddenSize);
}

/** Puts x [rows, hiddenSize], which leaves the last block, behind the model's final norm, where it has one. */
export function finallyNormed(scope: ParamScope, config: ModelConfig, x: string): string {
  const { finalNorm } = encoderModules(config);
  return finalNorm === null ? x : layerNorm(scope, config, x, `${config.modulePrefix}${finalNorm}`, config.hiddenSize);
}

/** Puts x [rows, hiddenSize] behind the final norm of a decoder, or of an encoder that has one. */
export function lastNormed(scope: ParamScope, config: ModelConfig, x: string): string {
  if (config.encoder && !config.encoder.hasDecoderBody) return finallyNormed(scope, config, x);
  return norm(scope, config, x, `${config.modulePrefix}${modulesOf(config).norm ?? "norm"}`, config.hiddenSize);
}

/** The model's final norm as a segment of its own, as the end of a chain without a head; null: the last block gives the hidden states. */
export function buildFinalNorm(config: ModelConfig, options: SegmentOptions): Segment | null {
  if (!config.encoder!.hasDecoderBody && encoderModules(config).finalNorm === null) return null;
  const builder = startGraph("final-norm", config, options, [], true);
  const scope = new ParamScope(builder, "", options.tuning, options.weightType);
  builder.output({ name: lastNormed(scope, config, "x"), role: "boundary" });
  const model = { id: "final-norm", forward: builder.build(), training: null, variants: [], fused: null };
  return { name: "final-norm", model, params: scope.names };
}

/** Prepares x [tokens, hiddenSize] for the head: a linear layer, the activation and a norm. */
export function transformed(scope: ParamScope, config: ModelConfig, x: string): string {
  const { hiddenSize, hiddenAct } = config;
  const { dense, denseBias, norm, activation } = encoderModules(config).transform;
  const spec = { module: dense, inFeatures: hiddenSize, outFeatures: hiddenSize, bias: denseBias, site: 0 };
  const y = activated(scope.builder, activation ?? hiddenAct, linear(scope, finallyNormed(scope, config, x), spec));
  return layerNorm(scope, config, y, norm, hiddenSize);
}

/** Name of the parameter that is added to the logits. */
export function logitBias(config: ModelConfig): string {
  return config.encoder ? encoderModules(config).transform.bias : `${modulesOf(config).head}.bias`;
}
