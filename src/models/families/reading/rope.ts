import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { positive, size } from "../../../base/schema.ts";
import type { RopeConfig } from "../../rope.ts";

/** A context is stretched by no more than this, which keeps every product below 2^53. */
const MOST_STRETCH = 1_048_576;

const ROPE_TYPES = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"] as const;

/** `rope_scaling`, `rope_parameters`. */
export const ropeSchema = z.object({
  rope_type: z.string().nullish(),
  type: z.string().nullish(),
  rope_theta: positive.nullish(),
  factor: z.number().min(1).max(MOST_STRETCH).nullish(),
  low_freq_factor: positive.nullish(),
  high_freq_factor: positive.nullish(),
  original_max_position_embeddings: size.nullish(),
  attention_factor: positive.nullish(),
  beta_fast: z.number().nullish(),
  beta_slow: z.number().nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().nullish(),
  short_factor: z.array(positive).nullish(),
  long_factor: z.array(positive).nullish(),
  partial_rotary_factor: z.number().nullish(),
});

/** The keys of `config.json` that rotary positions depend on. */
interface RawRope {
  readonly rope_theta?: number | null | undefined;
  readonly rope_scaling?: z.infer<typeof ropeSchema> | null | undefined;
  readonly rope_parameters?: z.infer<typeof ropeSchema> | null | undefined;
  readonly original_max_position_embeddings?: number | null | undefined;
}

/** @throws {UserError} a kind that is not known, or keys that are missing */
export function ropeOf(config: RawRope, maxPositions: number, where: string): RopeConfig {
  // As in Transformers 5, a rope_scaling that is there wins over rope_parameters.
  const rope = config.rope_scaling ?? config.rope_parameters ?? {};
  const name = rope.rope_type ?? rope.type ?? "default";
  const type = ROPE_TYPES.find((known) => known === name);
  if (!type) throw new UserError(`${where}: rope_type ${show(name)} is not supported; expected one of ${ROPE_TYPES.join(", ")}`);
  const need = <K extends "factor" | "low_freq_factor" | "high_freq_factor" | "short_factor" | "long_factor">(
    key: K,
  ): NonNullable<(typeof rope)[K]> => {
    const value = rope[key];
    if (value !== undefined && value !== null) return value;
    const kind = key === "short_factor" || key === "long_factor" ? "list of numbers" : "number";
    throw new UserError(`${where}: rope_type "${type}" needs a ${kind} "${key}"`);
  };
  const originalMaxPositions = config.original_max_position_embeddings ?? rope.original_max_position_embeddings ?? maxPositions;
  const theta = rope.rope_theta ?? config.rope_theta ?? 10_000;
  switch (type) {
    case "default":
      return { theta, scaling: { type } };
    case "linear":
    case "dynamic":
      return { theta, scaling: { type, factor: need("factor") } };
    case "llama3": {
      const [factor, lowFreqFactor, highFreqFactor] = [need("factor"), need("low_freq_factor"), need("high_freq_factor")];
      if (highFreqFactor <= lowFreqFactor) {
        throw new UserError(
          `${where}: high_freq_factor (${highFreqFactor}) must be greater than low_freq_factor (${lowFreqFactor})`,
        );
      }
      return { theta, scaling: { type, factor, lowFreqFactor, highFreqFactor, originalMaxPositions } };
    }
    case "yarn":
      return {
        theta,
        scaling: {
          type,
          factor: rope.factor ?? maxPositions / originalMaxPositions,
          originalMaxPositions,
          attentionFactor: rope.attention_factor ?? null,
          betaFast: rope.beta_fast || 32,
          betaSlow: rope.beta_slow || 1,
          mscale: rope.mscale ?? null,
          mscaleAllDim: rope.mscale_all_dim ?? null,
          truncate: rope.truncate ?? true,
        },
      };
    case "longrope":
      return {
        theta,
        scaling: {
          type,
          shortFactors: need("short_factor"),
          longFactors: need("long_factor"),
          originalMaxPositions,
          factor: rope.factor ?? maxPositions / originalMaxPositions,
          attentionFactor: rope.attention_factor ?? null,
        },
      };
  }
}

/** @throws {UserError} LongRoPE's lists have not one factor for each frequency */
export function checkLongRope({ scaling }: RopeConfig, rotaryDim: number, where: string): void {
  if (scaling.type !== "longrope") return;
  for (const [key, factors] of [
    ["short_factor", scaling.shortFactors],
    ["long_factor", scaling.longFactors],
  ] as const) {
    if (factors.length === rotaryDim / 2) continue;
    throw new UserError(`${where}: "${key}" has ${factors.length} entries; expected ${rotaryDim / 2}, one for each frequency`);
  }
}
