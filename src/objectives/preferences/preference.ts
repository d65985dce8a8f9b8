import type { Span } from "../../data/samples/batch.ts";
import { IGNORED } from "../../data/samples/sample.ts";
import type { Metric } from "../objective.ts";

/** What objectives that compare two answers have in common. Names of metrics are TRL's. */

export const REWARD_ACCURACY: Metric = {
  name: "rewards/accuracies",
  label: "chosen preferred",
  better: "higher",
  unit: "%",
  digits: 1,
};

/** The rewards of both answers. */
export const SCORES: readonly Metric[] = [
  { name: "rewards/margins", label: null, better: "higher", digits: 4 },
  { name: "rewards/chosen", label: null, better: "higher", digits: 4 },
  { name: "rewards/rejected", label: null, better: "lower", digits: 4 },
];

export const REWARDS: readonly Metric[] = [
  ...SCORES,
  { name: "logps/chosen", label: null, better: "higher", digits: 4 },
  { name: "logps/rejected", label: null, better: "lower", digits: 4 },
];

/** Sums over pairs: their number, the losses, those whose chosen answer has the greater reward, and what rewards of answers are made of. */
export type PairSums = Record<"pairs" | "loss" | "correct" | "chosen" | "rejected", number>;

/** Returns the metrics above. The reward of an answer is `scale` times what the sums have of it. */
export function rewardsOf({ pairs, correct, chosen, rejected }: PairSums, scale: number): Readonly<Record<string, number>> {
  const [meanChosen, meanRejected] = [chosen / pairs, rejected / pairs];
  return {
    "rewards/accuracies": correct / pairs,
    "rewards/margins": scale * (meanChosen - meanRejected),
    "rewards/chosen": scale * meanChosen,
    "rewards/rejected": scale * meanRejected,
    "logps/chosen": meanChosen,
    "logps/rejected": meanRejected,
  };
}

export interface LogProbability {
  readonly value: number;
  /** Tokens. */
  readonly count: number;
}

/** Returns the log-probability of the labelled tokens of a text, and how many they are. */
export function logProbability({ from, to }: Span, labels: Int32Array, losses: Float32Array): LogProbability {
  let [sum, count] = [0, 0];
  for (let t = from; t < to; t++) {
    if (labels[t] === IGNORED) continue;
    sum += losses[t]!;
    count++;
  }
  return { value: -sum, count };
}

/** Returns the mean log-probability of the labelled tokens of a text, and how many they are. */
export function meanLogProbability(span: Span, labels: Int32Array, losses: Float32Array): LogProbability {
  const { value, count } = logProbability(span, labels, losses);
  return { value: value / count, count };
}
