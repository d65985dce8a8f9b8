import { UserError } from "../../base/errors.ts";
import { differentiate, type DifferentiateOptions } from "../../autodiff/differentiate.ts";
import { fuse, optimise } from "../../autodiff/partition.ts";
import { type SelectiveOptions, selectivePrograms } from "../../autodiff/selective.ts";
import type { GraphBuilder } from "../../graph/builder.ts";
import { graphHash } from "../../graph/hash.ts";
import { accumulatorOf, type Segment, type SegmentModel } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";
import { fromFloat32, toFloat32 } from "../../base/float16.ts";
import { Affine } from "../../ops/affine.ts";
import { isQuantised } from "../../ops/dequantize.ts";
import { Gather } from "../../ops/gather.ts";
import { Gemm } from "../../ops/gemm.ts";
import { LinearCrossEntropy } from "../../ops/linear-cross-entropy.ts";
import { Reshape } from "../../ops/reshape.ts";
import { SoftCap } from "../../ops/soft-cap.ts";
import { JoinColumns } from "../../ops/split-columns.ts";
import { TokenCrossEntropy } from "../../ops/token-cross-entropy.ts";
import { addUpdate } from "../adapters/low-rank.ts";
import { adaptedInput, embeddingRows, ParamScope } from "../linear.ts";
import { type Decoding, type Layer, startBlock } from "../blocks/layer.ts";
import { norm as normOf } from "../blocks/norm.ts";
import { CarriedScope } from "../carried.ts";
import type { ModelConfig } from "../config.ts";
import { familyOf, modulesOf } from "../families/index.ts";
import { blockName } from "../names.ts";
import { type BatchInput, batchTypes, capAttr, labelPlaces, type SegmentOptions, startGraph } from "../parts.ts";
import { hasAdapters, withoutDropout } from "../tuning.ts";
import { embeddingInputs, encoderEmbedding, logitBias, transformed, withPositions } from "./encoder.ts";
import { addLayerInputs } from "./layer-inputs.ts";
import { buildTextHead } from "./text-head.ts";

/** A model as segments: embedding, one per block, head (final norm + linear + cross entropy). */

const embeddingName = (config: ModelConfig): string => `${config.modulePrefix}${modulesOf(config).embedding}`;

/**
 * The chain of segments of a model, with their programs. Blocks whose graphs are the same share one `SegmentModel`. The chain of an encoder without
 * a head ends with the last block.
 * @param layers the blocks, in place of those that the family has
 */
export function buildSegments(
  config: ModelConfig,
  options: SegmentOptions,
  layers: readonly Layer[] = familyOf(config).layers(config),
): Segment[] {
  const kinds = new Map<string, SegmentModel>();
  const segments = [buildEmbedding(config, options)];
  // Below the first trained parameter nothing is differentiated.
  let active = segments[0]!.model.training !== null;
  /** The carried values that have gradients. */
  const flowing = new Set(differentiatedIn(segments[0]!));
  for (const [number, layer] of layers.entries()) {
    const { graph, scope, carried } = buildBlock(config, options, number, layer);
    const isTrained = scope.trainable.size > 0;
    const wanted = { trainable: scope.trainable, inputGrad: active, carried: namesOf(carried, flowing) };
    const key = `${active} ${[...scope.trainable].join(" ")} ${[...wanted.carried].join(" ")} ${graphHash(graph)}`;
    let model = kinds.get(key);
    if (!model) {
      const id = active ? "block" : isTrained ? "block-first" : "block-frozen";
      model = segmentModel(uniqueId(kinds, id), graph, wanted, options.selective);
      kinds.set(key, model);
    }
    segments.push({ name: blockName(config, number), model, params: scope.names, carried });
    for (const name of differentiatedIn(segments.at(-1)!)) flowing.add(name);
    active ||= isTrained;
  }
  if (options.head === "logits") segments.push(buildTextHead(config, options, active));
  else if (predictsTokens(config)) segments.push(head(config, options, active));
  return segments;
}

