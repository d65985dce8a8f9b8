import { UserError } from "../../base/errors.ts";
import type { Activation, Classifier } from "../../hf/config/classifier.ts";

/** A text of a query, with its place among those that were given. */
export interface RankedPlace {
  readonly index: number;
  /** The number that the model's head gives. */
  readonly score: number;
  /** The same through the activation that the model's files say, a sigmoid where they are silent, as in sentence-transformers. */
  readonly relevance: number;
}

/** Returns the texts of a query in the order of their scores; of equal ones the earlier first. */
export function ranked(scores: readonly Float32Array[], activation: Activation = "sigmoid"): RankedPlace[] {
  return scores
    .map(([score], index) => ({
      index,
      score: score!,
      relevance: activation === "sigmoid" ? 1 / (1 + Math.exp(-score!)) : score!,
    }))
    .sort((a, b) => b.score - a.score || a.index - b.index);
}

/** @throws {UserError} a model that gives a text several numbers, of which none says how well it answers a query */
export function expectRanker({ kind, labels }: Classifier, name: string): void {
  if (kind === "number") return;
  throw new UserError(
    `${name} has the classes ${labels.join(", ")}, and ranks no texts; train a model with --objective rerank, or give its folder`,
  );
}
