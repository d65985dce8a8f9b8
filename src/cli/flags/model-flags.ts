import { z } from "zod";
import type { SamplingOptions } from "../../generate/sampler.ts";
import {
  describeSampling,
  readGenerationConfig,
  SAMPLING,
  type SamplingFlags,
  type SamplingKey,
  samplingOf,
} from "../../generate/sampling.ts";
import { STORAGE_KEYS, trainConfigSchema } from "../../train/config.ts";
import { printEvent } from "../terminal/display.ts";
import { parseOnlyFlags } from "./flags.ts";
import { validateConfig } from "./config-file.ts";

/** Flags of every verb that runs a model. */
export const MODEL_FLAGS = {
  model: z.string().min(1).optional().describe("model folder or hub name (default: the adapter's base model)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder, such as a run folder"),
  device: trainConfigSchema.shape.device,
  ...trainConfigSchema.pick(STORAGE_KEYS).shape,
  threads: trainConfigSchema.shape.threads,
} as const;

/** A flag whose default is the model's, if it has one. */
function samplingFlag(key: SamplingKey) {
  const { values, fallback, description } = SAMPLING[key];
  return values.optional().describe(`${description} (the model's, else ${fallback})`);
}

/** Flags of every verb that samples. */
export const SAMPLING_FLAGS = {
  maxNewTokens: samplingFlag("maxNewTokens"),
  maxTokens: z.int().min(2).optional().describe("tokens of prompt and answer together (the model's context, at most 4096)"),
  temperature: samplingFlag("temperature"),
  topP: samplingFlag("topP"),
  topK: samplingFlag("topK"),
  minP: samplingFlag("minP"),
  repetitionPenalty: samplingFlag("repetitionPenalty"),
  seed: z.int().min(0).max(2147483647).default(42).describe("seeds the sampling"),
} as const;

/** How a model's answers are sampled, and that in words. What its `generation_config.json` has wrong is said as a warning. */
export function chooseSampling(
  flags: SamplingFlags & { readonly seed: number },
  folder: string,
  json = false,
): { readonly options: SamplingOptions & { readonly maxNewTokens: number }; readonly text: string } {
  const config = readGenerationConfig(folder);
  for (const text of config.warnings) {
    if (json) printEvent({ type: "warning", text });
    else process.stderr.write(`warning: ${text}\n`);
  }
  const options = samplingOf(flags, config);
  return { options, text: describeSampling(options, flags, config) };
}

/** Flags of a verb that takes no words. @throws {UserError} */
export function readFlags<S extends z.ZodObject>(verb: string, schema: S, args: readonly string[]): z.output<S> {
  return validateConfig(schema, parseOnlyFlags(verb, schema, args));
}
