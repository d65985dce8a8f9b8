import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { camelCase, flagName, suggestion } from "../base/names.ts";
import type { SamplingOptions } from "../generate/sampler.ts";
import {
  describeSampling,
  readGenerationConfig,
  SAMPLING,
  type SamplingFlags,
  type SamplingKey,
  samplingOf,
} from "../generate/sampling.ts";
import type { ReadWeightsOptions, StreamMode } from "../load/open-weights.ts";
import { CHAT_KEYS, STORAGE_KEYS, trainConfigSchema } from "../train/config.ts";
import type { VerbEvent } from "../train/run/events.ts";

/** Options of every call that runs a model. */
export const MODEL_OPTIONS = {
  model: z.string().min(1).optional().describe("model folder, GGUF file or hub name (default: the adapter's base model)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder, such as a run folder"),
  device: trainConfigSchema.shape.device,
  ...trainConfigSchema.pick(STORAGE_KEYS).shape,
  stream: trainConfigSchema.shape.stream,
  threads: trainConfigSchema.shape.threads,
  verify: z
    .boolean()
    .default(false)
    .describe("read all files of model and adapter again and compare them with their checksums, as after copying"),
} as const;

/** How the weights of a model are read that is not trained. */
export function readingOf(
  { stream, weightCache }: { readonly stream: StreamMode; readonly weightCache: boolean },
  onNote: (text: string) => void,
  signal?: AbortSignal,
): ReadWeightsOptions {
  return { stream, cache: weightCache, onNote, signal };
}

/** How the files of a model are checked. */
export const checkOf = ({ verify }: { readonly verify: boolean }): "fresh" | "kept" => (verify ? "fresh" : "kept");

/** Options of every call that renders chats. */
export const CHAT_OPTIONS = trainConfigSchema.pick(CHAT_KEYS).shape;

/** An option whose default is the model's, if it has one. */
function samplingOption(key: SamplingKey) {
  const { values, fallback, description } = SAMPLING[key];
  return values.optional().describe(`${description} (the model's, else ${fallback})`);
}

/** Options of every call that samples. */
export const SAMPLING_OPTIONS = {
  maxNewTokens: samplingOption("maxNewTokens"),
  maxTokens: z.int().min(2).optional().describe("tokens of prompt and answer together (the model's context, at most 4096)"),
  temperature: samplingOption("temperature"),
  topP: samplingOption("topP"),
  topK: samplingOption("topK"),
  minP: samplingOption("minP"),
  repetitionPenalty: samplingOption("repetitionPenalty"),
  seed: z.int().min(0).max(2147483647).default(42).describe("seeds the sampling"),
} as const;

/** Describes what every call may be given beside its own options. */
export interface CallOptions {
  /** Called with everything that happens, in order. An error that the sink throws ends the call. */
  readonly sink?: ((event: VerbEvent) => void) | undefined;
  /** Ends the call early. */
  readonly signal?: AbortSignal | undefined;
}

/** How a model's answers are sampled, and that in words. `onWarning` is told what its `generation_config.json` has wrong. */
export function chooseSampling(
  options: SamplingFlags & { readonly seed: number },
  folder: string,
  onWarning: (text: string) => void,
): { readonly options: SamplingOptions & { readonly maxNewTokens: number }; readonly text: string } {
  const config = readGenerationConfig(folder);
  config.warnings.forEach(onWarning);
  const chosen = samplingOf(options, config);
  return { options: chosen, text: describeSampling(chosen, options, config) };
}

/**
 * Checks values against a schema; one error that names every wrong key, as a flag and, if given, with its file.
 * @param hint what is said behind an unknown key, `; did you mean rank?`
 * @throws {UserError}
 */
export function validateOptions<S extends z.ZodObject>(
  schema: S,
  values: Readonly<Record<string, unknown>>,
  file?: string,
  hint: (key: string, known: readonly string[]) => string = (key, known) => suggestion(camelCase(key), known),
): z.output<S> {
  const result = schema.safeParse(values);
  if (result.success) return result.data;
  const known = Object.keys(schema.shape);
  const problems = result.error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys")
      return issue.keys.map((key) => `unknown key ${JSON.stringify(key)}${hint(key, known)}`);
    const key = String(issue.path[0]);
    if (values[key] === undefined) return [`${flagName(key)}: it is missing`];
    return [`${flagName(key)}: ${issue.message}; got ${JSON.stringify(values[key])}`];
  });
  throw new UserError(`${file ? `${file}: ` : ""}${problems.join("\n")}`);
}
