import type { ModelConfig } from "../models/config.ts";
import { checkContext, contextLimit } from "../models/context.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { createPrograms } from "../runtime/chain.ts";
import type { Executor } from "../runtime/executor.ts";
import { reserveResident } from "../runtime/resident.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../load/weights.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../load/adapter.ts";
import { type Decoder, type Decoders, MOST_TOKENS, planDecoder, startDecoders } from "./decoders.ts";

export type { Decoder, Decoders } from "./decoders.ts";

/** Caches are f32 whatever the weights are. */
export interface DecoderOptions extends WeightStorage {
  readonly config: ModelConfig;
  readonly source: TensorSource;
  /** Applied beside the weights, which stay as they are. */
  readonly adapter?: Adapter | null;
  /** The longest text, in tokens, prompt included (default: the model's context, at most 4096). */
  readonly maxTokens?: number;
}

const DEFAULT_TOKENS = 4096;

/** The longest text that is decoded if `maxTokens` is wanted. @throws {UserError} more than the model's context */
export function roomOf(config: ModelConfig, maxTokens?: number): number {
  const room = Math.min(maxTokens ?? Math.min(contextLimit(config), DEFAULT_TOKENS), MOST_TOKENS);
  checkContext(config, room);
  return room;
}

/** Reserves and loads a model for generation. @throws {UserError} weights that are missing or do not fit */
export function createDecoder(executor: Executor, options: DecoderOptions): Decoder {
  return createDecoders(executor, options, 1).each[0]!;
}

/** Several decoders of the same weights. */
export function createDecoders(executor: Executor, options: DecoderOptions, texts: number): Decoders {
  const { adapter = null, dtype } = options;
  const { config, source } = withReplacedWeights(options, adapter);
  const maxTokens = roomOf(config, options.maxTokens);
  const tuning = adapterTuning(adapter, config);
  const programs = createPrograms(executor);
  const storage = { tuning, weightType: weightTypeOf(executor, source, options), compute: computeType(executor, dtype) };
  const plan = planDecoder(programs, config, storage, maxTokens, texts);
  const segments = [...plan.chains.values()][0]!;
  const resident = reserveResident(executor, segments);
  loadWeights(executor, resident, source);
  if (adapter) writeAdapterWeights({ executor, resident, source, config, tuning }, adapter);
  return startDecoders(executor, programs, plan, resident, executor.reserve(plan.bytes));
}
