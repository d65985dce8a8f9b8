import { Attention } from "../../ops/attention.ts";
import { CachedAttention } from "../../ops/cached-attention.ts";
import { Mul } from "../../ops/mul.ts";
import { Rope } from "../../ops/rope.ts";
import { SplitColumns } from "../../ops/split-columns.ts";
import type { ModelConfig } from "../config.ts";
import { type BatchInput, capAttr } from "../parts.ts";
import { addCaches, type BlockParts, type Caches, type Layer } from "./layer.ts";
import { sigmoid } from "./mlp.ts";
import { headNorm } from "./norm.ts";

/** Describes what attention in one layer is like. */
export interface AttentionSettings {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Factor of the scores. */
  readonly scale: number;
  /** Scores s become cap * tanh(s / cap); null: they stay. */
  readonly softCap: number | null;
  /** The input that holds the first position that each token sees. */
  readonly starts: "starts" | "windowStarts";
  /** The input that holds the end of what each token sees; null: it sees nothing behind it. */
  readonly ends: "ends" | "windowEnds" | null;
  /** Name of the parameter with a sink for each head; null: there are none. */
  readonly sinks: string | null;
  /** How queries and keys are rotated; null: not at all. */
  readonly rotary: RotarySettings | null;
}

/** Names of the inputs that hold cos and sin. */
type Angles = readonly [cos: BatchInput, sin: BatchInput];

export interface RotarySettings {
  readonly keys: Angles;
  readonly queries: Angles;
  /** How many features of each head are rotated, the first ones. */
  readonly dim: number;
  /** True if neighbouring features are rotated with each other. */
  readonly neighbours: boolean;
}

/** The settings that a configuration gives layer `layer`. */
export function attentionOf(config: ModelConfig, layer: number): AttentionSettings {
  const { heads, rotaryLayers, windowLayers, windowRope, queryRope, encoder } = config;
  const hasWindow = windowLayers[layer] === true;
  const { kvHeads, headDim } = (hasWindow ? null : config.fullHeads) ?? config;
  const rotaryDim = hasWindow || config.fullHeads === null ? config.rotaryDim : headDim;
  const isRotated = rotaryDim > 0 && (rotaryLayers[layer] ?? true);
  const keys: Angles = hasWindow && windowRope ? ["windowCos", "windowSin"] : ["cos", "sin"];
  const queries: Angles = queryRope ? ["queryCos", "querySin"] : keys;
  return {
    heads,
    kvHeads,
    headDim,
    scale: config.attentionScale,
    softCap: config.attentionSoftCap,
    starts: hasWindow ? "windowStarts" : "starts",
    ends: encoder === null ? null : hasWindow ? "windowEnds" : "ends",
    sinks: config.attentionSinks ? "self_attn.sinks" : null,
    rotary: isRotated ? { keys, queries, dim: rotaryDim, neighbours: config.rotatesNeighbours } : null,
  };
}

/** A block that attends, and keeps the keys and values of earlier tokens while decoding. */
export function attentionLayer(settings: AttentionSettings, build: (parts: BlockParts) => string): Layer {
  const { starts, ends, rotary } = settings;
  return {
    kind: "attention",
    inputs: [...new Set([starts, ...(ends ? [ends] : []), ...(rotary?.keys ?? []), ...(rotary?.queries ?? [])])],
    caches: (tokens) => keysAndValues(settings, tokens),
    build,
  };
}

/** The caches of one text of up to `tokens` tokens. */
function keysAndValues({ kvHeads, headDim }: AttentionSettings, tokens: number): Caches {
  const type = { dtype: "f32", shape: [kvHeads, tokens, headDim] } as const;
  return new Map([
    ["keys", type],
    ["values", type],
  ]);
}

/** Names of the projections of attention. */
export interface ProjectionNames {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly output: string;
  /** Norms of the heads, where there are any. */
  readonly queryNorm?: string;
  readonly keyNorm?: string;
}

const LLAMA_NAMES: ProjectionNames = {
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.o_proj",
};

/** The attention of x [tokens, hiddenSize], from the projections of queries, keys and values to that of the result. */
export function selfAttention(parts: BlockParts, settings: AttentionSettings, x: string, names = LLAMA_NAMES): string {
  const { builder, config, project } = parts;
  const { heads, kvHeads, headDim } = settings;
  const { hiddenSize, attentionBias } = config;
  const gates = config.attentionGate ? 1 : 0;
  const queries = project(x, names.query, hiddenSize, (1 + gates) * heads * headDim, attentionBias);
  const [q, gate] = config.attentionGate
    ? builder.node(SplitColumns, [queries], { groups: heads, sizes: [headDim, headDim] }, `${names.query}.split`)
    : [queries];
  const k = project(x, names.key, hiddenSize, kvHeads * headDim, attentionBias);
  const v = project(x, names.value, hiddenSize, kvHeads * headDim, attentionBias);
  const attended = attend(parts, settings, ...rotatedAndNormed(parts, settings, q!, k, names), v);
  const result = gate === undefined ? attended : builder.value(Mul, [attended, sigmoid(builder, gate)], {}, "attention.gated");
  return project(result, names.output, heads * headDim, hiddenSize, config.attentionOutputBias);
}

