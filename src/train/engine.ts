import type { Segment } from "../graph/segment.ts";
import type { DType } from "../graph/types.ts";
import type { ModelConfig } from "../hf/config.ts";
import type { TensorSource } from "../hf/safetensors.ts";
import type { Tuning } from "../models/linear.ts";
import { buildLogits, buildSegments, type SegmentOptions } from "../models/llama.ts";
import type { StepMemory } from "../runtime/bind.ts";
import { buildChain, createPrograms } from "../runtime/chain.ts";
import { type Address, align, type Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent, type ForwardRunner } from "../runtime/forward.ts";
import { collectParams, type ParamInfo, readTensor, reserveResident, residentBytes, type Resident } from "../runtime/resident.ts";
import { createRunner, type Runner } from "../runtime/runner.ts";
import type { Chain } from "../schedule/chain.ts";
import type { Schedule } from "../schedule/ops.ts";
import { type Placement, placeSchedule } from "../schedule/placement.ts";
import { strategySchedule, type Strategy } from "../schedule/strategies.ts";
import { batchBytes, createBatchMemory, type TokenBatch } from "./batch-memory.ts";
import { forecast, type MemoryForecast, sumResident } from "./memory.ts";
import { loadWeights, storedWeightType } from "./weights.ts";

export interface EngineOptions {
  readonly config: ModelConfig;
  readonly source: TensorSource;
  readonly tuning: Tuning;
  readonly strategy: Strategy;
  /** Numbers of tokens in a micro-batch that `forwardBackward` and `evaluate` will be given. */
  readonly tokens: readonly number[];
  /** Numbers of tokens that `logits` will be given, and the most positions whose logits it returns. */
  readonly logits?: { readonly tokens: readonly number[]; readonly rows: number };
  /** Reserve AdamW's moments. */
  readonly optimizer: boolean;
  /** What has weight decay: by default matrices alone (no norm weights, no biases), as in Transformers' Trainer. */
  readonly decay?: "matrices" | "all";
}

/** A model in an executor's memory, with its training step for each number of tokens. */
export interface Engine {
  readonly executor: Executor;
  readonly config: ModelConfig;
  readonly resident: Resident;
  /** The checkpoint's dtype of a parameter, or undefined when it does not hold it. */
  sourceType(name: string): DType | null | undefined;
  /** Segments at the largest number of tokens. */
  readonly segments: readonly Segment[];
  readonly chain: Chain;
  readonly schedule: Schedule;
  /** Peak of training: as planned, as it would be without gradient checkpointing, and as counted so far. */
  readonly predicted: MemoryForecast;
  readonly withoutCheckpointing: MemoryForecast;
  readonly measuredPeak: number;
  /**
   * Forward and backward of one micro-batch; adds to the gradients. `draw` counts micro-batches and keys dropout.
   * Returns the loss: `scale` times the summed cross entropy of the labelled tokens.
   */
  forwardBackward(batch: TokenBatch, scale: number, seed: number, draw: number): number;
  /** Forward alone, dropout off. Returns the summed cross entropy of the labelled tokens. */
  evaluate(batch: TokenBatch): number;
  /** Logits [rows.length, vocabulary] of the given positions, dropout off. */
  logits(batch: TokenBatch, rows: Int32Array): Float32Array;
  zeroGradients(): void;
}

/** Plan of one number of tokens, made before any memory is reserved. */
interface TokenPlan {
  readonly segments: Segment[];
  readonly chain: Chain;
  readonly schedule: Schedule;
  readonly placement: Placement;
  /** Segments without dropout. */
  readonly still: Segment[];
}

