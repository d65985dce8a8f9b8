import { inverseFrequencies } from "../models/rotary-tables.ts";
import { buildFinalNorm } from "../models/chain/encoder.ts";
import { buildSegments } from "../models/chain/segments.ts";
import { buildTextHead } from "../models/chain/text-head.ts";
import type { DenseLayer, ModelConfig, Pooling } from "../models/config.ts";
import { rotaryInputs, type SegmentOptions } from "../models/parts.ts";
import { denseModule } from "../models/names.ts";
import { OpenGraph } from "./open-graph.ts";
import { type OpenInputs, TOKENS, translate } from "./translate.ts";

/** A tensor that a file takes or gives: f32 or i64, with the names of open sizes. */
export interface OpenTensor {
  readonly name: string;
  readonly dtype: "f32" | "i64";
  readonly sizes: readonly (string | number)[];
}

export interface OpenModel {
  readonly graph: OpenGraph;
  readonly inputs: readonly OpenTensor[];
  readonly outputs: readonly OpenTensor[];
}

/** Describes how embeddings are made of hidden states. */
export interface OpenEmbedding {
  readonly pooling: Pooling;
  /** Layers behind the pooling. */
  readonly dense: readonly DenseLayer[];
  readonly normalizes: boolean;
  readonly dimensions: number;
}

const BATCH = "batch_size";
const LENGTH = "sequence_length";

/** Weights lie there as f32, and nothing is trained. */
const OPTIONS: SegmentOptions = {
  tokens: TOKENS,
  tuning: { method: "full", trains: () => false },
  weightType: () => "f32",
  texts: 1,
};

/**
 * The graph of a text encoder with any number of texts of any length, under the names that Transformers and transformers.js have: token ids and mask, and the types where there
 * are some; the logits of a model that judges texts, or the last hidden states with the embedding that is made of them.
 */
export function openEncoder(config: ModelConfig, embedding: OpenEmbedding | null): OpenModel {
  const open = new OpenGraph();
  const hasTypes = config.encoder!.typeRows > 1;
  const names = ["input_ids", "attention_mask", ...(hasTypes ? ["token_type_ids"] : [])];
  const inputs = names.map((name): OpenTensor => ({ name, dtype: "i64", sizes: [BATCH, LENGTH] }));
  const { given, texts } = openInputs(open, config, hasTypes);
  const bare = { ...config, encoder: { ...config.encoder!, predictsTokens: false } };
  const [table, ...blocks] = buildSegments(bare, OPTIONS);
  let x = translate(open, table!.model.forward, table!.params, "", given);
  for (const { model, params } of blocks) x = translate(open, model.forward, params, x, given);
  if (config.textHead && embedding === null) {
    const head = buildTextHead(config, { ...OPTIONS, head: "logits" }, false);
    open.named(translate(open, head.model.forward, head.params, x, given), "logits");
    return { graph: open, inputs, outputs: [{ name: "logits", dtype: "f32", sizes: [BATCH, config.textHead.outputs] }] };
  }
  const norm = buildFinalNorm(config, OPTIONS);
  if (norm) x = translate(open, norm.model.forward, norm.params, x, given);
  const shape = open.op("Concat", [given.sizes, open.ints([config.hiddenSize])], { axis: 0 });
  const states = open.op("Reshape", [x, shape]);
  open.named(states, "last_hidden_state");
  const outputs: OpenTensor[] = [{ name: "last_hidden_state", dtype: "f32", sizes: [BATCH, LENGTH, config.hiddenSize] }];
  if (embedding === null) return { graph: open, inputs, outputs };
  open.named(embeddings(open, states, x, texts, embedding, config.hiddenSize), "sentence_embedding");
  return {
    graph: open,
    inputs,
    outputs: [...outputs, { name: "sentence_embedding", dtype: "f32", sizes: [BATCH, embedding.dimensions] }],
  };
}

/** Values of texts: the flat place of the first token of each i64[texts], and how many tokens each has. */
interface Texts {
  readonly first: string;
  readonly counts: string;
}

