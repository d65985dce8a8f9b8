import { z } from "zod";
import type { MicroBatch, Span } from "../../data/samples/batch.ts";
import { POOLINGS } from "../../models/config.ts";
import { logSoftmax } from "../logistic.ts";
import { defineObjective, type Judgement, type LogitsHead } from "../objective.ts";

/**
 * Embeddings of texts, by contrast (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748; Henderson et al. 2017,
 * https://arxiv.org/abs/1705.00652). With u_i, the embedding of the i-th anchor at length 1, and v_j, those of all positives and hard negatives of the
 * micro-batch, the loss of an anchor is
 *
 *     -log softmax_j(s u_i . v_j) at j = its own positive
 *
 * and everything is a mean over anchors: sentence-transformers' MultipleNegativesRankingLoss. The texts of one micro-batch are held against each
 * other; those of all micro-batches of a step with `gradCache`.
 */
export const embed = defineObjective({
  name: "embed",
  summary: "embeddings of texts, in which a text is nearer to its own match than to those of others",
  accepts: ["contrast"],
  texts: 2,
  textsOf: ({ hardNegatives }) => 2 + hardNegatives,
  metrics: [{ name: "recall@1", label: "recall@1 in the batch", better: "higher", unit: "%", digits: 1 }],
  flags: {
    pooling: z
      .enum(POOLINGS)
      .optional()
      .describe(
        "embed: what of the last hidden states is a text's embedding: mean of its tokens, cls (the first), last (as the model's folder says; else mean of a text encoder, last of other models)",
      ),
    embedScale: z.number().positive().default(20).describe("embed: factor of the cosines in the softmax, 1 / temperature"),
    gradCache: z
      .boolean()
      .default(false)
      .describe("embed: hold the texts of all micro-batches of a step against each other, for one more forward (GradCache)"),
    hardNegatives: z.int().min(0).max(64).default(0).describe("embed: hard negatives that each example has"),
  },
  // The pooling is settled before, where the model's folder is known.
  create: ({ pooling = "mean", embedScale: scale, gradCache }): LogitsHead => ({
    kind: "logits",
    outputs: 0,
    pooling,
    ...(gradCache && { wholeStep: true }),
    share: ({ examples }) => examples,
    judge: (batch, embeddings) => judge(batch, embeddings, scale),
    values(sums) {
      const { anchors, loss, correct } = sums as { readonly anchors: number; readonly loss: number; readonly correct: number };
      return { loss: loss / anchors, metrics: { "recall@1": correct / anchors } };
    },
  }),
});

/** The least length that an embedding is divided by, as in PyTorch's `normalize`. */
const LEAST_LENGTH = 1e-12;

/** @param embeddings of all texts of each example: anchor, positive, hard negatives */
function judge({ spans }: Pick<MicroBatch, "spans">, embeddings: Float32Array, scale: number): Judgement {
  const width = embeddings.length / spans.flat().length;
  const { units, lengths } = normalised(embeddings, width);
  const unitOf = (text: number) => units.subarray(text * width, (text + 1) * width);
  const { anchors, candidates, own } = columnsOf(spans);
  const slopes = new Float64Array(embeddings.length);
  const sums = { anchors: anchors.length, loss: 0, correct: 0 };
  for (const [i, anchor] of anchors.entries()) {
    const u = unitOf(anchor);
    const scores = candidates.map((text) => scale * dot(u, unitOf(text)));
    const logp = logSoftmax(scores);
    const mine = own[i]!;
    sums.loss -= logp[mine]!;
    sums.correct += Number(scores.every((score, j) => j === mine || score < scores[mine]!));
    for (const [j, text] of candidates.entries()) {
      // d -log p_own / d score_j = p_j - [j = own], and score_j = s u . v.
      const slope = scale * (Math.exp(logp[j]!) - Number(j === mine));
      const v = unitOf(text);
      for (let k = 0; k < width; k++) {
        slopes[anchor * width + k]! += slope * v[k]!;
        slopes[text * width + k]! += slope * u[k]!;
      }
    }
  }
  return { sums, weights: throughNorm(slopes, units, lengths, width) };
}

/** The texts of a micro-batch by number: anchors, what each is held against, and which of that is its own positive. */
function columnsOf(spans: readonly (readonly Span[])[]) {
  const [anchors, candidates, own]: number[][] = [[], [], []];
  let text = 0;
  for (const { length } of spans) {
    anchors!.push(text);
    own!.push(candidates!.length);
    for (let other = 1; other < length; other++) candidates!.push(text + other);
    text += length;
  }
  return { anchors: anchors!, candidates: candidates!, own: own! };
}

function normalised(embeddings: Float32Array, width: number) {
  const lengths = new Float64Array(embeddings.length / width);
  for (let text = 0; text < lengths.length; text++) {
    const own = Float64Array.from(embeddings.subarray(text * width, (text + 1) * width));
    lengths[text] = Math.max(LEAST_LENGTH, Math.sqrt(dot(own, own)));
  }
  return { units: Float64Array.from(embeddings, (value, at) => value / lengths[Math.floor(at / width)]!), lengths };
}

/** Derivatives by the embeddings e of those by u = e / |e|: (g - u (u . g)) / |e|. */
function throughNorm(slopes: Float64Array, units: Float64Array, lengths: Float64Array, width: number): Float64Array {
  const result = new Float64Array(slopes.length);
  for (const [text, length] of lengths.entries()) {
    const [from, to] = [text * width, (text + 1) * width];
    const along = dot(units.subarray(from, to), slopes.subarray(from, to));
    for (let at = from; at < to; at++) result[at] = (slopes[at]! - units[at]! * along) / length;
  }
  return result;
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
