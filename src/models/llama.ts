import { differentiate } from "../autodiff/differentiate.ts";
import { fuse, optimise } from "../autodiff/partition.ts";
import { type SelectiveOptions, selectivePrograms } from "../autodiff/selective.ts";
import { GraphBuilder } from "../graph/builder.ts";
import type { Segment, SegmentModel } from "../graph/segment.ts";
import type { FloatType, Graph, TensorType } from "../graph/types.ts";
import type { ModelConfig } from "../hf/config.ts";
import { Add } from "../ops/add.ts";
import { CausalAttention } from "../ops/attention.ts";
import { Gather } from "../ops/gather.ts";
import { Gelu } from "../ops/gelu.ts";
import { Gemm } from "../ops/gemm.ts";
import { LinearCrossEntropy } from "../ops/linear-cross-entropy.ts";
import { Mul } from "../ops/mul.ts";
import { Reshape } from "../ops/reshape.ts";
import { RMSNormalization } from "../ops/rms-norm.ts";
import { Rope } from "../ops/rope.ts";
import { SwiGLU } from "../ops/swiglu.ts";
import { linear, ParamScope, type Tuning } from "./linear.ts";

/**
 * The Llama family as segments: embedding, one per decoder block, head (final norm + linear + cross entropy).
 * Llama (Touvron et al. 2023), Mistral, Qwen2/2.5 (biases), Qwen3 (norm of queries and keys), SmolLM2.
 */
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

const EMBEDDING = "model.embed_tokens.weight";

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

/** The chain of segments of a model, with their programs. Identical blocks share one `SegmentModel`. */
export function buildSegments(config: ModelConfig, options: SegmentOptions): Segment[] {
  const kinds = new Map<string, SegmentModel>();
  const segments = [buildEmbedding(config, options)];
  let active = options.tuning.method === "full";
  for (let layer = 0; layer < config.layers; layer++) {
    const { graph, scope } = buildBlock(config, options, layer);
    const key = JSON.stringify([active, graph.inputs.map(({ name }) => [name, graph.types.get(name)])]);
    let model = kinds.get(key);
    if (!model) {
      model = segmentModel(
        kinds.size === 0 && !active ? "block-first" : uniqueId(kinds),
        graph,
        scope,
        active,
        options.selective,
      );
      kinds.set(key, model);
    }
    segments.push({ name: blockName(layer), model, params: scope.names });
    active ||= scope.trainable.size > 0;
  }
  segments.push(head(config, options, active));
  return segments;
}

function uniqueId(kinds: ReadonlyMap<string, SegmentModel>): string {
  const taken = new Set([...kinds.values()].map((model) => model.id));
  for (let i = 1; ; i++) {
    const id = i === 1 ? "block" : `block-${i}`;
    if (!taken.has(id)) return id;
  }
}

function segmentModel(
  id: string,
  forward: Graph,
  scope: ParamScope,
  inputGrad: boolean,
  selective: SelectiveOptions = { count: 0 },
): SegmentModel {
  // Optimised before it is differentiated, so that the taped forward computes the same to the bit.
  const model = { id, forward: optimise(forward), training: null, variants: [], fused: null };
  if (scope.trainable.size === 0 && !inputGrad) return model;
  const joint = differentiate(model.forward, { trainable: scope.trainable, inputGrad });
  const [training, ...variants] = selectivePrograms(joint, selective).map((programs) =>
    programs.tape.length > 0 ? programs : { ...programs, taped: model.forward },
  );
  return { ...model, training: training!, variants };
}

