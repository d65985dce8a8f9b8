import { type ClosedHead, defineObjective, type Metric } from "./objective.ts";

/** The metrics of predicted tokens. */
export const TOKEN_METRICS: readonly Metric[] = [
  { name: "perplexity", label: "perplexity", better: "lower", digits: 2 },
  { name: "accuracy", label: "token accuracy", better: "higher", tag: "token_accuracy", unit: "%", digits: 1 },
];

/** Mean cross entropy (nats) of the labelled tokens, weighted where they have weights: sum w nll / sum w. */
export const TOKEN_HEAD: ClosedHead = {
  kind: "loss",
  share: ({ weight }) => weight,
  sums: ({ labelled, weight }, { loss, correct }) => ({ loss, correct, labelled, weight }),
  values(sums) {
    const { loss: sum, correct, labelled, weight } = sums as Record<"loss" | "correct" | "labelled" | "weight", number>;
    const loss = sum / weight;
    return { loss, metrics: { accuracy: correct / labelled, perplexity: Math.exp(loss) } };
  },
};

export const nextToken = defineObjective({
  name: "next-token",
  summary: "the next token of answers and texts",
  accepts: ["chat", "completion", "text"],
  texts: 1,
  metrics: TOKEN_METRICS,
  flags: {},
  create: () => TOKEN_HEAD,
});
