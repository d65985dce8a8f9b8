import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "./config.ts";

/** The longest sequence, in tokens, that rotary positions are defined for. */
export function contextLimit(config: Pick<ModelConfig, "maxPositions" | "rope">): number {
  const { scaling } = config.rope;
  if (scaling.type === "linear") return Math.floor(config.maxPositions * scaling.factor);
  if (scaling.type === "yarn") return Math.max(config.maxPositions, Math.floor(scaling.originalMaxPositions * scaling.factor));
  return config.maxPositions;
}

/**
 * Checks that sequences of `length` tokens fit the model.
 * @throws {UserError}
 */
export function checkContext(config: Pick<ModelConfig, "maxPositions" | "rope">, length: number): void {
  const limit = contextLimit(config);
  if (length > limit) {
    const why = isStretched(config)
      ? " (dynamic rotary positions, which would change with every length beyond it, are not supported)"
      : "";
    throw new UserError(
      `sequence length ${length} is longer than the model's context of ${limit} tokens${why}; choose ${limit} or less`,
    );
  }
}

/** Tells whether a text beyond the context would have other frequencies than one within it. */
export function isStretched({ rope }: Pick<ModelConfig, "rope">): boolean {
  return rope.scaling.type === "dynamic";
}