/** Tells whether a model has a head that gives logits of tokens. */
export function predictsTokens({ encoder }: Pick<ModelConfig, "encoder">): boolean {
  return encoder === null || encoder.predictsTokens;
}

function uniqueId(kinds: ReadonlyMap<string, SegmentModel>, base: string): string {
  const taken = new Set([...kinds.values()].map((model) => model.id));
  for (let i = 1; ; i++) {
    const id = i === 1 ? base : `${base}-${i}`;
    if (!taken.has(id)) return id;
  }
}

/** The carried values, by name in the chain, whose gradients a segment's backward reads. */
function differentiatedIn({ carried = new Map(), model: { training } }: Segment): string[] {
  const read = new Set(training?.backward.inputs.map(({ name }) => name));
  return [...carried].flatMap(([own, name]) => (read.has(accumulatorOf(own)) ? [name] : []));
}

/** A segment's own names of some of what it takes or makes. */
function namesOf(carried: ReadonlyMap<string, string>, names: ReadonlySet<string>): Set<string> {
  return new Set([...carried].flatMap(([own, name]) => (names.has(name) ? [own] : [])));
}

function segmentModel(
  id: string,
  forward: Graph,
  wanted: DifferentiateOptions,
  selective: SelectiveOptions = { count: 0 },
): SegmentModel {
  // Optimised before it is differentiated, so that the taped forward computes the same to the bit.
  const model = { id, forward: optimise(forward), training: null, variants: [], fused: null };
  if (wanted.trainable.size === 0 && !wanted.inputGrad) return model;
  const joint = differentiate(model.forward, wanted);
  const [training, ...variants] = selectivePrograms(joint, selective).map((programs) =>
    programs.tape.length > 0 ? programs : { ...programs, taped: model.forward },
  );
  return { ...model, training: training!, variants };
}

export function buildEmbedding(config: ModelConfig, options: SegmentOptions): Segment {
  const projection = modulesOf(config).layerInputs?.projection;
  const drops = projection !== undefined && hasDropout(options, config.modulePrefix + projection);
  const builder = startDropping("embedding", config, options, embeddingInputs(config), false, drops);
  const scope = new ParamScope(builder, config.modulePrefix, options.tuning, options.weightType);
  const rows = embeddingRows(scope, modulesOf(config).embedding, [config.vocabSize, config.hiddenSize], "ids");
  const alpha = rounded(config, options, embeddingName(config), config.embeddingScale);
  const scaled = alpha === 1 ? rows : builder.value(Affine, [rows], { alpha, beta: 0 }, "scaled");
  const { encoder } = config;
  const isNormed = encoder !== null && !encoder.hasDecoderBody;
  const carried = new CarriedScope(builder);
  addLayerInputs(scope, config, scaled, carried, (table, factor) => rounded(config, options, table, factor));
  builder.output({
    name: isNormed ? encoderEmbedding(scope, config, scaled) : withPositions(scope, config, scaled),
    role: "boundary",
  });
  carried.finish();
  return {
    name: embeddingName(config),
    model: segmentModel("embedding", builder.build(), { trainable: scope.trainable, inputGrad: false, carried: new Set() }),
    params: scope.names,
    carried: carried.names,
  };
}

/** The factor of the rows of a table as the model has it: rounded to the type of the table's weights, or not. */
function rounded({ roundsEmbeddingScale, dtype }: ModelConfig, options: SegmentOptions, table: string, factor: number): number {
  const { weightType } = options;
  const type = (weightType.meant ?? weightType)(`${table}.weight`);
  const to = !roundsEmbeddingScale ? "f32" : isQuantised(type) ? dtype : type;
  return toFloat32(fromFloat32(Float32Array.of(factor), to), to)[0]!;
}

/** The forward graph of a block; without `decoding`, its tokens attend to each other alone. */
export function buildBlock(
  config: ModelConfig,
  options: SegmentOptions,
  number: number,
  layer: Layer,
  decoding: Decoding | null = null,
): { graph: Graph; scope: ParamScope; carried: ReadonlyMap<string, string> } {
  const parts = startBlock(config, options, number, layer, decoding);
  parts.builder.output({ name: layer.build(parts), role: "boundary" });
  parts.carried.finish();
  return { graph: parts.builder.build(), scope: parts.scope, carried: parts.carried.names };
}

