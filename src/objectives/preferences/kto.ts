import { z } from "zod";
import type { MicroBatch } from "../../data/samples/batch.ts";
import { IGNORED } from "../../data/samples/sample.ts";
import { defineObjective, type Judgement, type Metric } from "../objective.ts";
import { logSigmoid } from "../logistic.ts";
import { logProbability, REWARDS } from "./preference.ts";

const LOSSES = ["kto", "apo_zero_unpaired"] as const;

const KL: Metric = { name: "kl", label: "kl", better: "lower", digits: 3 };

/**
 * Kahneman-Tversky optimisation (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306): answers are given one by one, each desirable or
 * not. With r the log-probability of an answer (the sum over its tokens) less what it is for the model as it was before training, and z
 * how far the model has moved away from that (its Kullback-Leibler divergence, at least 0), the loss of an answer is
 *
 *     desirable:    w_d (1 - sigmoid(beta (r - z)))
 *     undesirable:  w_u (1 - sigmoid(beta (z - r))).
 *
 * z is estimated from answers to other prompts, the mismatched text of each example: the mean of their r in a micro-batch. Nothing is learned from
 * them, so that they have a forward alone: z counts as a constant. Without it (z = 0) desirable answers become likelier than they were, and undesirable ones less likely, and no other texts are needed: the unpaired
 * form of APO-zero (D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266). The loss is a mean over answers. Names of metrics are TRL's; an answer's reward is beta r.
 */
export const kto = defineObjective({
  name: "kto",
  summary: "which answers are desirable and which are not, each for itself, held against the model as it was before (KTO)",
  accepts: ["unpaired"],
  texts: 1,
  mismatched: ({ ktoLoss }) => ktoLoss === "kto",
  metrics: [KL, ...REWARDS],
  metricsOf: ({ ktoLoss }) => (ktoLoss === "kto" ? [KL, ...REWARDS] : REWARDS),
  flags: {
    ktoLoss: z
      .enum(LOSSES)
      .default("kto")
      .describe(
        "kto: loss of an answer: held against how far the model has moved (kto), or against what it was alone (apo_zero_unpaired)",
      ),
    ktoBeta: z.number().positive().default(0.1).describe("kto: how strongly the model is held to what it was; less allows more"),
    ktoDesirableWeight: z.number().min(0).default(1).describe("kto: how much desirable answers count"),
    ktoUndesirableWeight: z.number().min(0).default(1).describe("kto: how much undesirable answers count"),
  },
  create: ({ ktoLoss, ktoBeta: beta, ktoDesirableWeight: desirable, ktoUndesirableWeight: undesirable }) => ({
    kind: "token-losses",
    hasReference: true,
    share: ({ examples }) => examples,
    labels: ({ labels }) => labels,
    judge: (batch, losses, mismatched) => {
      const moved = ktoLoss === "kto" ? movedIn(batch, mismatched) : 0;
      return judge(batch, losses, { beta, desirable, undesirable, moved });
    },
    values(sums) {
      const { answers, loss, kl, chosen, chosenRatio, chosenLogp, rejectedRatio, rejectedLogp } = sums as unknown as KtoSums;
      const rejected = answers - chosen;
      return {
        loss: loss / answers,
        metrics: {
          ...(ktoLoss === "kto" && { kl: kl / answers }),
          // Where all answers are of one kind, nothing is known of the other.
          ...(chosen > 0 && { "rewards/chosen": (beta * chosenRatio) / chosen, "logps/chosen": chosenLogp / chosen }),
          ...(rejected > 0 && {
            "rewards/rejected": (beta * rejectedRatio) / rejected,
            "logps/rejected": rejectedLogp / rejected,
          }),
          ...(chosen > 0 && rejected > 0 && { "rewards/margins": beta * (chosenRatio / chosen - rejectedRatio / rejected) }),
        },
      };
    },
  }),
});

/** Sums over answers: their number, losses, z, and of each kind (`chosen` counts the desirable ones) r and log-probabilities. */
type KtoSums = Record<
  "answers" | "loss" | "kl" | "chosen" | "chosenRatio" | "chosenLogp" | "rejectedRatio" | "rejectedLogp",
  number
>;

interface KtoSettings {
  readonly beta: number;
  readonly desirable: number;
  readonly undesirable: number;
  /** The mean of r over the mismatched texts. */
  readonly moved: number;
}

/** The log-probability of the only text of each example, and how much more that is than it was. */
function ratiosOf(
  { labels, spans, references }: MicroBatch,
  losses: Float32Array,
): { readonly value: number; readonly ratio: number }[] {
  if (!references) throw new Error("the log-probabilities of the reference were not computed");
  return spans.map(([text], i) => {
    const { value } = logProbability(text!, labels, losses);
    return { value, ratio: value - references[i]! };
  });
}

function movedIn({ mismatched }: MicroBatch, losses: Float32Array | undefined): number {
  if (!mismatched || !losses) throw new Error("the mismatched texts were not computed");
  return ratiosOf(mismatched, losses).reduce((sum, { ratio }) => sum + ratio, 0) / mismatched.examples;
}

function judge(batch: MicroBatch, losses: Float32Array, { beta, moved, ...weightOf }: KtoSettings): Judgement {
  const { labels, spans, targets } = batch;
  const weights = new Float64Array(losses.length);
  const ratios = ratiosOf(batch, losses);
  const kl = Math.max(0, moved);
  const total = { answers: spans.length, loss: 0, kl: spans.length * kl };
  const kinds = { chosen: 0, chosenRatio: 0, chosenLogp: 0, rejectedRatio: 0, rejectedLogp: 0 };
  for (const [i, [text]] of spans.entries()) {
    const { value, ratio } = ratios[i]!;
    const isChosen = targets![i] === 1;
    // x is how much better the answer does than is asked of it: the loss is w (1 - sigmoid(x)), its derivative -w sigmoid(x) sigmoid(-x).
    const [sign, weight] = isChosen ? [1, weightOf.desirable] : [-1, weightOf.undesirable];
    const x = sign * beta * (ratio - kl);
    total.loss += weight * Math.exp(logSigmoid(-x));
    const slope = -sign * weight * beta * Math.exp(logSigmoid(x) + logSigmoid(-x));
    kinds.chosen += Number(isChosen);
    kinds[isChosen ? "chosenRatio" : "rejectedRatio"] += ratio;
    kinds[isChosen ? "chosenLogp" : "rejectedLogp"] += value;
    // A log-probability is minus the sum of its tokens' losses.
    for (let t = text!.from; t < text!.to; t++) if (labels[t] !== IGNORED) weights[t] = -slope;
  }
  return { sums: { ...total, ...kinds }, weights };
}
