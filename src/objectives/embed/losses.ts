import { logSumExp } from "../logistic.ts";
import type { Texts } from "./texts.ts";
import { addSlope, cosine, type Units } from "./vectors.ts";

/** Describes what a loss makes of embeddings at length 1. */
export interface Found {
  /** The sum over examples of what the loss is a mean of. */
  readonly loss: number;
  /** Anchors that are nearer to their own positive than to anything else; absent: the loss knows no anchors. */
  readonly correct?: number;
}

/** Computes a loss, and adds its derivatives by the embeddings to `slopes`; null: nobody asks for them. */
export type EmbedLoss = (units: Units, texts: Texts, slopes: Float64Array | null) => Found;

/**
 * -log softmax_j(s u_i . v_j) at the own positive of anchor i, over the positives and negatives v_j of all examples (MultipleNegativesRankingLoss). Symmetric: the mean of
 * that and of the same from each positive to all anchors (MultipleNegativesSymmetricRankingLoss). A text that matches the anchor by another example is no negative of it.
 */
export const contrast =
  (scale: number, symmetric: boolean): EmbedLoss =>
  (units, texts, slopes) => {
    const { anchors, candidates, own } = texts;
    const share = symmetric ? 0.5 : 1;
    // One for all anchors, for a step may have thousands.
    const scores = new Float64Array(candidates.length);
    const back = new Float64Array(symmetric ? anchors.length : 0);
    let [loss, correct] = [0, 0];
    for (let i = 0; i < anchors.length; i++) {
      const [anchor, wanted] = [anchors[i]!, own[i]!];
      for (let j = 0; j < candidates.length; j++) {
        const isOther = j !== wanted && texts.matches(i, j);
        scores[j] = isOther ? -Infinity : scale * cosine(units, anchor, candidates[j]!);
      }
      const best = scores[wanted]!;
      correct += Number(scores.every((score, j) => j === wanted || score < best));
      loss += share * softmaxLoss(units, slopes, { text: anchor, others: candidates, scores, wanted, factor: share * scale });
      if (!symmetric) continue;
      const positive = candidates[wanted]!;
      for (let k = 0; k < anchors.length; k++) {
        const isOther = k !== i && texts.matches(k, wanted);
        back[k] = isOther ? -Infinity : scale * cosine(units, positive, anchors[k]!);
      }
      loss +=
        share * softmaxLoss(units, slopes, { text: positive, others: anchors, scores: back, wanted: i, factor: share * scale });
    }
    return { loss, correct };
  };

interface Choice {
  readonly text: number;
  readonly others: readonly number[];
  readonly scores: Float64Array;
  /** The place of the right one among the others. */
  readonly wanted: number;
  /** Derivative of the loss's part by a cosine, where that of the log softmax by the score is 1. */
  readonly factor: number;
}

/** d -log p_own / d score_j = p_j - [j = own]. */
function softmaxLoss(units: Units, slopes: Float64Array | null, { text, others, scores, wanted, factor }: Choice): number {
  const norm = logSumExp(scores);
  if (slopes)
    for (let j = 0; j < others.length; j++)
      addSlope(units, slopes, text, others[j]!, factor * (Math.exp(scores[j]! - norm) - Number(j === wanted)));
  return norm - scores[wanted]!;
}

/** max(0, u . n - u . p + m) of an anchor u, its positive p and a negative n: TripletLoss by cosine distance; the mean where there are several negatives. */
export const triplet =
  (margin: number): EmbedLoss =>
  (units, texts, slopes) => {
    const { anchors, candidates, own, starts } = texts;
    let [loss, correct] = [0, 0];
    for (const [i, anchor] of anchors.entries()) {
      const [positive, ...negatives] = candidates.slice(own[i], starts[i + 1]!) as [number, ...number[]];
      const near = cosine(units, anchor, positive);
      const far = negatives.map((text) => cosine(units, anchor, text));
      correct += Number(far.every((value) => value < near));
      for (const [j, text] of negatives.entries()) {
        const lack = far[j]! - near + margin;
        if (lack <= 0) continue;
        loss += lack / negatives.length;
        if (!slopes) continue;
        addSlope(units, slopes, anchor, text, 1 / negatives.length);
        addSlope(units, slopes, anchor, positive, -1 / negatives.length);
      }
    }
    return { loss, correct };
  };

/** (u . v - y)^2 of a pair with the score y: CosineSimilarityLoss. */
export const squares: EmbedLoss = (units, { pairs }, slopes) => {
  let loss = 0;
  for (const { first, second, score } of pairs) {
    const error = cosine(units, first, second) - score;
    loss += error * error;
    if (slopes) addSlope(units, slopes, first, second, 2 * error);
  }
  return { loss };
};

/**
 * log(1 + sum exp(s (c_i - c_j)) over all pairs i, j with y_i < y_j) of the cosines c of scored pairs, times the number of pairs: CoSENTLoss (Huang et al. 2024,
 * https://doi.org/10.1109/TASLP.2024.3402087). The sum is of products of a part of i and a part of j: pairs in the order of their scores need one pass from
 * each side.
 */
export const cosent =
  (scale: number): EmbedLoss =>
  (units, { pairs }, slopes) => {
    const ordered = pairs.toSorted((a, b) => a.score - b.score);
    const s = ordered.map(({ first, second }) => scale * cosine(units, first, second));
    const count = s.length;
    // log sum exp(s_i) over pairs of smaller scores, and log sum exp(-s_j) over those of greater ones; those of equal scores have the same.
    const runs = runsOf(ordered.map(({ score }) => score));
    const below = runningSums(runs, s, 1);
    const above = runningSums(runs.toReversed(), s, -1);
    let total = 0;
    for (let i = 0; i < count; i++) total = addExp(total, s[i]! + above[i]!);
    if (slopes) {
      for (const [i, { first, second }] of ordered.entries()) {
        const slope = Math.exp(s[i]! + above[i]! - total) - Math.exp(below[i]! - s[i]! - total);
        addSlope(units, slopes, first, second, count * scale * slope);
      }
    }
    return { loss: count * total };
  };

/** Ranges of equal values, of ascending ones. */
function runsOf(values: readonly number[]): (readonly [from: number, to: number])[] {
  const starts = values.flatMap((value, i) => (i === 0 || value !== values[i - 1] ? [i] : []));
  return starts.map((from, r) => [from, starts[r + 1] ?? values.length] as const);
}

/** log sum exp(sign s) over the runs before that of each place. */
function runningSums(runs: readonly (readonly [from: number, to: number])[], s: readonly number[], sign: 1 | -1): Float64Array {
  const sums = new Float64Array(s.length);
  let sum = -Infinity;
  for (const [from, to] of runs) {
    sums.fill(sum, from, to);
    for (let i = from; i < to; i++) sum = addExp(sum, sign * s[i]!);
  }
  return sums;
}

/** log(e^a + e^b). */
function addExp(a: number, b: number): number {
  const most = Math.max(a, b);
  return most === -Infinity ? most : most + Math.log1p(Math.exp(Math.min(a, b) - most));
}