interface HeadParams {
  readonly scope: ParamScope;
  readonly normed: string;
  readonly weight: string;
  /** A vector that is added to the logits of each row; null: there is none. */
  readonly bias: string | null;
  /** The addition of a head's adapter to the logits of normed rows; null: there is none. */
  readonly update: ((x: string) => { readonly low: string; readonly up: string; readonly scale: number }) | null;
}

function headParams(builder: GraphBuilder, config: ModelConfig, options: SegmentOptions): HeadParams {
  const scope = new ParamScope(builder, "", options.tuning, options.weightType);
  const { logitScale: alpha } = config;
  const { head, norm = "norm" } = modulesOf(config);
  const unscaled = config.encoder
    ? transformed(scope, config, "x")
    : normOf(scope, config, "x", `${config.modulePrefix}${norm}`, config.hiddenSize);
  // Here it costs one pass over [tokens, hiddenSize], at the logits one over [tokens, vocabulary].
  const normed = alpha === 1 ? unscaled : builder.value(Affine, [unscaled], { alpha, beta: 0 }, "scaled");
  const name = config.tieWordEmbeddings ? embeddingName(config) : head;
  const site = { layer: "head", rows: config.vocabSize, columns: config.hiddenSize } as const;
  const weight = scope.matrix(`${head}.weight`, [site.rows, site.columns], `${name}.weight`);
  const bias = config.headBias ? scope.vector(logitBias(config), config.vocabSize) : null;
  const adapter = scope.adapterOf(head);
  if (adapter === null) return { scope, normed, weight, bias, update: null };
  if (bias !== null)
    throw new UserError(`an adapter of ${head} is not supported, whose logits have a bias; train it whole instead`);
  const { kind, setup } = adapter;
  if (!kind.head) throw new Error(`${kind.name} does not adapt heads`);
  const add = kind.head;
  return {
    scope,
    normed,
    weight,
    bias,
    update: (x) => add(adaptedInput(scope, x, head, site, 0), setup),
  };
}

/** Batch inputs of dropout, and the segment's index, where an adapter of the head has dropout. */
function startHead(config: ModelConfig, options: SegmentOptions, inputs: readonly BatchInput[]): GraphBuilder {
  return startDropping("head", config, options, inputs, true, hasDropout(options, modulesOf(config).head));
}

/** Tells whether a module has an adapter with dropout. */
function hasDropout({ tuning }: SegmentOptions, module: string): boolean {
  return hasAdapters(tuning) && tuning.dropout > 0 && tuning.adapts(module) !== null;
}

/** Begins a graph, with what dropout needs where there is any. */
function startDropping(
  name: string,
  config: ModelConfig,
  options: SegmentOptions,
  inputs: readonly BatchInput[],
  boundary: boolean,
  drops: boolean,
): GraphBuilder {
  const builder = startGraph(name, config, options, drops ? [...inputs, "rng"] : inputs, boundary);
  if (drops) builder.input("segment", "segment", { dtype: "i32", shape: [1] });
  return builder;
}

function head(config: ModelConfig, options: SegmentOptions, inputGrad: boolean): Segment {
  const builder = startHead(config, options, ["labels", "scale", ...biasInputs(config)]);
  const { scope, normed: plain, weight, ...more } = headParams(builder, config, options);
  const normed = inSlots(builder, plain, options);
  const { inputs, attrs } = lossOperands(builder, config, [normed, weight, "labels", "scale"], more);
  const [loss, correct] = builder.node(LinearCrossEntropy, inputs, attrs, "loss");
  builder.output({ name: loss!, role: "loss" });
  const trains = inputGrad || scope.trainable.size > 0;
  const fused = trains
    ? fuse(differentiate(optimise(builder.build()), { trainable: scope.trainable, inputGrad, carried: new Set() }))
    : null;
  const model = { id: "head", training: null, variants: [], fused };
  if (options.head === "token-losses")
    return { name: "head", model: { ...model, forward: openHead(config, options), open: true }, params: scope.names };
  // Training runs the fused program; the forward is what evaluates.
  builder.output({ name: correct!, role: "correct" });
  const forward = optimise(builder.build());
  return { name: "head", model: { ...model, forward }, params: scope.names };
}