/** Builds, plans, reserves and loads a model. @throws {UserError} weights that are missing or do not fit */
export function createEngine(executor: Executor, options: EngineOptions): Engine {
  const { config, source, tuning } = options;
  const programs = createPrograms(executor);
  const segmentOptions = (tokens: number, dropout: boolean): SegmentOptions => ({
    tokens,
    tuning: tuning.method === "lora" && !dropout ? { ...tuning, dropout: 0 } : tuning,
    weightType: storedWeightType(source),
  });
  const hasDropout = tuning.method === "lora" && tuning.dropout > 0;
  const plans = new Map(options.tokens.map((tokens) => [tokens, planTokens(tokens)]));
  const largest = plans.get(Math.max(...options.tokens))!;

  function planTokens(tokens: number): TokenPlan {
    const segments = buildSegments(config, segmentOptions(tokens, true));
    const chain = buildChain(segments, programs);
    const schedule = strategySchedule(chain, options.strategy);
    const placement = placeSchedule(chain, schedule);
    return {
      segments,
      chain,
      schedule,
      placement,
      still: hasDropout ? buildSegments(config, segmentOptions(tokens, false)) : segments,
    };
  }

  const answers = new Map(
    (options.logits?.tokens ?? []).map((tokens) => {
      const built = buildSegments(config, segmentOptions(tokens, false)).slice(0, -1);
      return [tokens, [...built, buildLogits(config, segmentOptions(tokens, false), options.logits!.rows)]];
    }),
  );
  const rows = options.logits?.rows ?? 1;
  const mostTokens = Math.max(...options.tokens, ...(options.logits?.tokens ?? []));
  const decays = (param: ParamInfo) => options.decay === "all" || param.type.shape.length > 1;
  const resident = reserveResident(executor, largest.segments, { optimizer: options.optimizer, decays });
  loadWeights(executor, resident, source);

  const batch = createBatchMemory(executor, config, mostTokens, rows);
  const constants = createConstants(executor, largest.segments.length);
  const memory: StepMemory = { resident, batch: batch.addresses, ...constants };
  const trainingExtent = Math.max(...[...plans.values()].map((plan) => plan.placement.extent));
  const forwardOnly = [...[...plans.values()].map((plan) => plan.still), ...answers.values()];
  const arena = executor.reserve(Math.max(trainingExtent, ...forwardOnly.map((segments) => forwardExtent(segments, programs))));
  const logitsAddress = options.logits ? executor.reserve(4 * rows * config.vocabSize) : 0;

  const runners = lazily((tokens) => {
    const { segments, schedule, placement } = planOf(tokens);
    return createRunner(executor, programs, segments, schedule, placement, arena, memory);
  });
  const evaluators = lazily((tokens) => createForward(executor, programs, planOf(tokens).still, arena, memory));
  const answerers = lazily((tokens) => createForward(executor, programs, answers.get(tokens)!, arena, memory, logitsAddress));

  function planOf(tokens: number): TokenPlan {
    const plan = plans.get(tokens);
    if (!plan) throw new Error(`no plan for micro-batches of ${tokens} tokens`);
    return plan;
  }

  const fixed = sumResident(resident.bytes) + batch.bytes + constants.bytes;
  const readLoss = () => readTensor(executor, constants.loss, { dtype: "f32", shape: [1] })[0]!;
  let touched = 0;
  return {
    executor,
    config,
    resident,
    sourceType: (name) => source.tensors.get(name)?.dtype,
    segments: largest.segments,
    chain: largest.chain,
    schedule: largest.schedule,
    predicted: forecast(largest.chain, largest.schedule, fixed),
    withoutCheckpointing: forecast(largest.chain, strategySchedule(largest.chain, { name: "off" }), fixed),
    get measuredPeak() {
      return fixed + touched;
    },
    forwardBackward(tokens, scale, seed, draw) {
      const runner: Runner = runners(tokens.ids.length);
      batch.load(tokens);
      batch.setScale(scale);
      batch.setRng(seed, draw);
      runner.run();
      touched = Math.max(touched, runner.touched);
      return readLoss();
    },
    evaluate(tokens) {
      batch.load(tokens);
      batch.setScale(1);
      evaluators(tokens.ids.length).run();
      return readLoss();
    },
    logits(tokens, wanted) {
      batch.load(tokens);
      const padded = new Int32Array(rows);
      padded.set(wanted);
      batch.setRows(padded);
      const runner: ForwardRunner = answerers(tokens.ids.length);
      runner.run();
      return readTensor(executor, logitsAddress, { dtype: "f32", shape: [wanted.length, config.vocabSize] });
    },
    zeroGradients() {
      executor.zero(resident.trainable.gradient, resident.trainable.size * 4);
    },
  };
}

/** A cache by number of tokens. */
function lazily<T>(make: (tokens: number) => T): (tokens: number) => T {
  const made = new Map<number, T>();
  return (tokens) => {
    let value = made.get(tokens);
    if (value === undefined) made.set(tokens, (value = make(tokens)));
    return value;
  };
}

interface Constants {
  readonly segmentIndex: Address[];
  readonly lossGradient: Address;
  readonly loss: Address;
  readonly bytes: number;
}

function createConstants(executor: Executor, segments: number): Constants {
  const word = () => executor.reserve(4);
  const segmentIndex = Array.from({ length: segments }, (_, index) => {
    const address = word();
    executor.write(address, new Uint8Array(Int32Array.of(index).buffer));
    return address;
  });
  const lossGradient = word();
  executor.write(lossGradient, new Uint8Array(Float32Array.of(1).buffer));
  return { segmentIndex, lossGradient, loss: word(), bytes: (segments + 2) * align(4) };
}

/** Peak memory of training before anything is reserved or loaded: what `createEngine` would predict. */
export function predictMemory(
  segments: readonly Segment[],
  chain: Chain,
  schedule: Schedule,
  config: ModelConfig,
  tokens: number,
  optimizer: boolean,
): MemoryForecast {
  const fixed =
    sumResident(residentBytes(collectParams(segments), optimizer)) +
    batchBytes(config, tokens, 1) +
    (segments.length + 2) * align(4);
  return forecast(chain, schedule, fixed);
}
