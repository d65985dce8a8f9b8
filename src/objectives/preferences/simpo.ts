import { z } from "zod";
import type { MicroBatch } from "../../data/samples/batch.ts";
import { IGNORED } from "../../data/samples/sample.ts";
import { defineObjective, type Judgement } from "../objective.ts";
import { logSigmoid } from "../logistic.ts";
import { meanLogProbability, type PairSums, REWARD_ACCURACY, REWARDS, rewardsOf } from "./preference.ts";

/**
 * Simple preference optimisation (Meng et al. 2024, https://arxiv.org/abs/2405.14734): the chosen answer is made likelier than the rejected one by
 * a margin, without a reference model. With the mean log-probability l of an answer's tokens, the loss of a pair is
 *
 *     -log sigmoid(beta (l(chosen) - l(rejected)) - gamma).
 *
 * Everything is a mean over pairs. Names of metrics are TRL's, rewards are beta times l; gamma is no part of them.
 */
export const simpo = defineObjective({
  name: "simpo",
  summary: "which of two answers is preferred, by a margin, without a reference model (SimPO)",
  accepts: ["preference"],
  texts: 2,
  metrics: [REWARD_ACCURACY, ...REWARDS],
  flags: {
    simpoBeta: z
      .number()
      .positive()
      .default(2)
      .describe("simpo: factor of the difference between the mean log-probabilities of the answers"),
    simpoGamma: z.number().min(0).default(1).describe("simpo: margin by which the chosen answer's reward is to be greater"),
  },
  create: ({ simpoBeta: beta, simpoGamma: gamma }) => ({
    kind: "token-losses",
    share: ({ examples }) => examples,
    labels: ({ labels }) => labels,
    judge: (batch, losses) => judge(batch, losses, beta, gamma),
    values(sums) {
      const { pairs, loss } = sums as unknown as PairSums;
      return { loss: loss / pairs, metrics: rewardsOf(sums as unknown as PairSums, beta) };
    },
  }),
});

function judge({ labels, spans }: MicroBatch, losses: Float32Array, beta: number, gamma: number): Judgement {
  const weights = new Float64Array(losses.length);
  const total = { pairs: spans.length, loss: 0, correct: 0, chosen: 0, rejected: 0 };
  for (const [chosen, rejected] of spans) {
    const [first, second] = [meanLogProbability(chosen!, labels, losses), meanLogProbability(rejected!, labels, losses)] as const;
    const margin = beta * (first.value - second.value) - gamma;
    total.loss -= logSigmoid(margin);
    total.correct += Number(first.value > second.value);
    total.chosen += first.value;
    total.rejected += second.value;
    // d -log sigmoid(x) = -sigmoid(-x) dx; l is minus the mean of the losses.
    const slope = beta * Math.exp(logSigmoid(-margin));
    for (const [{ count }, { from, to }, sign] of [
      [first, chosen!, 1],
      [second, rejected!, -1],
    ] as const)
      for (let t = from; t < to; t++) if (labels[t] !== IGNORED) weights[t] = (sign * slope) / count;
  }
  return { sums: total, weights };
}
