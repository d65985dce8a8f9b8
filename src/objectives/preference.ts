import type { Span } from "../data/samples/batch.ts";
import { IGNORED } from "../data/samples/sample.ts";
import type { Metric } from "./objective.ts";

/** What objectives that compare two answers have in common. Names of metrics are TRL's. */

export const REWARD_ACCURACY: Metric = {
  name: "rewards/accuracies",
  label: "chosen preferred",
  better: "higher",
  unit: "%",
  digits: 1,
};

export const REWARDS: readonly Metric[] = [
  { name: "rewards/margins", label: null, better: "higher", digits: 4 },
  { name: "rewards/chosen", label: null, better: "higher", digits: 4 },
  { name: "rewards/rejected", label: null, better: "lower", digits: 4 },
  { name: "logps/chosen", label: null, better: "higher", digits: 4 },
  { name: "logps/rejected", label: null, better: "lower", digits: 4 },
];

/** Sums over pairs: their number, the losses, those whose chosen answer is the likelier one, and mean log-probabilities of answers. */
export type PairSums = Record<"pairs" | "loss" | "correct" | "chosen" | "rejected", number>;

/** Returns the metrics above. The reward of an answer is `scale` times its mean log-probability. */
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

export interface Mean {
  readonly value: number;
  /** Tokens. */
  readonly count: number;
}

/** Returns the mean log-probability of the labelled tokens of a text, and how many they are. */
export function meanLogProbability({ from, to }: Span, labels: Int32Array, losses: Float32Array): Mean {
  let [sum, count] = [0, 0];
  for (let t = from; t < to; t++) {
    if (labels[t] === IGNORED) continue;
    sum += losses[t]!;
    count++;
  }
  return { value: -sum / count, count };
}

/** log(1 / (1 + e^-x)). */
export const logSigmoid = (x: number): number => (x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x)));