/** The rows of x [tokens, features]; where the logits of all labels but the first are scaled, behind each row the scaled one. */
function inSlots(builder: GraphBuilder, x: string, { slots, tokens }: SegmentOptions): string {
  if (!slots || labelPlaces(slots).rows === 1) return x;
  const width = builder.type(x).shape[1]!;
  const scaled = builder.value(Affine, [x], { alpha: slots.scale, beta: 0 }, "slots.scaled");
  const both = builder.value(JoinColumns, [x, scaled], { groups: 1, sizes: [width, width] }, "slots.both");
  return builder.value(Reshape, [both], { shape: [2 * tokens, width] }, "slots.rows");
}

/** Batch inputs that a bias of the logits needs. */
const biasInputs = ({ headBias }: ModelConfig): readonly BatchInput[] => (headBias ? ["ones"] : []);

/**
 * Returns what an operator of the head takes, with an adapter's update where there is one. To the operator a bias is such an update too, of rank 1: a
 * column of ones times the bias.
 */
function lossOperands(
  builder: GraphBuilder,
  config: ModelConfig,
  inputs: readonly string[],
  { bias, update }: Pick<HeadParams, "bias" | "update">,
) {
  const cap = capAttr(config.logitSoftCap);
  if (bias !== null) {
    const column = builder.value(Reshape, [bias], { shape: [config.vocabSize, 1] }, "bias.column");
    return { inputs: [...inputs, "ones", column], attrs: { ...cap, alpha: 1 } };
  }
  if (update === null) return { inputs, attrs: cap };
  const { low, up, scale } = update(inputs[0]!);
  return { inputs: [...inputs, low, up], attrs: { ...cap, alpha: scale } };
}

/** The forward of an open head: the loss of each token. */
function openHead(config: ModelConfig, options: SegmentOptions): Graph {
  const builder = startHead(config, options, ["labels", ...biasInputs(config)]);
  const { normed: unslotted, weight, ...more } = headParams(builder, config, options);
  const normed = inSlots(builder, unslotted, options);
  // The operator has no scales, whose place stays empty where more inputs follow.
  const plain = [normed, weight, "labels", ...(more.update === null && more.bias === null ? [] : [""])];
  const { inputs, attrs } = lossOperands(builder, config, plain, more);
  const name = builder.value(TokenCrossEntropy, inputs, attrs, "losses");
  builder.output({ name, role: "token-losses" });
  return optimise(builder.build());
}

/**
 * Final norm and head that output logits [rows, vocabulary] of the tokens that the batch input `rows` lists, instead of
 * the loss: for generation and tests.
 */
export function buildLogits(config: ModelConfig, options: SegmentOptions, rows: number): Segment {
  const builder = startGraph("logits", config, options, [], true);
  builder.input("rows", "batch", batchTypes(config, { tokens: options.tokens, rows }).rows!);
  const { scope, normed, weight, bias, update } = headParams(builder, config, {
    ...options,
    tuning: withoutDropout(options.tuning),
  });
  const product = { alpha: 1, beta: 1, transA: 0, transB: 1 };
  const picked = builder.value(Gather, [normed, "rows"], {}, "picked");
  const plain = builder.value(Gemm, [picked, weight, ...(bias === null ? [] : [bias])], product, "logits");
  const parts = update && update(picked);
  const logits = parts === null ? plain : addUpdate({ builder, module: "head" }, plain, parts);
  const { logitSoftCap: softcap } = config;
  const capped = softcap === null ? logits : builder.value(SoftCap, [logits], { softcap }, "capped");
  builder.output({ name: capped, role: "logits" });
  return {
    name: "logits",
    model: { id: "logits", forward: optimise(builder.build()), training: null, variants: [], fused: null },
    params: scope.names,
  };
}
