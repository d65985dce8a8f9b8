import { z } from "zod";
import type { MicroBatch, Span } from "../../data/samples/batch.ts";
import { IGNORED } from "../../data/samples/sample.ts";
import { defineObjective, type Judgement } from "../objective.ts";
import { logSigmoid } from "../logistic.ts";
import { type LogProbability, meanLogProbability, REWARD_ACCURACY, type PairSums, REWARDS, rewardsOf } from "./preference.ts";

/**
 * Odds ratio preference optimisation (Hong et al. 2024, https://arxiv.org/abs/2403.07691): the chosen answer is learned, and made likelier than the
 * rejected one, without a reference model. With the mean log-probability l of an answer's tokens and its log odds o = l - log(1 - e^l), the loss
 * of a pair is
 *
 *     nll(chosen) - lambda log sigmoid(o(chosen) - o(rejected)).
 *
 * As in TRL's trainer the nll is a mean over the tokens of a micro-batch, and everything else a mean over pairs; micro-batches count by their pairs.
 * Names of metrics are TRL's, rewards are lambda times l.
 */
export const orpo = defineObjective({
  name: "orpo",
  summary: "which of two answers is preferred, without a reference model (ORPO)",
  accepts: ["preference"],
  texts: 2,
  metrics: [
    REWARD_ACCURACY,
    { name: "log_odds_chosen", label: "log odds ratio", better: "higher", digits: 3 },
    { name: "nll_loss", label: "nll", better: "lower", digits: 4 },
    ...REWARDS,
    { name: "log_odds_ratio", label: null, better: "higher", digits: 4 },
  ],
  flags: {
    orpoLambda: z.number().min(0).default(0.1).describe("orpo: weight of the preference beside the chosen answer's loss"),
    orpoNll: z
      .enum(["response", "all"])
      .default("response")
      .describe("orpo: learn the chosen answer alone, or its prompt too, as TRL does"),
  },
  create: ({ orpoLambda: lambda, orpoNll }) => ({
    kind: "token-losses",
    share: ({ examples }) => examples,
    labels: (batch) => (orpoNll === "all" ? withPrompts(batch) : batch.labels),
    judge: (batch, losses) => judge(batch, losses, lambda, orpoNll === "all"),
    values(sums) {
      const { pairs, loss, nll, ratio, odds } = sums as unknown as OrpoSums;
      return {
        loss: loss / pairs,
        metrics: {
          nll_loss: nll / pairs,
          log_odds_ratio: ratio / pairs,
          log_odds_chosen: odds / pairs,
          ...rewardsOf(sums as unknown as OrpoSums, lambda),
        },
      };
    },
  }),
});

type OrpoSums = PairSums & Record<"nll" | "ratio" | "odds", number>;

/** The labels of a batch, and in chosen texts every token that has one before it. */
function withPrompts({ labels, ids, spans }: MicroBatch): Int32Array {
  const all = labels.slice();
  for (const [chosen] of spans) all.set(ids.subarray(chosen!.from + 1, chosen!.to), chosen!.from);
  return all;
}

/** Mean log-probabilities nearer to 0 than that are not told apart by sums of f32 losses; at 0 the odds would be infinite. */
const MOST = -(2 ** -30);

const below = ({ value, count }: LogProbability): LogProbability => ({ value: Math.min(value, MOST), count });

/** log(1 - e^x) for x < 0, without cancellation (Maechler 2012, Accurately computing log(1 - exp(-|a|))). */
const log1mExp = (x: number): number => (x < -Math.LN2 ? Math.log1p(-Math.exp(x)) : Math.log(-Math.expm1(x)));

function judge(batch: MicroBatch, losses: Float32Array, lambda: number, all: boolean): Judgement {
  const { labels, spans } = batch;
  const weights = new Float64Array(losses.length);
  const total = { pairs: spans.length, loss: 0, nll: 0, ratio: 0, odds: 0, correct: 0, chosen: 0, rejected: 0 };
  const learned = (span: Span, visit: (t: number) => void) => {
    // The last token has nothing behind it to predict.
    for (let t = span.from; t < span.to - 1; t++) if (all || labels[t] !== IGNORED) visit(t);
  };
  let [nll, tokens] = [0, 0];
  for (const [chosen, rejected] of spans) {
    learned(chosen!, (t) => {
      nll += losses[t]!;
      tokens++;
    });
    const [first, second] = [chosen!, rejected!].map((span) => below(meanLogProbability(span, labels, losses))) as [
      LogProbability,
      LogProbability,
    ];
    const odds = first.value - second.value - (log1mExp(first.value) - log1mExp(second.value));
    const ratio = logSigmoid(odds);
    total.ratio += ratio;
    total.odds += odds;
    total.correct += Number(first.value > second.value);
    total.chosen += first.value;
    total.rejected += second.value;
    // d log sigmoid(x) = sigmoid(-x) dx, and d log odds = dl / (1 - e^l); l is minus the mean of the losses.
    const slope = lambda * Math.exp(logSigmoid(-odds));
    for (const [{ value, count }, { from, to }, sign] of [
      [first, chosen!, 1],
      [second, rejected!, -1],
    ] as const) {
      const weight = (sign * slope) / (-Math.expm1(value) * count);
      for (let t = from; t < to; t++) if (labels[t] !== IGNORED) weights[t] = weight;
    }
  }
  // The mean over tokens counts once for each pair.
  const share = spans.length / tokens;
  for (const [chosen] of spans) learned(chosen!, (t) => (weights[t]! += share));
  total.nll = share * nll;
  total.loss = total.nll - lambda * total.ratio;
  return { sums: total, weights };
}
