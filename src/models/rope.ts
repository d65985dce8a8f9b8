import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "./config.ts";

/** How rotary frequencies are stretched beyond the context of pre-training (Transformers' `rope_type`). */
export type RopeScaling =
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  /**
   * Beyond `maxPositions` each length has frequencies of its own in Transformers; such texts are refused, and up to it this is the
   * same as `default`.
   */
  | { readonly type: "dynamic"; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly originalMaxPositions: number;
      /** Multiplies cos and sin; null: derived from `factor`, `mscale` and `mscaleAllDim`. */
      readonly attentionFactor: number | null;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly mscale: number | null;
      readonly mscaleAllDim: number | null;
      readonly truncate: boolean;
    }
  | {
      readonly type: "longrope";
      /** What each frequency is divided by, in sequences of up to `originalMaxPositions` tokens and in longer ones. */
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
      readonly originalMaxPositions: number;
      /** How far the context is stretched. */
      readonly factor: number;
      /** Multiplies cos and sin; null: derived from `factor`. */
      readonly attentionFactor: number | null;
    };

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
}

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

/** Whether a text beyond the context would have other frequencies than one within it. */
export function isStretched({ rope }: Pick<ModelConfig, "rope">): boolean {
  return rope.scaling.type === "dynamic";
}
