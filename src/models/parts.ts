import { GraphBuilder } from "../graph/builder.ts";
import type { TensorType, WeightType } from "../graph/types.ts";
import type { SelectiveOptions } from "../autodiff/selective.ts";
import type { ModelConfig } from "./config.ts";
import type { RopeConfig } from "./rope.ts";
import type { Tuning } from "./tuning.ts";

/** Types of weights by their names. */
export interface WeightTypes {
  /** The type in memory. */
  (name: string): WeightType;
  /** The type that is meant, where memory may have another one because the executor lacks it. */
  readonly meant?: (name: string) => WeightType;
}

/** Describes what the graphs of all segments begin with. */
export interface SegmentOptions {
  /** Rows of a micro-batch times row length: the static first dimension of every activation. */
  readonly tokens: number;
  readonly tuning: Tuning;
  /** Type in memory of a frozen weight matrix, by checkpoint name. */
  readonly weightType: WeightTypes;
  /** Tokens count differently in the loss: the batch input `scale` has one value for each. */
  readonly weighted?: boolean;
  /** How the chain ends; with the loss by default. */
  readonly head?: HeadKind | undefined;
  /** Room for texts in a micro-batch, where the head gives logits of texts. */
  readonly texts?: number | undefined;
  /** Labels of each token, where an open head is to give its losses of several; absent: one. */
  readonly slots?: LabelSlots | undefined;
  /** Variants of the blocks with smaller tapes; none by default. */
  readonly selective?: SelectiveOptions;
}

/**
 * How a chain ends: in the sum of the tokens' losses, each times its scale; or open, in the loss of each token or the logits of each text, of which
 * something else makes a loss and the scales.
 */
export type HeadKind = "loss" | "token-losses" | "logits";

/** Describes several labels of each token: the first one of the logits as they are, the others of the logits times a factor. */
export interface LabelSlots {
  readonly count: number;
  readonly scale: number;
}

/** Describes how the labels of a token lie in `labels`, `scale` and `tokenLosses`: rows of the head, each of as many labels. */
export interface LabelPlaces {
  readonly rows: 1 | 2;
  readonly each: number;
  /** Place of the first of the others. */
  readonly others: number;
}

/** Returns the places of a token's labels: one row has them all, unless the others are of scaled logits, which are a row of their own; the first row has one label then. */
export function labelPlaces({ count, scale }: LabelSlots = { count: 1, scale: 1 }): LabelPlaces {
  return scale === 1 ? { rows: 1, each: count, others: 1 } : { rows: 2, each: count - 1, others: count - 1 };
}

/** Describes what the types of the batch inputs depend on. */
export interface BatchSize extends Pick<SegmentOptions, "tokens" | "weighted" | "head" | "texts" | "slots"> {
  readonly rows?: number;
}

/** Tells whether `scale` has a value for each token. */
export function hasTokenScales({ weighted = false, head = "loss" }: BatchSize): boolean {
  return weighted || head === "token-losses";
}

/**
 * Types of the `batch` inputs, by name. `tableIds` are `ids` for the table of what blocks are told. `starts` and `windowStarts` are the first positions that each token attends to,
 * without and with the sliding window, `ends` and `windowEnds` what is behind the last one in an encoder, whose rows of the tables of positions and types are `positions` and
 * `types`; `ones` are numbers that a bias is a factor of; `windowCos` and `windowSin` are there where layers with a window have rotary positions
 * of their own, `queryCos` and `querySin` where queries have; `rows` are the positions whose logits are wanted, and `means` has for each text
 * how much each token is of its embedding. `options` are the tokens whose logits alone are wanted. With several labels of each token `labels`, `scale` and `tokenLosses` have as many places for it (`labelPlaces`). `tokenLosses`, or
 * `textLogits`, is what an open head writes.
 */
export function batchTypes(config: ModelConfig, size: BatchSize): Partial<Record<BatchInput, TensorType>> {
  const { tokens, head = "loss", texts = 1, rows = texts, slots } = size;
  const { rows: headRows, each } = labelPlaces(slots);
  const places = tokens * headRows * each;
  const logits: TensorType = { dtype: "f32", shape: [texts, config.textHead?.outputs ?? 1] };
  const angles = Object.fromEntries(
    rotaryInputs(config).flatMap(({ names, dim }) => names.map((name) => [name, { dtype: "f32", shape: [tokens, dim / 2] }])),
  ) as Partial<Record<BatchInput, TensorType>>;
  return {
    ids: { dtype: "i32", shape: [tokens] },
    ...(config.layerInputs && { tableIds: { dtype: "i32", shape: [tokens] } }),
    labels: { dtype: "i32", shape: [places] },
    starts: { dtype: "i32", shape: [tokens] },
    windowStarts: { dtype: "i32", shape: [tokens] },
    ...(config.encoder && {
      ends: { dtype: "i32", shape: [tokens] },
      windowEnds: { dtype: "i32", shape: [tokens] },
      types: { dtype: "i32", shape: [tokens] },
    }),
    ...(config.positionTable && { positions: { dtype: "i32", shape: [tokens] } }),
    ...(config.headBias && { ones: { dtype: "f32", shape: [tokens * headRows, 1] } }),
    ...angles,
    scale: head === "logits" ? logits : { dtype: "f32", shape: [hasTokenScales(size) ? places : 1] },
    rng: { dtype: "i32", shape: [2] },
    rows: { dtype: "i32", shape: [rows] },
    ...(head === "token-losses" && { tokenLosses: { dtype: "f32", shape: [places] } }),
    ...(head === "logits" && { textLogits: logits }),
    ...(head === "logits" && config.textHead?.options && { options: { dtype: "i32", shape: [config.textHead.outputs] } }),
    ...(head === "logits" && config.textHead?.pooling === "mean" && { means: { dtype: "f32", shape: [texts, tokens] } }),
  };
}

/** The inputs that hold cos and sin of the model's rotary positions, by pairs, and how many features of a head each pair rotates. */
export function rotaryInputs({
  rope,
  windowRope,
  queryRope,
  rotaryDim: dim,
  fullHeads,
}: ModelConfig): { names: readonly [BatchInput, BatchInput]; rope: RopeConfig; dim: number }[] {
  if (dim === 0) return [];
  return [
    { names: ["cos", "sin"], rope, dim: fullHeads?.headDim ?? dim },
    ...(windowRope ? [{ names: ["windowCos", "windowSin"] as const, rope: windowRope, dim }] : []),
    ...(queryRope ? [{ names: ["queryCos", "querySin"] as const, rope: queryRope, dim }] : []),
  ];
}

export type BatchInput =
  | "ids"
  | "tableIds"
  | "labels"
  | "starts"
  | "windowStarts"
  | "ends"
  | "windowEnds"
  | "positions"
  | "types"
  | "ones"
  | "cos"
  | "sin"
  | "windowCos"
  | "windowSin"
  | "queryCos"
  | "querySin"
  | "scale"
  | "rng"
  | "rows"
  | "means"
  | "options"
  | "tokenLosses"
  | "textLogits";

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

/** A soft cap as an operator has it: absent where there is none. */
export function capAttr(softcap: number | null): { readonly softcap?: number } {
  return softcap === null ? {} : { softcap };
}
