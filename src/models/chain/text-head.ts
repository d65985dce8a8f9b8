import { UserError } from "../../base/errors.ts";
import { optimise, fuse } from "../../autodiff/partition.ts";
import { differentiate } from "../../autodiff/differentiate.ts";
import type { GraphBuilder } from "../../graph/builder.ts";
import type { Segment } from "../../graph/segment.ts";
import { Affine } from "../../ops/affine.ts";
import { Gather } from "../../ops/gather.ts";
import { Gemm } from "../../ops/gemm.ts";
import { Reshape } from "../../ops/reshape.ts";
import { Relu } from "../../ops/relu.ts";
import { Tanh } from "../../ops/tanh.ts";
import { activated } from "../blocks/mlp.ts";
import { layerNorm } from "../blocks/norm.ts";
import type { DenseLayer, ModelConfig, Pooling, TextHead } from "../config.ts";
import { denseModule } from "../names.ts";
import { modulesOf, textHeadOf } from "../families/index.ts";
import type { TextHeadModules } from "../families/family.ts";
import { linear, ParamScope } from "../linear.ts";
import { type BatchInput, type SegmentOptions, startGraph } from "../parts.ts";
import { finallyNormed, lastNormed, logitBias } from "./encoder.ts";

/**
 * The head that judges whole texts, as `...ForSequenceClassification` has it: the hidden state of one token of each text, the last of a causal model
 * and the first of an encoder; the final norm of the one, or a layer and an activation of the other; and a last layer. The batch input `rows` lists those tokens; texts that a micro-batch has fewer than room repeat
 * its first token, and their logits count for nothing. With `pooling` there is no last layer: the numbers of a text are its embedding, the hidden state
 * of one token or the mean over all, which is a product with the batch input `means`. With `options` the last layer is the head that predicts tokens, and the
 * numbers are the logits of those that the batch input `options` lists: no other row of the head is read.
 *
 * The head is open: its forward gives the logits [texts, outputs], the objective the derivatives by them, which are the input `scale`. The sum of
 * the products of both has just these derivatives, so that its gradient is the backward.
 */
export function buildTextHead(config: ModelConfig, options: SegmentOptions, inputGrad: boolean): Segment {
  const { textHead } = config;
  if (!textHead) throw new Error("the model has no head for texts");
  const forward = startGraph("head", config, options, textInputs(textHead), true);
  const { logits, scope } = addLogits(forward, config, textHead, options);
  forward.output({ name: logits, role: "text-logits" });
  const trains = inputGrad || scope.trainable.size > 0;
  return {
    name: "head",
    model: {
      id: "head",
      forward: optimise(forward.build()),
      training: null,
      variants: [],
      fused: trains ? backward(config, textHead, options, inputGrad) : null,
      open: true,
    },
    params: scope.names,
  };
}

function backward(config: ModelConfig, textHead: TextHead, options: SegmentOptions, inputGrad: boolean) {
  const builder = startGraph("head", config, options, [...textInputs(textHead), "scale"], true);
  const { logits, scope } = addLogits(builder, config, textHead, options);
  const row = (value: string) => builder.value(Reshape, [value], { shape: [1, options.texts! * textHead.outputs] });
  const product = builder.value(Gemm, [row(logits), row("scale")], { alpha: 1, beta: 1, transA: 0, transB: 1 }, "product");
  builder.output({ name: builder.value(Reshape, [product], { shape: [1] }, "loss"), role: "loss" });
  return fuse(differentiate(optimise(builder.build()), { trainable: scope.trainable, inputGrad, carried: new Set() }));
}

/** The batch inputs that say where the texts are, and which tokens are wanted. */
function textInputs({ pooling, options }: TextHead): readonly BatchInput[] {
  return pooling === "mean" ? ["means"] : options ? ["rows", "options"] : ["rows"];
}

