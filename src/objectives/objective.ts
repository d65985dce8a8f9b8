import type { z } from "zod";
import type { Example, Label, RankedExample, ScoredExample } from "../data/examples/example.ts";
import type { Pooling } from "../models/config.ts";
import type { LabelSlots } from "../models/parts.ts";
import type { MicroBatch } from "../data/samples/batch.ts";

/**
 * Describes what is learned: which examples, what of the model's output makes the loss, and what is told of it. An objective is one file in this folder
 * and one line of its table.
 *
 * The examples of a micro-batch are in it as a whole, with all their texts (`MicroBatch.spans`), packed or padded. The chain of segments ends in
 * one of three heads:
 * - closed: the device adds up the tokens' losses, times the weights that the batch has;
 * - open: the device gives the loss of each token, -log p(label); the objective computes its loss of them on the CPU, in float64, and its derivatives
 *   by them, with which the backward begins. The head runs twice then, and no other segment does;
 * - logits: the same of numbers that the device gives for each text, in the order of `MicroBatch.spans`.
 *
 * Losses and metrics of several micro-batches come of numbers that add up: `Sums`.
 */
export interface ObjectiveDefinition<N extends string = string, F extends z.ZodRawShape = z.ZodRawShape> {
  readonly name: N;
  /** The thing that is learned, for the help: a phrase. */
  readonly summary: string;
  /** Kinds of examples that it takes. */
  readonly accepts: readonly Example["kind"][];
  /** The same with some settings; all by default. */
  acceptsOf?(settings: z.output<z.ZodObject<F>>): readonly Example["kind"][];
  /** The settings with which it takes a kind, for errors, where it does not take all with any. */
  readonly otherwise?: Partial<Readonly<Record<Example["kind"], string>>>;
  /** Texts of an example that stay together in a row, which has room for so many of the sequence length. */
  readonly texts: number;
  /** The same with some settings. */
  textsOf?(settings: z.output<z.ZodObject<F>>): number;
  /** True: beside each example there is a text of its prompt and another example's answer, which is judged and not learned (see `withMismatched`). */
  mismatched?(settings: z.output<z.ZodObject<F>>): boolean;
  /** The share of tokens that are hidden and predicted from both sides of them (see `withMasks`), by text encoders alone; absent: none is. */
  masked?(settings: z.output<z.ZodObject<F>>): number;
  /** The metrics of an evaluation besides `loss`, which every objective has, in the order in which they are shown. */
  readonly metrics: readonly Metric[];
  /** Those of them that it has with some settings; all by default. */
  metricsOf?(settings: z.output<z.ZodObject<F>>): readonly Metric[];
  /** Flags of its own, by configuration key; all have defaults. */
  readonly flags: F;
  create(settings: z.output<z.ZodObject<F>>): Head;
}

/** An objective with its settings. */
export type Objective = Omit<ObjectiveDefinition, "create" | "acceptsOf" | "metricsOf" | "textsOf" | "masked" | "mismatched"> & {
  readonly head: Head;
  readonly mismatched?: boolean;
  readonly masked?: number;
};

export type Head = ClosedHead | OpenHead | LogitsHead;

export interface ClosedHead extends Totals {
  readonly kind: "loss";
  /** @param found the sum of the weighted losses, and how many labels were the likeliest token */
  sums(batch: MicroBatch, found: { readonly loss: number; readonly correct: number }): Sums;
}

export interface OpenHead extends Totals {
  readonly kind: "token-losses";
  /** True: micro-batches have the log-probabilities of their texts for the model as it was before training (`references`). */
  readonly hasReference?: true;
  /** Labels of each token, whose losses lie behind each other; absent: one. */
  readonly slots?: LabelSlots;
  /** The tokens whose losses are wanted: labels i32[T], or as many for each token as there are slots, -100 for none. */
  labels(batch: MicroBatch): Int32Array;
  /**
   * @param losses of each label, 0 without one
   * @param mismatched the same of the batch's mismatched texts
   */
  judge(batch: MicroBatch, losses: Float32Array, mismatched?: Float32Array): Judgement;
}

