import type { ModelConfig } from "../models/config.ts";
import { checkContext, contextLimit } from "../models/context.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import type { Segment } from "../graph/segment.ts";
import type { AdapterTuning } from "../models/tuning.ts";
import { openReadWeights, type ReadWeights, type ReadWeightsOptions } from "../load/open-weights.ts";
import { createPrograms, type Programs } from "../runtime/chain.ts";
import type { Executor } from "../runtime/executor.ts";
import { reserveResident } from "../runtime/resident.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../load/weights.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../load/adapter.ts";
import {
  type Decoder,
  DECODER_TOKENS,
  type DecoderPlan,
  type Decoders,
  MOST_TOKENS,
  planDecoder,
  startDecoders,
} from "./decoders.ts";

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

/** Several decoders of the same weights, all of which are in memory. */
export function createDecoders(executor: Executor, options: DecoderOptions, texts: number): Decoders {
  const planned = planDecoders(executor, options, texts);
  const resident = reserveResident(executor, planned.segments);
  loadWeights(executor, resident, planned.source);
  return start(executor, planned, { resident, streamed: null });
}

/** As `createDecoders`; weights that do not fit into memory are read from their files for each pass. */
export async function openDecoders(
  executor: Executor,
  options: DecoderOptions,
  texts: number,
  weights: ReadWeightsOptions,
): Promise<Decoders & { close(): void }> {
  const planned = planDecoders(executor, options, texts);
  const { programs, plan, source } = planned;
  const chains = [...plan.chains.values(), ...(plan.together ? [plan.together] : [])];
  const tokens = Math.max(DECODER_TOKENS, texts);
  const opened = await openReadWeights(executor, { source, programs, chains, bytes: plan.bytes, tokens }, weights);
  return { ...start(executor, planned, opened), close: () => opened.streamed?.close() };
}

interface PlannedDecoders extends Pick<DecoderOptions, "config" | "source" | "adapter"> {
  readonly tuning: AdapterTuning;
  readonly programs: Programs;
  readonly plan: DecoderPlan;
  readonly segments: readonly Segment[];
}

function planDecoders(executor: Executor, options: DecoderOptions, texts: number): PlannedDecoders {
  const { adapter = null, dtype } = options;
  const { config, source } = withReplacedWeights(options, adapter);
  const maxTokens = roomOf(config, options.maxTokens);
  const tuning = adapterTuning(adapter, config);
  const programs = createPrograms(executor);
  const storage = { tuning, weightType: weightTypeOf(executor, source, options), compute: computeType(executor, dtype) };
  const plan = planDecoder(programs, config, storage, maxTokens, texts);
  return { config, source, adapter, tuning, programs, plan, segments: [...plan.chains.values()][0]! };
}

function start(executor: Executor, planned: PlannedDecoders, { resident, streamed }: ReadWeights): Decoders {
  const { adapter, plan, programs } = planned;
  if (adapter) writeAdapterWeights({ executor, resident, streamed, ...planned }, adapter);
  return startDecoders(executor, programs, plan, resident, executor.reserve(plan.bytes), { streamed });
}
