import { z } from "zod";
import { loadTokenizer, type Tokenizer } from "../../data/tokens/tokenizer.ts";
import type { SamplingOptions } from "../../generate/sampler.ts";
import {
  describeSampling,
  readGenerationConfig,
  SAMPLING,
  type SamplingFlags,
  type SamplingKey,
  samplingOf,
} from "../../generate/sampling.ts";
import { loadConfig } from "../../hf/config/config.ts";
import type { ModelConfig } from "../../models/config.ts";
import { openDevice } from "../../device.ts";
import { type Adapter, openAdapter } from "../../hf/peft/peft.ts";
import { openModelWeights, visionNote } from "../../hf/weights/model-weights.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { type Executor } from "../../runtime/executor.ts";
import { STORAGE_KEYS, type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { storageOf, type WeightStorage } from "../../load/weights.ts";
import { printEvent } from "../terminal/display.ts";
import { findModel } from "./find-model.ts";
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

export interface OpenModel {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly source: TensorSource;
  readonly adapter: Adapter | null;
  close(): void;
}

/** Flags of a verb that takes no words. @throws {UserError} */
export function readFlags<S extends z.ZodObject>(verb: string, schema: S, args: readonly string[]): z.output<S> {
  return validateConfig(schema, parseOnlyFlags(verb, schema, args));
}

/**
 * Opens a model, and an adapter on it; see `findModel`.
 * @throws {UserError}
 */
export async function openModel(flags: {
  readonly model?: string | undefined;
  readonly adapter?: string | undefined;
}): Promise<OpenModel> {
  const found = await findModel(flags);
  const { folder } = found;
  const config = loadConfig(folder);
  const adapter = found.adapter === null ? null : openAdapter(found.adapter, config);
  try {
    const tokenizer = loadTokenizer(folder);
    const source = openModelWeights(folder, config);
    const note = visionNote(source);
    if (note !== null) process.stderr.write(`note: ${note}\n`);
    return {
      folder,
      config,
      tokenizer,
      source,
      adapter,
      close() {
        source.close();
        adapter?.source.close();
      },
    };
  } catch (error) {
    adapter?.source.close();
    throw error;
  }
}

/** Runs `use` with an open model and an executor, and closes both. @throws {UserError} a device that cannot be used */
export async function withModel<T>(
  flags: Pick<TrainConfig, "device" | "threads"> &
    WeightStorage &
    Partial<Pick<TrainConfig, "model">> & { readonly adapter?: string | undefined },
  use: (model: OpenModel & WeightStorage, executor: Executor) => Promise<T>,
): Promise<T> {
  const model = await openModel(flags);
  try {
    // Products of few rows are what generation has: the kernels' own are fastest there.
    const device = await openDevice({ device: flags.device, threads: flags.threads, matmul: "wasm" });
    if (device.notice !== null) process.stderr.write(`note: ${device.notice}\n`);
    try {
      return await use({ ...model, ...storageOf(flags) }, device.executor);
    } finally {
      device.close();
    }
  } finally {
    model.close();
  }
}
