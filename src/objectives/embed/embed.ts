import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import type { ScoredExample } from "../../data/examples/example.ts";
import { POOLINGS } from "../../models/config.ts";
import { defineObjective, type JudgedTexts, type Judgement, type LogitsHead, type Sums, type Values } from "../objective.ts";
import { contrast, cosent, type EmbedLoss, squares, triplet } from "./losses.ts";
import { CORRELATION_METRICS, RETRIEVAL_METRICS, retrievalValues, spearman } from "./retrieval.ts";
import { type Layout, layoutOf, textsOf } from "./texts.ts";
import { addThroughNorm, cosine, unitsOf } from "./vectors.ts";

const LOSSES = ["contrast", "triplet", "cosent", "cosine"] as const;
type LossName = (typeof LOSSES)[number];

/** Losses of scored pairs; the others are of texts with what matches them. */
const OF_PAIRS: readonly LossName[] = ["cosent", "cosine"];

/**
 * Embeddings of texts, by contrast (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; Henderson et al. 2017, https://arxiv.org/abs/1705.00652), by
 * triplets, or by scores of pairs: a mean over the examples of one of `losses.ts`, of embeddings at length 1. The texts of one micro-batch are held against
 * each other; those of all micro-batches of a step with `gradCache`. With `matryoshka` (Kusupati et al. 2022, https://arxiv.org/abs/2205.13147) it is the sum of the losses
 * of embeddings of several widths, the first numbers of each at length 1.
 *
 * In an evaluation all held-out texts are held against each other: loss and metrics do not depend on what shares a micro-batch.
 */
export const embed = defineObjective({
  name: "embed",
  summary: "embeddings of texts, in which a text is nearer to its own match than to those of others",
  accepts: ["contrast", "scored"],
  acceptsOf: ({ embedLoss }) => (OF_PAIRS.includes(embedLoss) ? ["scored"] : ["contrast"]),
  otherwise: { contrast: "--embed-loss contrast or triplet", scored: "--embed-loss cosent or cosine" },
  texts: 2,
  textsOf: ({ hardNegatives }) => 2 + hardNegatives,
  metrics: [...RETRIEVAL_METRICS, ...CORRELATION_METRICS],
  metricsOf: ({ embedLoss }) => (OF_PAIRS.includes(embedLoss) ? CORRELATION_METRICS : RETRIEVAL_METRICS),
  flags: {
    embedLoss: z
      .enum(LOSSES)
      .default("contrast")
      .describe(
        "embed: loss of texts with their matches (contrast: against all others of the micro-batch; triplet: against their own hard negatives) or of scored pairs (cosent: by their order; cosine: by the scores themselves)",
      ),
    pooling: z
      .enum(POOLINGS)
      .optional()
      .describe(
        "embed: what of the last hidden states is a text's embedding: mean of its tokens, cls (the first), last (as the model's folder says; else mean of a text encoder, last of other models)",
      ),
    embedScale: z
      .number()
      .positive()
      .default(20)
      .describe("embed: factor of the cosines in the losses contrast and cosent, 1 / temperature"),
    symmetric: z
      .boolean()
      .default(false)
      .describe("embed: the loss contrast is also that of each positive against all anchors, and the mean of both"),
    tripletMargin: z
      .number()
      .positive()
      .default(0.5)
      .describe("embed: how much nearer a match is to be than a hard negative, in cosines, with the loss triplet"),
    matryoshka: z
      .array(z.coerce.number<number | string>().int().positive())
      .min(1)
      .optional()
      .describe("embed: numbers of an embedding, the first ones, that are embeddings too: 768,256,64 (all numbers alone)"),
    gradCache: z
      .boolean()
      .default(false)
      .describe("embed: hold the texts of all micro-batches of a step against each other, for one more forward (GradCache)"),
    hardNegatives: z.int().min(0).max(64).default(0).describe("embed: hard negatives that each example has"),
  },
  // The pooling is settled before, where the model's folder is known.
  create({ pooling = "mean", gradCache, ...settings }): LogitsHead {
    const { embedLoss } = settings;
    const loss = lossOf(settings);
    const widths = settings.matryoshka?.toSorted((a, b) => b - a) ?? null;
    return {
      kind: "logits",
      outputs: 0,
      pooling,
      ...(gradCache && { wholeStep: true }),
      ...(OF_PAIRS.includes(embedLoss) && { similarity: { key: embedLoss, of: (example) => scoreOf(example, embedLoss) } }),
      share: ({ examples }) => examples,
      judge: (batch, embeddings) => judge(layoutOf(batch), embeddings, { loss, widths }),
      evaluate: heldOutSums,
      values: (sums) => ("embeddings" in sums ? heldOutValues(sums as HeldOut, { loss, widths }) : stepValues(sums)),
    };
  },
});

