import type { Classifier } from "../hf/config/classifier.ts";
import { tempered } from "./calibration.ts";
import { indexOfMost } from "./class-metrics.ts";
import { logSigmoid, logSoftmax } from "./logistic.ts";

/** A model's verdict on a text. */
export interface Judgement {
  /** The likeliest class; of any number of classes a list of those from one half on. Absent where the model gives a value. */
  readonly label?: string | readonly string[];
  /** By class. */
  readonly probabilities?: Readonly<Record<string, number>>;
  /** The number that a model of values, or a reward model, gives. */
  readonly value?: number;
}

/** Returns the meaning of the numbers that a head gives a text. */
export function judgementOf({ kind, labels, temperature }: Classifier, given: Float32Array): Judgement {
  const logits = tempered(given, temperature ?? 1);
  const named = (values: ArrayLike<number>) => Object.fromEntries(labels.map((label, c) => [label, values[c]!]));
  switch (kind) {
    case "single": {
      const probabilities = logSoftmax(logits).map(Math.exp);
      return { label: labels[indexOfMost(probabilities)]!, probabilities: named(probabilities) };
    }
    case "several": {
      const probabilities = Float64Array.from(logits, (z) => Math.exp(logSigmoid(z)));
      return { label: labels.filter((_, c) => probabilities[c]! >= 0.5), probabilities: named(probabilities) };
    }
    case "number":
      return { value: given[0]! };
  }
}