/** Judges whole texts: the model ends in a head that gives each of them some numbers. */
export interface LogitsHead extends Totals {
  readonly kind: "logits";
  /** Numbers that a text gets from a last layer; 0 with `pooling`. */
  readonly outputs: number;
  /** A text gets its embedding, as wide as the hidden states and not yet of length 1; absent: what a last layer makes of one token. */
  readonly pooling?: Pooling;
  /** True: all texts of a step are judged together, whatever micro-batches they are in. */
  readonly wholeStep?: true;
  /** Labels as numbers; absent: texts have no labels. */
  readonly targets?: Targets;
  /** The same of texts that are ranked. */
  readonly relevance?: Relevance;
  /** The same of pairs with a score. */
  readonly similarity?: Similarity;
  /** @param logits of each text, one text behind the other */
  judge(batch: JudgedTexts, logits: Float32Array): Judgement;
  /** Returns what a held-out micro-batch gives, where that is something else than in training. */
  evaluate?(batch: JudgedTexts, logits: Float32Array): Sums;
}

/** The examples whose texts are judged together: a micro-batch, or several. */
export type JudgedTexts = Pick<MicroBatch, "examples" | "spans" | "targets"> & Partial<Pick<MicroBatch, "ids">>;

/** Describes what a text with a label is to be given, as numbers. */
export interface Targets {
  /** Changes whenever a label might become other numbers. */
  readonly key: string;
  /** @throws {UserError} with `where`: a label of another kind, or of no known class */
  of(label: Label, where: string): Float32Array;
}

/** Describes what the texts of a query are to be given, as numbers. */
export interface Relevance {
  /** Changes whenever an example might become other numbers. */
  readonly key: string;
  /** Numbers for each text. @throws {UserError} labels that are none for the loss */
  of(example: RankedExample): readonly Float32Array[];
}

/** Describes the number that a pair of texts has. */
export interface Similarity {
  /** Changes whenever an example might become another number. */
  readonly key: string;
  /** @throws {UserError} a score that is none for the loss */
  of(example: ScoredExample): number;
}

/** Describes what a micro-batch's losses, or logits, come to. */
export interface Judgement {
  readonly sums: Sums;
  /** Derivatives of the sum that `loss` is the mean of, by each token's loss or by each logit: of either sign. */
  readonly weights: Float64Array;
}

interface Totals {
  /** How much of a step a micro-batch is: what the loss is a mean over. */
  share(batch: MicroBatch): number;
  /** The loss and all metrics, of the sums of all micro-batches. */
  values(sums: Sums): Values;
}

/** Numbers that add up over micro-batches, and lists that follow each other, by name; what one of them lacks is 0 or empty there. */
export type Sums = Readonly<Record<string, number | List>>;

type List = readonly number[] | readonly Float32Array[];

/** A loss, and metrics by name. */
export interface Values {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
  /** Results that are no numbers, by name: for `eval --json`. */
  readonly details?: Readonly<Record<string, unknown>>;
}

export interface Metric {
  /** In events and files, and for `--best-metric`. */
  readonly name: string;
  /** In the terminal; null: it is in files alone. */
  readonly label: string | null;
  /** The better values. */
  readonly better: "lower" | "higher";
  /** In TensorBoard, behind `train/` or `eval/`; the name by default. */
  readonly tag?: string;
  /** How it is shown: a number, or per cent. */
  readonly unit?: "%";
  /** Digits behind the point. */
  readonly digits: number;
}

/** The metric that every objective has. */
export const LOSS: Metric = { name: "loss", label: "loss", better: "lower", digits: 4 };

export function defineObjective<const N extends string, F extends z.ZodRawShape>(
  definition: ObjectiveDefinition<N, F>,
): ObjectiveDefinition<N, F> {
  return definition;
}

export function addSums(a: Sums | null, b: Sums): Sums {
  if (a === null) return b;
  const sums: Record<string, number | List> = { ...a };
  for (const [name, value] of Object.entries(b)) {
    const before = sums[name];
    sums[name] =
      typeof value === "number"
        ? ((before as number | undefined) ?? 0) + value
        : ([...((before as List) ?? []), ...value] as List);
  }
  return sums;
}

/** True if micro-batches need what a teacher says of their tokens. */
export function isTaught(head: Head): boolean {
  return head.kind === "token-losses" && head.slots !== undefined;
}

/** Returns of how many texts of an example those are needed. */
export function referenceTexts({ texts, mismatched }: Pick<Objective, "texts" | "mismatched">): number {
  return mismatched ? texts + 1 : texts;
}

/** True if micro-batches need the log-probabilities of a reference model. */
export function hasReference(head: Head): boolean {
  return head.kind === "token-losses" && head.hasReference === true;
}