/** Queries [tokens, heads * headDim] and keys [tokens, kvHeads * headDim], normed as the model has it and rotated. */
export function rotatedAndNormed(
  parts: BlockParts,
  settings: AttentionSettings,
  q: string,
  k: string,
  { queryNorm = "self_attn.q_norm", keyNorm = "self_attn.k_norm" }: Pick<ProjectionNames, "queryNorm" | "keyNorm"> = {},
): [queries: string, keys: string] {
  const { heads, kvHeads } = settings;
  const both = (of: (x: string, count: number, norm: string, side: "queries" | "keys") => string): [string, string] => [
    of(q, heads, queryNorm, "queries"),
    of(k, kvHeads, keyNorm, "keys"),
  ];
  const turned = (x: string, count: number, side: "queries" | "keys") => rotated(parts, settings, x, count, side);
  switch (parts.config.qkNorm) {
    case null:
      return both((x, count, _, side) => turned(x, count, side));
    case "heads":
      return both((x, count, norm, side) => turned(headNorm(parts, x, norm, count), count, side));
    case "rotated-heads":
      return both((x, count, norm, side) => headNorm(parts, turned(x, count, side), norm, count));
    case "row":
      return both((x, count, norm, side) => turned(headNorm(parts, x, norm, 1), count, side));
  }
}

/** x [tokens, heads * headDim], rotated as one of the sides is. */
export function rotated(
  { builder }: BlockParts,
  { rotary }: AttentionSettings,
  x: string,
  heads: number,
  side: "queries" | "keys",
): string {
  if (rotary === null) return x;
  const { dim: rotaryDim, neighbours } = rotary;
  return builder.value(
    Rope,
    [x, ...rotary[side]],
    { heads, rotaryDim, inverse: 0, ...(neighbours && { neighbours: 1 }) },
    `${x}.rotated`,
  );
}

export interface FusedNames {
  readonly qkv: string;
  readonly output: string;
  /** How often queries, keys and values follow each other in the rows of the matrix: 1, or once for each key head. */
  readonly groups: number;
}

/** As `selfAttention`, where one matrix gives queries, keys and values: its product is cut. */
export function fusedAttention(parts: BlockParts, settings: AttentionSettings, x: string, names: FusedNames): string {
  const { builder, config, project } = parts;
  const { heads, kvHeads, headDim } = settings;
  const { qkv, output, groups } = names;
  const sizes = [heads, kvHeads, kvHeads].map((count) => (count / groups) * headDim);
  const product = project(x, qkv, config.hiddenSize, (heads + 2 * kvHeads) * headDim, config.attentionBias);
  const [q, k, v] = builder.node(SplitColumns, [product], { groups, sizes }, `${qkv}.split`);
  const result = attend(parts, settings, ...rotatedAndNormed(parts, settings, q!, k!), v!);
  return project(result, output, heads * headDim, config.hiddenSize, config.attentionOutputBias);
}

/**
 * Attends, with queries [tokens, heads * headDim] and keys [tokens, kvHeads * headDim]: within the micro-batch, or, when decoding, to the
 * caches too, which get the new keys and values.
 */
export function attend(parts: BlockParts, settings: AttentionSettings, q: string, k: string, v: string): string {
  const { builder, decoding, scope } = parts;
  const { heads, kvHeads, scale, softCap, starts, ends } = settings;
  const attrs = { heads, kvHeads, scale, ...capAttr(softCap) };
  const sinks = settings.sinks === null ? [] : [scope.vector(settings.sinks, heads)];
  if (decoding === null) {
    const seen = sinks.length > 0 ? [ends ?? "", ...sinks] : ends ? [ends] : [];
    return builder.value(Attention, [q, k, v, starts, ...seen], attrs, "attention");
  }
  if (ends) throw new Error("a model whose tokens see what is behind them cannot decode");
  builder.input("position", "batch", { dtype: "i32", shape: [decoding.texts] });
  const names = addCaches(builder, keysAndValues(settings, decoding.size), decoding);
  const outputs = builder.node(CachedAttention, [q, k, v, ...names, starts, "position", ...sinks], attrs, "attention");
  names.forEach((name, i) => builder.output({ name: outputs[i + 1]!, role: "state", updates: name }));
  return outputs[0]!;
}