type LossSettings = {
  readonly embedLoss: LossName;
  readonly embedScale: number;
  readonly symmetric: boolean;
  readonly tripletMargin: number;
};

function lossOf({ embedLoss, embedScale, symmetric, tripletMargin }: LossSettings): EmbedLoss {
  switch (embedLoss) {
    case "contrast":
      return contrast(embedScale, symmetric);
    case "triplet":
      return triplet(tripletMargin);
    case "cosent":
      return cosent(embedScale);
    case "cosine":
      return squares;
  }
}

/** @throws {UserError} a score that no cosine has, where cosines are to be the scores */
function scoreOf({ score, where }: ScoredExample, loss: LossName): number {
  if (loss !== "cosine" || (score >= -1 && score <= 1)) return score;
  throw new UserError(
    `${where}: the score is ${score}; expected one from -1 to 1, as cosines are, with --embed-loss cosine: scale the scores, or take --embed-loss cosent, which asks for their order alone`,
  );
}

interface Judging {
  readonly loss: EmbedLoss;
  /** Widths of the embeddings that are judged, the greatest first; null: the whole width alone. */
  readonly widths: readonly number[] | null;
}

/** @param embeddings of all texts of each example: anchor, positive, hard negatives */
function judge(layout: Layout, embeddings: Float32Array, { loss, widths }: Judging): Judgement {
  const texts = textsOf(layout);
  const full = embeddings.length / sum(layout.counts);
  const weights = new Float64Array(embeddings.length);
  const sums = { examples: layout.counts.length, loss: 0 };
  let correct: number | undefined;
  for (const width of widths ?? [full]) {
    const units = unitsOf(embeddings, full, width);
    const slopes = new Float64Array(units.values.length);
    const found = loss(units, texts, slopes);
    sums.loss += found.loss;
    correct ??= found.correct;
    addThroughNorm(units, slopes, weights, full);
  }
  return { sums: correct === undefined ? sums : { ...sums, correct }, weights };
}

function stepValues(sums: Sums): Values {
  const { examples, loss, correct } = sums as { readonly examples: number; readonly loss: number; readonly correct?: number };
  return { loss: loss / examples, metrics: correct === undefined ? {} : { "recall@1": correct / examples } };
}

/** Held-out embeddings with what is known of their texts. */
type HeldOut = Sums & {
  readonly embeddings: readonly Float32Array[];
  readonly counts: readonly number[];
  readonly keys: readonly number[];
  readonly scores: readonly number[];
};

function heldOutSums(batch: JudgedTexts, embeddings: Float32Array): Sums {
  const { counts, keys, scores } = layoutOf(batch);
  const width = embeddings.length / sum(counts);
  const each = Array.from({ length: sum(counts) }, (_, text) => embeddings.slice(text * width, (text + 1) * width));
  return { embeddings: each, counts, keys, scores: Array.from(scores) };
}

/** Holds all held-out texts against each other. */
function heldOutValues({ embeddings, ...layout }: HeldOut, { loss, widths }: Judging): Values {
  const full = embeddings[0]!.length;
  const all = new Float32Array(embeddings.length * full);
  for (const [text, values] of embeddings.entries()) all.set(values, text * full);
  const texts = textsOf(layout);
  const total = sum((widths ?? [full]).map((width) => loss(unitsOf(all, full, width), texts, null).loss));
  const units = unitsOf(all, full);
  return { loss: total / layout.counts.length, metrics: texts.pairs.length > 0 ? orderOf() : retrievalValues(units, layout) };

  function orderOf() {
    const cosines = texts.pairs.map(({ first, second }) => cosine(units, first, second));
    const found = spearman(
      cosines,
      texts.pairs.map(({ score }) => score),
    );
    const values: Record<string, number> = found === null ? {} : { spearman: found };
    return values;
  }
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
