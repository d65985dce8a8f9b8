import { GraphBuilder } from "../graph/builder.ts";
import type { TensorType, WeightType } from "../graph/types.ts";
import type { ModelConfig } from "../hf/config/config.ts";
import type { RopeConfig } from "../hf/config/rope-config.ts";
import type { SelectiveOptions } from "../autodiff/selective.ts";
import { Affine } from "../ops/affine.ts";
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
  readonly weightType: (name: string) => WeightType;
  /** Tokens count differently in the loss: the batch input `scale` has one value for each. */
  readonly weighted?: boolean;
  /** How the chain ends; with the loss by default. */
  readonly head?: HeadKind | undefined;
  /** Variants of the blocks with smaller tapes; none by default. */
  readonly selective?: SelectiveOptions;
}

/**
 * How a chain ends: in the sum of the tokens' losses, each times its scale; or open, in the loss of each token, of which something else makes a
 * loss and the scales.
 */
export type HeadKind = "loss" | "token-losses";

/**
 * How a block attends: adds nodes that take rotated q [tokens, heads * headDim] and k, and v [tokens, kvHeads * headDim],
 * and `starts`, the first position that each token sees; returns the result, which is like q.
 */
export type Attend = (builder: GraphBuilder, q: string, k: string, v: string, starts: string) => string;

/** What the types of the batch inputs depend on. */
export interface BatchSize extends Pick<SegmentOptions, "tokens" | "weighted" | "head"> {
  readonly rows?: number;
}

/** Whether `scale` has a value for each token. */
export function hasTokenScales({ weighted = false, head = "loss" }: BatchSize): boolean {
  return weighted || head === "token-losses";
}

/**
 * Types of the `batch` inputs, by name. `starts` and `windowStarts` are the first positions that each token attends to,
 * without and with the sliding window; `windowCos` and `windowSin` are there where layers with a window have rotary positions
 * of their own; `rows` are the positions whose logits are wanted. `tokenLosses` is what an open head writes.
 */
export function batchTypes(config: ModelConfig, size: BatchSize): Partial<Record<BatchInput, TensorType>> {
  const { tokens, rows = 1, head = "loss" } = size;
  const angles: TensorType = { dtype: "f32", shape: [tokens, config.rotaryDim / 2] };
  return {
    ids: { dtype: "i32", shape: [tokens] },
    labels: { dtype: "i32", shape: [tokens] },
    starts: { dtype: "i32", shape: [tokens] },
    windowStarts: { dtype: "i32", shape: [tokens] },
    cos: angles,
    sin: angles,
    ...(config.windowRope && { windowCos: angles, windowSin: angles }),
    scale: { dtype: "f32", shape: [hasTokenScales(size) ? tokens : 1] },
    rng: { dtype: "i32", shape: [2] },
    rows: { dtype: "i32", shape: [rows] },
    ...(head === "token-losses" && { tokenLosses: { dtype: "f32", shape: [tokens] } }),
  };
}

/** The inputs that hold cos and sin of the model's rotary positions, one pair or two. */
export function rotaryInputs({
  rope,
  windowRope,
}: ModelConfig): { names: readonly [BatchInput, BatchInput]; rope: RopeConfig }[] {
  const all = { names: ["cos", "sin"], rope } as const;
  return windowRope ? [all, { names: ["windowCos", "windowSin"], rope: windowRope }] : [all];
}

export type BatchInput =
  | "ids"
  | "labels"
  | "starts"
  | "windowStarts"
  | "cos"
  | "sin"
  | "windowCos"
  | "windowSin"
  | "scale"
  | "rng"
  | "rows"
  | "tokenLosses";

export function startGraph(
  name: string,
  config: ModelConfig,
  options: SegmentOptions,
  inputs: readonly BatchInput[],
  boundary: boolean,
): GraphBuilder {
  const builder = new GraphBuilder(name);
  if (boundary) builder.input("x", "boundary", { dtype: "f32", shape: [options.tokens, config.hiddenSize] });
  const types = batchTypes(config, options);
  for (const input of inputs) builder.input(input, "batch", types[input]!);
  return builder;
}