function startGraph(
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

export function buildEmbedding(config: ModelConfig, options: SegmentOptions): Segment {
  const builder = startGraph("embedding", config, options, ["ids"], false);
  const scope = new ParamScope(builder, "model.", options.tuning, options.weightType);
  const weight = scope.matrix("embed_tokens.weight", [config.vocabSize, config.hiddenSize]);
  builder.output({ name: builder.value(Gather, [weight, "ids"], {}, "y"), role: "boundary" });
  return { name: "model.embed_tokens", model: segmentModel("embedding", builder.build(), scope, false), params: scope.names };
}

/** The forward graph of a decoder block; by default it attends within the micro-batch. */
export function buildBlock(
  config: ModelConfig,
  options: SegmentOptions,
  layer: number,
  attend: Attend = (builder, q, k, v, starts) =>
    builder.value(CausalAttention, [q, k, v, starts], attentionAttrs(config), "attention"),
): { graph: Graph; scope: ParamScope } {
  const { heads, kvHeads, headDim, hiddenSize, intermediateSize } = config;
  const prefix = `${blockName(layer)}.`;
  const starts = config.slidingWindow !== null && layer >= config.windowFrom ? "windowStarts" : "starts";
  const builder = startGraph("block", config, options, [starts, "cos", "sin", "rng"], true);
  builder.input("segment", "segment", { dtype: "i32", shape: [1] });
  const scope = new ParamScope(builder, prefix, options.tuning, options.weightType);
  const norm = (x: string, local: string, size: number) =>
    builder.value(RMSNormalization, [x, scope.vector(`${local}.weight`, size)], { axis: -1, epsilon: config.rmsNormEps }, local);
  let sites = 0;
  const project = (x: string, module: string, inFeatures: number, outFeatures: number, bias: boolean) =>
    linear(scope, x, { module, inFeatures, outFeatures, bias, site: sites++ });
  const headNorm = (x: string, local: string, count: number) => {
    const rows = builder.value(Reshape, [x], { shape: [options.tokens * count, headDim] });
    return builder.value(Reshape, [norm(rows, local, headDim)], { shape: [options.tokens, count * headDim] });
  };
  const rotate = (x: string, count: number) =>
    builder.value(Rope, [x, "cos", "sin"], { heads: count, rotaryDim: headDim, inverse: 0 }, `${x}.rotated`);

  const n1 = norm("x", "input_layernorm", hiddenSize);
  let q = project(n1, "self_attn.q_proj", hiddenSize, heads * headDim, config.attentionBias);
  let k = project(n1, "self_attn.k_proj", hiddenSize, kvHeads * headDim, config.attentionBias);
  const v = project(n1, "self_attn.v_proj", hiddenSize, kvHeads * headDim, config.attentionBias);
  if (config.qkNorm) {
    q = headNorm(q, "self_attn.q_norm", heads);
    k = headNorm(k, "self_attn.k_norm", kvHeads);
  }
  const attention = attend(builder, rotate(q, heads), rotate(k, kvHeads), v, starts);
  const attended = builder.value(
    Add,
    ["x", project(attention, "self_attn.o_proj", heads * headDim, hiddenSize, config.attentionOutputBias)],
    {},
    "h",
  );

  const n2 = norm(attended, "post_attention_layernorm", hiddenSize);
  const gate = project(n2, "mlp.gate_proj", hiddenSize, intermediateSize, config.mlpBias);
  const up = project(n2, "mlp.up_proj", hiddenSize, intermediateSize, config.mlpBias);
  const gated = activation(builder, config, gate, up);
  const y = builder.value(
    Add,
    [attended, project(gated, "mlp.down_proj", intermediateSize, hiddenSize, config.mlpBias)],
    {},
    "y",
  );
  builder.output({ name: y, role: "boundary" });
  return { graph: builder.build(), scope };
}

export function attentionAttrs({ heads, kvHeads, headDim }: ModelConfig): { heads: number; kvHeads: number; scale: number } {
  return { heads, kvHeads, scale: 1 / Math.sqrt(headDim) };
}

function activation(builder: GraphBuilder, config: ModelConfig, gate: string, up: string): string {
  if (config.hiddenAct === "silu") return builder.value(SwiGLU, [gate, up], {}, "mlp.gated");
  const approximate = config.hiddenAct === "gelu" ? "none" : "tanh";
  return builder.value(Mul, [builder.value(Gelu, [gate], { approximate }), up], {}, "mlp.gated");
}

interface HeadParams {
  readonly scope: ParamScope;
  readonly normed: string;
  readonly weight: string;
}

function headParams(builder: GraphBuilder, config: ModelConfig, options: SegmentOptions): HeadParams {
  const scope = new ParamScope(builder, "", options.tuning, options.weightType);
  const scale = scope.vector("model.norm.weight", config.hiddenSize);
  const normed = builder.value(RMSNormalization, ["x", scale], { axis: -1, epsilon: config.rmsNormEps }, "normed");
  const name = config.tieWordEmbeddings ? EMBEDDING : "lm_head.weight";
  return { scope, normed, weight: scope.matrix("lm_head.weight", [config.vocabSize, config.hiddenSize], name) };
}

function head(config: ModelConfig, options: SegmentOptions, inputGrad: boolean): Segment {
  const builder = startGraph("head", config, options, ["labels", "scale"], true);
  const { scope, normed, weight } = headParams(builder, config, options);
  builder.output({ name: builder.value(LinearCrossEntropy, [normed, weight, "labels", "scale"], {}, "loss"), role: "loss" });
  const forward = optimise(builder.build());
  const trains = inputGrad || scope.trainable.size > 0;
  const fused = trains ? fuse(differentiate(forward, { trainable: scope.trainable, inputGrad })) : null;
  return { name: "head", model: { id: "head", forward, training: null, variants: [], fused }, params: scope.names };
}

/**
 * Final norm and head that output logits [rows, vocabulary] of the tokens that the batch input `rows` lists, instead of
 * the loss: for generation and tests.
 */
export function buildLogits(config: ModelConfig, options: SegmentOptions, rows: number): Segment {
  const builder = startGraph("logits", config, options, [], true);
  builder.input("rows", "batch", batchTypes(config, options.tokens, rows).rows);
  const { scope, normed, weight } = headParams(builder, config, options);
  const product = { alpha: 1, beta: 1, transA: 0, transB: 1 };
  const picked = builder.value(Gather, [normed, "rows"], {}, "picked");
  builder.output({ name: builder.value(Gemm, [picked, weight], product, "logits"), role: "logits" });
  return {
    name: "logits",
    model: { id: "logits", forward: optimise(builder.build()), training: null, variants: [], fused: null },
    params: scope.names,
  };
}