function openInputs(
  open: OpenGraph,
  config: ModelConfig,
  hasTypes: boolean,
): { readonly given: OpenInputs; readonly texts: Texts } {
  const encoder = config.encoder!;
  const flat = (x: string) => open.op("Reshape", [x, open.ints([-1])]);
  const sizes = open.op("Shape", ["input_ids"]);
  const [batch, length] = [0, 1].map((at) => open.op("Gather", [sizes, open.scalar(at, "i64")], { axis: 0 }));
  const upTo = (end: string) => open.op("Range", [open.scalar(0, "i64"), end, open.scalar(1, "i64")]);
  const places = upTo(length!);
  const first = open.op("Mul", [upTo(batch!), length!]);
  const ids = flat("input_ids");
  const seenTokens = open.op("Unsqueeze", [open.op("Cast", ["attention_mask"], { to: "bool" }), open.ints([1, 2])]);
  const noTypes = () => open.op("Mul", [ids, open.scalar(0, "i64")]);
  const values = new Map([
    ["ids", ids],
    ["rows", first],
  ]);
  if (encoder.typeRows > 0) values.set("types", hasTypes ? flat("token_type_ids") : noTypes());
  if (config.positionTable) values.set("positions", flat(positions(open, config, places, sizes)));
  for (const { names, rope } of rotaryInputs(config)) {
    const { inverse, attentionFactor } = inverseFrequencies({ ...config, rope });
    const column = open.op("Unsqueeze", [open.op("Cast", [places], { to: "f32" }), open.ints([1])]);
    const angles = open.op("Mul", [column, open.constant("f32", [1, inverse.length], [...inverse])]);
    for (const [i, op] of ["Cos", "Sin"].entries()) {
      const table = open.op(op, [angles]);
      values.set(names[i]!, attentionFactor === 1 ? table : open.op("Mul", [table, open.scalar(attentionFactor)]));
    }
  }
  const seen = new Map([["starts", seenTokens]]);
  if (config.slidingWindow !== null) {
    const [rows, columns] = [[1], [0]].map((axes) => open.op("Unsqueeze", [places, open.ints(axes)]));
    const distance = open.op("Abs", [open.op("Sub", [rows!, columns!])]);
    const near = open.op("LessOrEqual", [distance, open.scalar(config.slidingWindow - 1, "i64")]);
    seen.set("windowStarts", open.op("And", [seenTokens, open.op("Unsqueeze", [near, open.ints([0, 1])])]));
  }
  const counts = open.op("ReduceSum", ["attention_mask", open.ints([1])], { keepdims: 0 });
  return { given: { sizes, values, seen }, texts: { first, counts } };
}

/** Rows of the table of positions [texts, length]; a RoBERTa counts the tokens that are not padding by their id, as Transformers does. */
function positions(open: OpenGraph, { positionTable, padTokenId }: ModelConfig, places: string, sizes: string): string {
  const firstPosition = positionTable!.first;
  if (firstPosition === 0) return open.op("Expand", [open.op("Unsqueeze", [places, open.ints([0])]), sizes]);
  const isPadding = open.op("Equal", ["input_ids", open.scalar(padTokenId ?? firstPosition - 1, "i64")]);
  const counted = open.op("Cast", [open.op("Not", [isPadding])], { to: "i64" });
  const places1 = open.op("Mul", [open.op("CumSum", [counted, open.scalar(1, "i64")]), counted]);
  return open.op("Add", [places1, open.scalar(firstPosition - 1, "i64")]);
}

/** @param states [texts, length, width], and the same as flat rows */
function embeddings(
  open: OpenGraph,
  states: string,
  rows: string,
  { first, counts }: Texts,
  { pooling, dense, normalizes, dimensions }: OpenEmbedding,
  width: number,
): string {
  const pooled = () => {
    switch (pooling) {
      case "cls":
        return open.op("Gather", [rows, first], { axis: 0 });
      case "last":
        return open.op("Gather", [rows, open.op("Sub", [open.op("Add", [first, counts]), open.scalar(1, "i64")])], { axis: 0 });
      case "mean": {
        const mask = open.op("Unsqueeze", [open.op("Cast", ["attention_mask"], { to: "f32" }), open.ints([2])]);
        const sum = open.op("ReduceSum", [open.op("Mul", [states, mask]), open.ints([1])], { keepdims: 0 });
        const count = open.op("ReduceSum", [mask, open.ints([1])], { keepdims: 0 });
        return open.op("Div", [sum, open.op("Max", [count, open.scalar(1e-9)])]);
      }
    }
  };
  const all = dense.reduce((x, layer) => behind(open, x, layer), pooled());
  const kept =
    dimensions === (dense.at(-1)?.outputs ?? width)
      ? all
      : open.op("Slice", [all, open.ints([0]), open.ints([dimensions]), open.ints([1])]);
  if (!normalizes) return kept;
  const length = open.op("ReduceL2", [kept, open.ints([1])], { keepdims: 1 });
  return open.op("Div", [kept, open.op("Max", [length, open.scalar(1e-12)])]);
}

/** A layer behind the pooling. */
function behind(open: OpenGraph, x: string, { module, inputs, outputs, bias, activation }: DenseLayer): string {
  const name = denseModule(module);
  const addend = bias ? [open.weight(`${name}.bias`, [outputs])] : [];
  const y = open.op("Gemm", [x, open.weight(`${name}.weight`, [outputs, inputs]), ...addend], { transB: 1 });
  return activation === "tanh" ? open.op("Tanh", [y]) : y;
}
