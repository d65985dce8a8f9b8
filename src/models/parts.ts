import { GraphBuilder } from "../graph/builder.ts";
import type { FloatType, TensorType } from "../graph/types.ts";
import type { ModelConfig } from "../hf/config.ts";
import type { SelectiveOptions } from "../autodiff/selective.ts";
import { CausalAttention } from "../ops/attention.ts";
import { Gelu } from "../ops/gelu.ts";
import { Mul } from "../ops/mul.ts";
import { Reshape } from "../ops/reshape.ts";
import { RMSNormalization } from "../ops/rms-norm.ts";
import { Rope } from "../ops/rope.ts";
import { SwiGLU } from "../ops/swiglu.ts";
import { linear, ParamScope, type Tuning } from "./linear.ts";

/** What the decoder blocks of all families are made of. */
export interface SegmentOptions {
  /** Rows of a micro-batch times row length: the static first dimension of every activation. */
  readonly tokens: number;
  readonly tuning: Tuning;
  /** Type in memory of a frozen weight matrix, by checkpoint name. */
  readonly weightType: (name: string) => FloatType;
  /** Variants of the blocks with smaller tapes; none by default. */
  readonly selective?: SelectiveOptions;
}

/**
 * How a block attends: adds nodes that take rotated q [tokens, heads * headDim] and k, and v [tokens, kvHeads * headDim],
 * and `starts`, the first position that each token sees; returns the result, which is like q.
 */
export type Attend = (builder: GraphBuilder, q: string, k: string, v: string, starts: string) => string;

/**
 * Types of the `batch` inputs, by name. `starts` and `windowStarts` are the first positions that each token attends to,
 * without and with the sliding window; `rows` are the positions whose logits are wanted.
 */
export function batchTypes(config: ModelConfig, tokens: number, rows = 1): Record<BatchInput, TensorType> {
  const angles: TensorType = { dtype: "f32", shape: [tokens, config.headDim / 2] };
  return {
    ids: { dtype: "i32", shape: [tokens] },
    labels: { dtype: "i32", shape: [tokens] },
    starts: { dtype: "i32", shape: [tokens] },
    windowStarts: { dtype: "i32", shape: [tokens] },
    cos: angles,
    sin: angles,
    scale: { dtype: "f32", shape: [1] },
    rng: { dtype: "i32", shape: [2] },
    rows: { dtype: "i32", shape: [rows] },
  };
}

export type BatchInput = "ids" | "labels" | "starts" | "windowStarts" | "cos" | "sin" | "scale" | "rng" | "rows";

export function startGraph(
  name: string,
  config: ModelConfig,
  options: SegmentOptions,
  inputs: readonly BatchInput[],
  boundary: boolean,
): GraphBuilder {
  const builder = new GraphBuilder(name);
  if (boundary) builder.input("x", "boundary", { dtype: "f32", shape: [options.tokens, config.hiddenSize] });
  const types = batchTypes(config, options.tokens);
  for (const input of inputs) builder.input(input, "batch", types[input]);
  return builder;
}

export const blockName = (layer: number): string => `model.layers.${layer}`;

/** Of one block: its graph under construction, and the layers that it is made of. Values are f32 [tokens, features]. */
export interface BlockParts {
  readonly builder: GraphBuilder;
  readonly config: ModelConfig;
  readonly scope: ParamScope;
  /** RMSNorm of `size` features, with the weight `<local>.weight`. */
  norm(x: string, local: string, size: number): string;
  /** RMSNorm of each of `count` heads. */
  headNorm(x: string, local: string, count: number): string;
  project(x: string, module: string, inFeatures: number, outFeatures: number, bias: boolean): string;
  /** Rotary positions of `count` heads. */
  rotate(x: string, count: number): string;
  /** Of rotated queries and keys. */
  attention(q: string, k: string, v: string): string;
  /** The activation of `gate`, times `up`. */
  gated(gate: string, up: string): string;
}

export function blockParts(
  config: ModelConfig,
  options: SegmentOptions,
  layer: number,
  attend: Attend = (builder, q, k, v, starts) =>
    builder.value(CausalAttention, [q, k, v, starts], attentionAttrs(config), "attention"),
): BlockParts {
  const { headDim } = config;
  const starts = config.slidingWindow !== null && layer >= config.windowFrom ? "windowStarts" : "starts";
  const builder = startGraph("block", config, options, [starts, "cos", "sin", "rng"], true);
  builder.input("segment", "segment", { dtype: "i32", shape: [1] });
  const scope = new ParamScope(builder, `${blockName(layer)}.`, options.tuning, options.weightType);
  const norm = (x: string, local: string, size: number) => rmsNorm(scope, config, x, local, size);
  let sites = 0;
  return {
    builder,
    config,
    scope,
    norm,
    headNorm(x, local, count) {
      const rows = builder.value(Reshape, [x], { shape: [options.tokens * count, headDim] });
      return builder.value(Reshape, [norm(rows, local, headDim)], { shape: [options.tokens, count * headDim] });
    },
    project: (x, module, inFeatures, outFeatures, bias) =>
      linear(scope, x, { module, inFeatures, outFeatures, bias, site: sites++ }),
    rotate: (x, count) =>
      builder.value(Rope, [x, "cos", "sin"], { heads: count, rotaryDim: headDim, inverse: 0 }, `${x}.rotated`),
    attention: (q, k, v) => attend(builder, q, k, v, starts),
    gated: (gate, up) => activation(builder, config, gate, up),
  };
}

/** RMSNorm of the rows of x [rows, size] with the weight `<local>.weight`. */
export function rmsNorm(scope: ParamScope, config: ModelConfig, x: string, local: string, size: number): string {
  const weight = scope.vector(`${local}.weight`, size);
  return scope.builder.value(RMSNormalization, [x, weight], { axis: -1, epsilon: config.rmsNormEps }, local);
}

export function attentionAttrs({ heads, kvHeads, headDim }: ModelConfig): { heads: number; kvHeads: number; scale: number } {
  return { heads, kvHeads, scale: 1 / Math.sqrt(headDim) };
}

function activation(builder: GraphBuilder, config: ModelConfig, gate: string, up: string): string {
  if (config.hiddenAct === "silu") return builder.value(SwiGLU, [gate, up], {}, "mlp.gated");
  const approximate = config.hiddenAct === "gelu" ? "none" : "tanh";
  return builder.value(Mul, [builder.value(Gelu, [gate], { approximate }), up], {}, "mlp.gated");
}