function addLogits(
  builder: GraphBuilder,
  config: ModelConfig,
  { outputs, pooling, dense: layers = [], options: choices }: TextHead,
  options: SegmentOptions,
) {
  const scope = new ParamScope(builder, "", options.tuning, options.weightType);
  if (pooling !== undefined)
    return { scope, logits: layers.reduce((x, layer) => behind(scope, layer, x), embedding(scope, config, pooling)) };
  const pooled = builder.value(Gather, ["x", "rows"], {}, "pooled");
  if (choices) return { scope, logits: optionLogits(scope, config, lastNormed(scope, config, pooled), choices.length) };
  const { output, bias, dense } = textHeadOf(config);
  const { hiddenSize } = config;
  const seen =
    dense === null ? lastNormed(scope, config, pooled) : densely(scope, config, dense, finallyNormed(scope, config, pooled));
  const weight = scope.matrix(`${output}.weight`, [outputs, hiddenSize]);
  const addend = bias ? [scope.vector(`${output}.bias`, outputs)] : [];
  return {
    scope,
    logits: builder.value(Gemm, [seen, weight, ...addend], { alpha: 1, beta: 1, transA: 0, transB: 1 }, "logits"),
  };
}

/** The logits [texts, count] that the head for tokens gives those that the batch input `options` lists. @throws {UserError} an adapter of that head */
function optionLogits(scope: ParamScope, config: ModelConfig, x: string, count: number): string {
  const { builder } = scope;
  const { vocabSize, hiddenSize, logitScale: alpha, logitSoftCap: cap } = config;
  const { head, embedding } = modulesOf(config);
  if (scope.adapterOf(head)) throw new UserError(`an adapter of ${head} does not run where single tokens' logits are wanted`);
  const stored = config.tieWordEmbeddings ? `${config.modulePrefix}${embedding}` : head;
  const weight = scope.rows(`${head}.weight`, [vocabSize, hiddenSize], "options", `${stored}.weight`);
  const bias = config.headBias ? [optionBias(scope, config, count)] : [];
  const logits = builder.value(Gemm, [x, weight, ...bias], { alpha, beta: 1, transA: 0, transB: 1 }, "logits");
  if (cap === null) return logits;
  // SoftCap alone has no gradient: c tanh(z / c).
  const small = builder.value(Tanh, [builder.value(Affine, [logits], { alpha: 1 / cap, beta: 0 }, "small")], {}, "bent");
  return builder.value(Affine, [small], { alpha: cap, beta: 0 }, "capped");
}

function optionBias(scope: ParamScope, config: ModelConfig, count: number): string {
  const { builder } = scope;
  const all = builder.value(Reshape, [scope.vector(logitBias(config), config.vocabSize)], { shape: [config.vocabSize, 1] });
  const own = builder.value(Gather, [all, "options"], {}, "bias.rows");
  return builder.value(Reshape, [own], { shape: [count] }, "bias.options");
}

/** The embeddings [texts, hiddenSize], of hidden states behind the model's final norm. */
function embedding(scope: ParamScope, config: ModelConfig, pooling: Pooling): string {
  const { builder } = scope;
  if (pooling !== "mean") return lastNormed(scope, config, builder.value(Gather, ["x", "rows"], {}, "pooled"));
  const product = { alpha: 1, beta: 1, transA: 0, transB: 0 };
  return builder.value(Gemm, ["means", lastNormed(scope, config, "x")], product, "pooled");
}

/** A layer behind the pooling. */
function behind(scope: ParamScope, { module, inputs, outputs, bias, activation }: DenseLayer, x: string): string {
  const y = linear(scope, x, { module: denseModule(module), inFeatures: inputs, outFeatures: outputs, bias, site: 0 });
  return activation === "tanh" ? scope.builder.value(Tanh, [y], {}, `${module}.active`) : y;
}

/** The layer in front of an encoder's last one, with its activation and norm. */
function densely(
  scope: ParamScope,
  config: ModelConfig,
  { module, bias, activation, norm }: NonNullable<TextHeadModules["dense"]>,
  x: string,
): string {
  const { builder } = scope;
  const { hiddenSize } = config;
  const y = linear(scope, x, { module, inFeatures: hiddenSize, outFeatures: hiddenSize, bias, site: 0 });
  const active =
    activation === "gelu"
      ? activated(builder, "gelu", y)
      : builder.value(activation === "tanh" ? Tanh : Relu, [y], {}, "activated");
  return norm === null ? active : layerNorm(scope, config, active, norm, hiddenSize);
}
