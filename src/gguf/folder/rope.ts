import { UserError } from "../../base/errors.ts";
import type { RopeScaling } from "../../models/rope.ts";
import { inverseFrequencies, longRopeAttentionFactor, yarnAttentionFactor } from "../../models/rotary-tables.ts";
import { type Facts, shortest } from "./facts.ts";

/** The shape of what is rotated, as the file says it. */
export interface Rotation {
  readonly rotaryDim: number;
  readonly theta: number;
  /** `context_length`. */
  readonly context: number;
}

/** A tensor of the file that holds one number for each frequency; null: there is none of that name. */
export type Factors = (name: string) => Float32Array | null;

/** The keys of `config.json` that say how positions are rotated, `max_position_embeddings` included. */
export type RopeKeys = Readonly<Record<string, unknown>> & { readonly rope_scaling?: object };

/**
 * Rotary positions as `config.json` says them.
 * @param rounds whether YaRN's dimensions are rounded where the model is of this family (`truncate`)
 * @throws {UserError} a scaling that the model's configuration has no words for
 */
export function ropeKeys(facts: Facts, rotation: Rotation, factors: Factors, rounds = true): RopeKeys {
  const { architecture, path } = facts;
  const { theta, context } = rotation;
  const key = (name: string) => `${architecture}.rope.scaling.${name}`;
  const plain = { max_position_embeddings: context, rope_theta: theta };
  const scaled = (type: string, settings: object) => ({ ...plain, rope_scaling: { rope_type: type, ...settings } });
  const [long, short] = [factors("rope_factors_long.weight"), factors("rope_factors_short.weight")];
  if (long && short) return { ...plain, ...longRope(facts, rotation, long, short) };
  const divisors = factors("rope_freqs.weight");
  if (divisors?.some((divisor) => divisor !== 1)) return scaled("llama3", llama3Of(path, divisors, rotation));
  const type = facts.text(key("type"));
  const factor = shortest(facts.number(key("factor")) ?? facts.number(`${architecture}.rope.scale_linear`) ?? 0);
  const attention = facts.number(key("attn_factor"));
  switch (type ?? (factor > 0 ? "linear" : "none")) {
    case "none":
    case "default":
      if (attention !== null && attention !== 1)
        throw new UserError(`${path}: ${key("attn_factor")} ${attention} is not read without a kind of scaling, ${key("type")}`);
      return plain;
    case "linear":
      // The file's context is that of the stretched positions, config.json's that of the others.
      return factor > 1 ? { ...scaled("linear", { factor }), max_position_embeddings: Math.floor(context / factor) } : plain;
    case "yarn": {
      if (!(factor > 0)) throw new UserError(`${path} has YaRN scaling without ${key("factor")}`);
      const original = facts.number(key("original_context_length")) ?? Math.floor(context / factor);
      const usual = yarnAttentionFactor({ ...YARN, factor, originalMaxPositions: original });
      const setting = (name: string, keys: readonly string[]) => {
        const value = facts.number(key(name));
        return value ? Object.fromEntries(keys.map((each) => [each, shortest(value)])) : {};
      };
      return scaled("yarn", {
        factor,
        original_max_position_embeddings: original,
        truncate: rounds,
        ...setting("yarn_beta_fast", ["beta_fast"]),
        ...setting("yarn_beta_slow", ["beta_slow"]),
        // Converters write one number for both, which cancel each other.
        ...setting("yarn_log_multiplier", ["mscale", "mscale_all_dim"]),
        ...(attention === null || attention === 1
          ? {}
          : { attention_factor: shortest(attention * usual, (factor) => factor / usual) }),
      });
    }
    default:
      throw new UserError(`${path}: ${key("type")} ${JSON.stringify(type)} is not read; expected none, linear, yarn or longrope`);
  }
}

/** The settings that files do not have. */
const YARN = {
  type: "yarn",
  attentionFactor: null,
  betaFast: 32,
  betaSlow: 1,
  mscale: null,
  mscaleAllDim: null,
  truncate: true,
} as const;

function longRope({ architecture, number }: Facts, { context }: Rotation, long: Float32Array, short: Float32Array): object {
  const original = number(`${architecture}.rope.scaling.original_context_length`) ?? context;
  const attention = number(`${architecture}.rope.scaling.attn_factor`);
  const [longFactors, shortFactors] = [long, short].map((factors) => [...factors].map((value) => shortest(value))) as [
    number[],
    number[],
  ];
  const usual = longRopeAttentionFactor({
    type: "longrope",
    shortFactors,
    longFactors,
    originalMaxPositions: original,
    factor: context / original,
    attentionFactor: null,
  });
  const isUsual = attention === null || Math.fround(attention) === Math.fround(usual);
  return {
    original_max_position_embeddings: original,
    rope_scaling: {
      rope_type: "longrope",
      long_factor: longFactors,
      short_factor: shortFactors,
      ...(isUsual ? {} : { attention_factor: shortest(attention) }),
    },
  };
}

type Llama3 = Extract<RopeScaling, { type: "llama3" }>;

/** Contexts of pre-training to look for, that of all published models first. */
const CONTEXTS = [8192, ...Array.from({ length: 18 }, (_, i) => 2 ** (i + 4)).filter((length) => length !== 8192)];

/** The deviation of two divisors of a frequency that are the same: the tensor is made in f32 or with more digits. */
const SAME = 1e-5;

/** Finds Llama 3's scaling by what it divides frequencies by. @throws {UserError} divisors that are none of it */
function llama3Of(path: string, divisors: Float32Array, { rotaryDim, theta }: Rotation): object {
  if (divisors.length !== rotaryDim / 2)
    throw new UserError(
      `${path}: rope_freqs.weight has ${divisors.length} numbers; expected one for each two of ${rotaryDim} features`,
    );
  const factor = shortest(Math.max(...divisors));
  const plain = inverseFrequencies({ rotaryDim, rope: { theta, scaling: { type: "default" } } }).inverse;
  const fits = (scaling: Llama3): boolean => {
    const { inverse } = inverseFrequencies({ rotaryDim, rope: { theta, scaling } });
    return inverse.every((value, i) => Math.abs(plain[i]! / value / divisors[i]! - 1) < SAME);
  };
  const found = CONTEXTS.map((originalMaxPositions): Llama3 => ({
    type: "llama3",
    factor,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositions,
  })).find(fits);
  if (!found || !(factor >= 1))
    throw new UserError(
      `${path}: rope_freqs.weight is not the scaling of a Llama 3 (low_freq_factor 1, high_freq_factor 4); use the folder that the file was made of`,
    );
  return {
    factor,
    low_freq_factor: found.lowFreqFactor,
    high_freq_factor: found.highFreqFactor,
    original_max_position_embeddings: found.originalMaxPositions,
  };
}