export const blockName = (config: ModelConfig, layer: number): string => `${config.modulePrefix}layers.${layer}`;

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
  const { headDim, rotaryDim } = config;
  const hasWindow = config.windowLayers[layer] === true;
  const starts = hasWindow ? "windowStarts" : "starts";
  const angles = hasWindow && config.windowRope ? (["windowCos", "windowSin"] as const) : (["cos", "sin"] as const);
  const builder = startGraph("block", config, options, [starts, ...angles, "rng"], true);
  builder.input("segment", "segment", { dtype: "i32", shape: [1] });
  const scope = new ParamScope(builder, `${blockName(config, layer)}.`, options.tuning, options.weightType);
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
    rotate: (x, count) => builder.value(Rope, [x, ...angles], { heads: count, rotaryDim, inverse: 0 }, `${x}.rotated`),
    attention: (q, k, v) => attend(builder, q, k, v, starts),
    gated: (gate, up) => activation(builder, config, gate, up),
  };
}

/**
 * RMSNorm of the rows of x [rows, size] with the weight `<local>.weight`. Where 1 is added to it, that is done here, so that
 * the parameter, what is learned of it and what is saved are the checkpoint's.
 */
export function rmsNorm(scope: ParamScope, config: ModelConfig, x: string, local: string, size: number): string {
  const stored = scope.vector(`${local}.weight`, size);
  const offset = { alpha: 1, beta: config.normOffset };
  const weight = config.normOffset === 0 ? stored : scope.builder.value(Affine, [stored], offset, `${local}.scale`);
  return scope.builder.value(RMSNormalization, [x, weight], { axis: -1, epsilon: config.rmsNormEps }, local);
}

export function attentionAttrs(config: ModelConfig) {
  const { heads, kvHeads, attentionScale: scale, attentionSoftCap } = config;
  return { heads, kvHeads, scale, ...capAttr(attentionSoftCap) };
}

/** A soft cap as an operator has it: absent where there is none. */
export function capAttr(softcap: number | null): { readonly softcap?: number } {
  return softcap === null ? {} : { softcap };
}

function activation(builder: GraphBuilder, config: ModelConfig, gate: string, up: string): string {
  if (config.hiddenAct === "silu") return builder.value(SwiGLU, [gate, up], {}, "mlp.gated");
  const approximate = config.hiddenAct === "gelu" ? "none" : "tanh";
  return builder.value(Mul, [builder.value(Gelu, [gate], { approximate }), up], {}, "mlp.gated");
}

/** The attention of x [tokens, hiddenSize], from the projections of queries, keys and values to that of the result. */
export function selfAttention({ config, headNorm, project, rotate, attention }: BlockParts, x: string): string {
  const { heads, kvHeads, headDim, hiddenSize } = config;
  let q = project(x, "self_attn.q_proj", hiddenSize, heads * headDim, config.attentionBias);
  let k = project(x, "self_attn.k_proj", hiddenSize, kvHeads * headDim, config.attentionBias);
  const v = project(x, "self_attn.v_proj", hiddenSize, kvHeads * headDim, config.attentionBias);
  if (config.qkNorm) {
    q = headNorm(q, "self_attn.q_norm", heads);
    k = headNorm(k, "self_attn.k_norm", kvHeads);
  }
  const result = attention(rotate(q, heads), rotate(k, kvHeads), v);
  return project(result, "self_attn.o_proj", heads * headDim, hiddenSize, config.attentionOutputBias);
}

const MLP = { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };

/** The gated MLP of x [tokens, hiddenSize], with the names of its three layers. */
export function gatedMlp({ config, project, gated }: BlockParts, x: string, names = MLP): string {
  const { hiddenSize, intermediateSize, mlpBias } = config;
  const gate = project(x, names.gate, hiddenSize, intermediateSize, mlpBias);
  const up = project(x, names.up, hiddenSize, intermediateSize, mlpBias);
  return project(gated(gate, up), names.down, intermediateSize, hiddenSize, mlpBias);
}
