import { z } from "zod";
import { defineObjective, type JudgedTexts, type Judgement } from "../objective.ts";
import { logSigmoid } from "../logistic.ts";
import { type PairSums, REWARD_ACCURACY, SCORES } from "./preference.ts";

/**
 * A reward model (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155): a text gets a score, and of two answers the preferred one the greater. With the
 * scores s of both texts, the loss of a pair is
 *
 *     -log sigmoid(s(chosen) - s(rejected)) + c (s(chosen) + s(rejected))^2.
 *
 * The second part keeps the scores around 0, which the first leaves open (Eisenstein et al. 2023, https://arxiv.org/abs/2312.09244). Everything is a
 * mean over pairs.
 */
export const reward = defineObjective({
  name: "reward",
  summary: "a score for a text, by which of two answers is preferred (reward model)",
  accepts: ["preference"],
  texts: 2,
  metrics: [REWARD_ACCURACY, ...SCORES],
  flags: {
    rewardCentring: z
      .number()
      .min(0)
      .default(0)
      .describe("reward: weight of the squared sum of a pair's scores, which keeps them around 0"),
  },
  create: ({ rewardCentring: centring }) => ({
    kind: "logits",
    outputs: 1,
    share: ({ examples }) => examples,
    judge: (batch, scores) => judge(batch, scores, centring),
    values(sums) {
      const { pairs, loss, correct, chosen, rejected } = sums as unknown as PairSums;
      return {
        loss: loss / pairs,
        metrics: {
          "rewards/accuracies": correct / pairs,
          "rewards/margins": (chosen - rejected) / pairs,
          "rewards/chosen": chosen / pairs,
          "rewards/rejected": rejected / pairs,
        },
      };
    },
  }),
});

/** @param scores of both texts of each pair */
function judge({ spans }: JudgedTexts, scores: Float32Array, centring: number): Judgement {
  const weights = new Float64Array(scores.length);
  const total = { pairs: spans.length, loss: 0, correct: 0, chosen: 0, rejected: 0 };
  for (let i = 0; i < spans.length; i++) {
    const [better, worse] = [scores[2 * i]!, scores[2 * i + 1]!];
    const sum = better + worse;
    total.loss += centring * sum * sum - logSigmoid(better - worse);
    total.correct += Number(better > worse);
    total.chosen += better;
    total.rejected += worse;
    // d -log sigmoid(x) = -sigmoid(-x) dx.
    const slope = Math.exp(logSigmoid(worse - better));
    weights[2 * i] = 2 * centring * sum - slope;
    weights[2 * i + 1] = 2 * centring * sum + slope;
  }
  return { sums: total, weights };
}
