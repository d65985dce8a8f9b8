import { inPrecision } from "../autodiff/precision.ts";
import type { MicroBatch } from "../data/samples/batch.ts";
import type { ModelConfig } from "../models/config.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { buildSegments } from "../models/chain/segments.ts";
import { createPrograms } from "../runtime/chain.ts";
import type { Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent } from "../runtime/forward.ts";
import { reserveResident } from "../runtime/resident.ts";
import { createBatchMemory } from "../load/batch-memory.ts";
import { createStepWords } from "../runtime/step-words.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../load/weights.ts";
import { adapterTuning, writeAdapterWeights } from "../load/adapter.ts";

/** How likely a model finds the labels of a batch. */
export interface Score {
  /** Sum of -log p(label), times the label's weight. */
  readonly loss: number;
  /** Labels that were the likeliest token; among equally likely ones, the first. */
  readonly correct: number;
}

/** Scores micro-batches of `tokens` tokens. @throws {UserError} weights that do not fit */
export function createScorer(
  executor: Executor,
  options: WeightStorage & {
    readonly config: ModelConfig;
    readonly source: TensorSource;
    readonly adapter: Adapter | null;
    readonly tokens: number;
    readonly weighted: boolean;
  },
): (batch: MicroBatch) => Score {
  const { config, source, adapter, tokens, weighted, dtype } = options;
  const tuning = adapterTuning(adapter, config);
  const segmentOptions = { tokens, tuning, weighted, weightType: weightTypeOf(executor, source, options) };
  const segments = inPrecision(buildSegments(config, segmentOptions), computeType(executor, dtype));
  const programs = createPrograms(executor);
  const resident = reserveResident(executor, segments);
  loadWeights(executor, resident, source);
  if (adapter) writeAdapterWeights(executor, resident, adapter, tuning.scale);
  const inputs = createBatchMemory(executor, config, { tokens, weighted });
  const words = createStepWords(executor, segments.length);
  const memory = { resident, batch: inputs.addresses, ...words };
  const arena = executor.reserve(forwardExtent(segments, programs));
  const forward = createForward(executor, programs, segments, arena, memory);
  return (batch) => {
    inputs.load(batch, 1);
    forward.run();
    return words.score();
  };
}
