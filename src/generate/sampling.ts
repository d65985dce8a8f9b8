import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../base/json.ts";
import { GREEDY, type SamplingOptions } from "./sampler.ts";

/**
 * How answers are sampled: what a flag says, else what the model's `generation_config.json` says, else the default.
 * Transformers' names: https://huggingface.co/docs/transformers/main_classes/text_generation
 */
interface Setting {
  /** The key of `generation_config.json`. */
  readonly name: string;
  readonly values: z.ZodNumber;
  readonly fallback: number;
  readonly description: string;
}

export const SAMPLING = {
  maxNewTokens: {
    name: "max_new_tokens",
    values: z.int().min(1),
    fallback: 512,
    description: "tokens of an answer at most",
  },
  temperature: {
    name: "temperature",
    values: z.number().min(0),
    fallback: 0.7,
    description: "0 takes the likeliest token",
  },
  topP: {
    name: "top_p",
    values: z.number().gt(0).max(1),
    fallback: 0.95,
    description: "sample among the likeliest tokens of this total probability",
  },
  topK: {
    name: "top_k",
    values: z.int().min(0),
    fallback: 0,
    description: "sample among this many likeliest tokens; 0: all",
  },
  minP: {
    name: "min_p",
    values: z.number().min(0).max(1),
    fallback: 0,
    description: "leave out tokens below this share of the likeliest one's probability",
  },
  repetitionPenalty: {
    name: "repetition_penalty",
    values: z.number().gt(0),
    fallback: 1,
    description: "above 1, tokens that occurred are less likely",
  },
} as const satisfies Readonly<Record<string, Setting>>;

export type SamplingKey = keyof typeof SAMPLING;

const KEYS = Object.keys(SAMPLING) as SamplingKey[];

export type SamplingValues = Readonly<Record<SamplingKey, number>>;

/** Describes what a command line says of sampling. */
export type SamplingFlags = Readonly<Partial<Record<SamplingKey, number | undefined>>>;

/** Describes what a model's folder says of sampling. */
export interface GenerationConfig {
  readonly values: Partial<SamplingValues>;
  /** Values that are out of range, which are not used. */
  readonly warnings: readonly string[];
}

/** `do_sample: false` is a temperature of 0. @throws {UserError} a file that is no JSON object */
export function readGenerationConfig(folder: string): GenerationConfig {
  const path = join(folder, "generation_config.json");
  const record = existsSync(path) ? readJsonObject(path) : {};
  const values: Partial<Record<SamplingKey, number>> = {};
  const warnings: string[] = [];
  const refuse = (name: string, problem: string) =>
    warnings.push(`${path}: ${name} is ${JSON.stringify(record[name])} and is not used: ${problem}`);
  for (const key of KEYS) {
    const { name, values: schema } = SAMPLING[key];
    if (record[name] === undefined || record[name] === null) continue;
    const parsed = schema.safeParse(record[name]);
    if (parsed.success) values[key] = parsed.data;
    else refuse(name, parsed.error.issues[0]!.message);
  }
  const samples = record["do_sample"] ?? true;
  if (samples === false) values.temperature = 0;
  else if (samples !== true) refuse("do_sample", "expected true or false");
  return { values, warnings };
}

/** Flags that were given, over a model's values, over the defaults. */
export function samplingOf(
  flags: SamplingFlags & { readonly seed: number },
  { values }: GenerationConfig,
): SamplingOptions & { readonly maxNewTokens: number } {
  const chosen = Object.fromEntries(KEYS.map((key) => [key, flags[key] ?? values[key] ?? SAMPLING[key].fallback]));
  return { ...(chosen as SamplingValues), seed: flags.seed };
}

/** One line: how is sampled, with a mark at what the model says. */
export function describeSampling(options: SamplingValues, flags: SamplingFlags, { values }: GenerationConfig): string {
  const filters = (["topP", "topK", "minP"] as const).filter((key) => options.temperature > 0 && options[key] !== GREEDY[key]);
  const penalty = options.repetitionPenalty === GREEDY.repetitionPenalty ? [] : (["repetitionPenalty"] as const);
  const keys: readonly SamplingKey[] = ["temperature", ...filters, ...penalty, "maxNewTokens"];
  const isModels = (key: SamplingKey) => flags[key] === undefined && values[key] !== undefined;
  const parts = keys.map((key) => {
    const text = key === "temperature" && options[key] === 0 ? "greedy" : `${SAMPLING[key].name} ${options[key]}`;
    return isModels(key) ? `${text}*` : text;
  });
  return `${parts.join(", ")}${keys.some(isModels) ? " (*: generation_config.json)" : ""}`;
}
