import { z } from "zod";
import { UserError } from "../base/errors.ts";
import type { MicroBatch } from "../data/samples/batch.ts";
import { IGNORED } from "../data/samples/sample.ts";
import { labelPlaces, type LabelPlaces } from "../models/parts.ts";
import { defineObjective, type Judgement, type OpenHead } from "./objective.ts";

/** The least that is left for all other tokens, of which the logarithm is taken. */
const LEAST_REST = 1e-6;

const WITH_TEACHER = "--teacher, with the folder or hub name of the model that is learned from";

/**
 * Distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531): a student learns what a teacher says of each token. With the probabilities p of the
 * teacher's k likeliest tokens at temperature T, q those that the student gives the same ones, and all other tokens taken together as one more, of which both have
 * what is left to 1, the loss of a token is
 *
 *     (1 - a) (-log q(label) at temperature 1) + a T^2 (sum_i p_i log(p_i / q_i) + p_rest log(p_rest / q_rest))
 *
 * and everything is a mean over tokens, by their weights.
 */
export const distil = defineObjective({
  name: "distil",
  summary: "what another model, the teacher, finds likely in answers and texts, and these themselves",
  accepts: ["chat", "completion", "text", "told"],
  acceptsOf: ({ teacher }) => (teacher === undefined ? ["told"] : ["chat", "completion", "text"]),
  otherwise: { chat: WITH_TEACHER, completion: WITH_TEACHER, text: WITH_TEACHER },
  texts: 1,
  metrics: [
    { name: "perplexity", label: "perplexity", better: "lower", digits: 2 },
    { name: "teacher_kl", label: "KL from the teacher", better: "lower", digits: 4 },
  ],
  flags: {
    teacher: z
      .string()
      .min(1)
      .optional()
      .describe(
        "distil: folder or hub name of the model that is learned from, with the same tokenizer; none: the data are what remat generate --logprobs wrote",
      ),
    teacherTop: z
      .int()
      .min(1)
      .max(64)
      .default(8)
      .describe("distil: tokens that the teacher tells of each place, the likeliest ones"),
    distilTemperature: z
      .number()
      .positive()
      .default(1)
      .describe("distil: divisor of both models' logits, which makes the less likely tokens count more"),
    distilShare: z
      .number()
      .min(0)
      .max(1)
      .default(0.5)
      .describe("distil: how much of the loss is the teacher's; the rest is that of the examples' own tokens"),
  },
  create: ({ teacherTop: top, distilTemperature: temperature, distilShare: share, teacher }): OpenHead => {
    if (teacher === undefined && temperature !== 1)
      throw new UserError(
        `--distil-temperature ${temperature}: without --teacher the probabilities are those of the data, at a temperature of 1`,
      );
    const slots = { count: top + 1, scale: 1 / temperature };
    const places = labelPlaces(slots);
    return {
      kind: "token-losses",
      slots,
      share: ({ weight }) => weight,
      labels: (batch) => slotLabels(batch, top, places),
      judge: (batch, losses) => judge(batch, losses, places, share, temperature),
      values(sums) {
        const { weight, loss, own, divergence } = sums as Record<"weight" | "loss" | "own" | "divergence", number>;
        return { loss: loss / weight, metrics: { perplexity: Math.exp(own / weight), teacher_kl: divergence / weight } };
      },
    };
  },
});

/** The label of each token, and behind it what the teacher finds likeliest in its place; before anybody has asked it, the label again. */
function slotLabels({ labels, teacher }: MicroBatch, top: number, { rows, each, others }: LabelPlaces): Int32Array {
  const all = new Int32Array(labels.length * rows * each).fill(IGNORED);
  for (const [t, label] of labels.entries()) {
    const at = t * rows * each;
    all[at] = label;
    if (teacher) all.set(teacher.ids.subarray(t * top, (t + 1) * top), at + others);
    else all.fill(label, at + others, at + others + top);
  }
  return all;
}

/** @param losses -log q of each token's label, and of what the teacher finds likeliest, by their places */
function judge(
  { labels, teacher, weights: given }: MicroBatch,
  losses: Float32Array,
  { rows, each, others }: LabelPlaces,
  share: number,
  temperature: number,
): Judgement {
  if (!teacher) throw new Error("the teacher was not asked");
  const { top, logProbabilities } = teacher;
  const slopes = new Float64Array(losses.length);
  const sums = { weight: 0, loss: 0, own: 0, divergence: 0 };
  const factor = share * temperature * temperature;
  for (const [t, label] of labels.entries()) {
    if (label === IGNORED) continue;
    const [at, from] = [t * rows * each, t * top];
    const taughtAt = at + others;
    const weight = given?.[t] ?? 1;
    let [taught, known, divergence] = [0, 0, 0];
    for (let i = 0; i < top; i++) {
      const [p, q] = [Math.exp(logProbabilities[from + i]!), Math.exp(-losses[taughtAt + i]!)];
      taught += p;
      known += q;
      if (p > 0) divergence += p * (logProbabilities[from + i]! + losses[taughtAt + i]!);
    }
    const [pRest, qRest] = [Math.max(LEAST_REST, 1 - taught), Math.max(LEAST_REST, 1 - known)];
    divergence += pRest * Math.log(pRest / qRest);
    const own = losses[at]!;
    sums.weight += weight;
    sums.own += weight * own;
    sums.divergence += weight * divergence;
    sums.loss += weight * ((1 - share) * own + factor * divergence);
    slopes[at] = weight * (1 - share);
    // Below the least that is left nothing depends on it.
    const rest = 1 - known > LEAST_REST ? pRest / qRest : 0;
    for (let i = 0; i < top; i++) {
      const [p, q] = [Math.exp(logProbabilities[from + i]!), Math.exp(-losses[taughtAt + i]!)];
      // With l = -log q: d p l = p dl, and d log q_rest = q / q_rest dl.
      slopes[taughtAt + i] = weight * factor * (p - rest * q);
    }
  }
  return { sums, weights: slopes };
}
