import { z } from "zod";
import type { MicroBatch } from "../../data/samples/batch.ts";
import { IGNORED } from "../../data/samples/sample.ts";
import { defineObjective, type Judgement } from "../objective.ts";
import { logSigmoid } from "../logistic.ts";
import { logProbability, type PairSums, REWARD_ACCURACY, REWARDS, rewardsOf } from "./preference.ts";

/**
 * Direct preference optimisation (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290): the chosen answer becomes likelier, and the rejected one
 * less likely, than they are for the model as it was before training. With the log-probability s of an answer (the sum over its
 * tokens) less what it is for that reference, and d = s(chosen) - s(rejected), the loss of a pair is
 *
 *     sigmoid:  -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)      e: the share of preferences that are taken to be wrong
 *     hinge:    max(0, 1 - beta d)                                         (Zhao et al. 2023, https://arxiv.org/abs/2305.10425)
 *     ipo:      (d' - 1 / (2 beta))^2, d' of s over the answer's tokens    (Azar et al. 2023, https://arxiv.org/abs/2310.12036)
 *
 * Everything is a mean over pairs. Names of metrics are TRL's; an answer's reward is beta s.
 */
const LOSSES = ["sigmoid", "hinge", "ipo"] as const;
type DpoLoss = (typeof LOSSES)[number];

export const dpo = defineObjective({
  name: "dpo",
  summary: "which of two answers is preferred, held against the model as it was before (DPO)",
  accepts: ["preference"],
  texts: 2,
  metrics: [REWARD_ACCURACY, ...REWARDS],
  flags: {
    dpoBeta: z.number().positive().default(0.1).describe("dpo: how strongly the model is held to what it was; less allows more"),
    dpoLoss: z.enum(LOSSES).default("sigmoid").describe("dpo: loss of a pair"),
    dpoLabelSmoothing: z
      .number()
      .min(0)
      .lt(0.5)
      .default(0)
      .describe("dpo: share of the preferences that are taken to be wrong, with the sigmoid loss"),
  },
  create: ({ dpoBeta: beta, dpoLoss, dpoLabelSmoothing: smoothing }) => ({
    kind: "token-losses",
    hasReference: true,
    share: ({ examples }) => examples,
    labels: ({ labels }) => labels,
    judge: (batch, losses) => judge(batch, losses, pairLoss(dpoLoss, beta, smoothing)),
    values(sums) {
      const { pairs, loss, chosenLogp, rejectedLogp } = sums as unknown as PairSums & LogpSums;
      const rewards = rewardsOf(sums as unknown as PairSums, beta);
      return {
        loss: loss / pairs,
        metrics: { ...rewards, "logps/chosen": chosenLogp / pairs, "logps/rejected": rejectedLogp / pairs },
      };
    },
  }),
});

type LogpSums = Record<"chosenLogp" | "rejectedLogp", number>;

/** A pair's loss and its derivative by d, or by d' where the loss is one of means. */
interface PairLoss {
  readonly ofMeans: boolean;
  at(difference: number): { readonly loss: number; readonly slope: number };
}

function pairLoss(loss: DpoLoss, beta: number, smoothing: number): PairLoss {
  switch (loss) {
    case "sigmoid":
      return {
        ofMeans: false,
        at(d) {
          const x = beta * d;
          // d -log sigmoid(x) = -sigmoid(-x) dx, and d -log sigmoid(-x) = sigmoid(x) dx.
          return {
            loss: -(1 - smoothing) * logSigmoid(x) - smoothing * logSigmoid(-x),
            slope: beta * (-(1 - smoothing) * Math.exp(logSigmoid(-x)) + smoothing * Math.exp(logSigmoid(x))),
          };
        },
      };
    case "hinge":
      return { ofMeans: false, at: (d) => (beta * d < 1 ? { loss: 1 - beta * d, slope: -beta } : { loss: 0, slope: 0 }) };
    case "ipo":
      return {
        ofMeans: true,
        at(d) {
          const off = d - 1 / (2 * beta);
          return { loss: off * off, slope: 2 * off };
        },
      };
  }
}

function judge({ labels, spans, references }: MicroBatch, losses: Float32Array, pair: PairLoss): Judgement {
  if (!references) throw new Error("the log-probabilities of the reference were not computed");
  const weights = new Float64Array(losses.length);
  const total = { pairs: spans.length, loss: 0, correct: 0, chosen: 0, rejected: 0, chosenLogp: 0, rejectedLogp: 0 };
  for (const [i, [chosen, rejected]] of spans.entries()) {
    const [first, second] = [logProbability(chosen!, labels, losses), logProbability(rejected!, labels, losses)] as const;
    const [better, worse] = [first.value - references[2 * i]!, second.value - references[2 * i + 1]!] as const;
    const [by, other] = pair.ofMeans ? [first.count, second.count] : [1, 1];
    const { loss, slope } = pair.at(better / by - worse / other);
    total.loss += loss;
    total.correct += Number(better > worse);
    total.chosen += better;
    total.rejected += worse;
    total.chosenLogp += first.value;
    total.rejectedLogp += second.value;
    // A log-probability is minus the sum of its tokens' losses.
    for (const [{ from, to }, weight] of [
      [chosen!, -slope / by],
      [rejected!, slope / other],
    ] as const)
      for (let t = from; t < to; t++) if (labels[t] !== IGNORED) weights[t] = weight;
  }
  return { sums: total, weights };
}
