import { inPrecision } from "../autodiff/precision.ts";

import type { MicroBatch } from "../data/samples/batch.ts";
import type { ModelConfig } from "../models/config.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { headBatch } from "../load/head-batch.ts";
import type { Head, Sums } from "../objectives/objective.ts";
import { buildSegments } from "../models/chain/segments.ts";
import { createPrograms } from "../runtime/chain.ts";
import type { Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent } from "../runtime/forward.ts";
import { reserveResident } from "../runtime/resident.ts";
import { createBatchMemory } from "../load/batch-memory.ts";
import { createStepWords } from "../runtime/step-words.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../load/weights.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../load/adapter.ts";

/** Scores micro-batches of `tokens` tokens by an objective: gives what its metrics are made of. @throws {UserError} weights that do not fit */
export function createScorer(
  executor: Executor,
  options: WeightStorage & {
    readonly config: ModelConfig;
    readonly source: TensorSource;
    readonly adapter: Adapter | null;
    readonly head: Head;
    readonly tokens: number;
    readonly weighted: boolean;
  },
): (batch: MicroBatch) => Sums {
  const { adapter, head, tokens, weighted, dtype } = options;
  const { config, source } = withReplacedWeights(options, adapter);
  const tuning = adapterTuning(adapter, config);
  const size = { tokens, weighted, head: head.kind };
  const segmentOptions = { ...size, tuning, weightType: weightTypeOf(executor, source, options) };
  const segments = inPrecision(buildSegments(config, segmentOptions), computeType(executor, dtype));
  const programs = createPrograms(executor);
  const resident = reserveResident(executor, segments);
  loadWeights(executor, resident, source);
  if (adapter) writeAdapterWeights({ executor, resident, source, config, tuning }, adapter);
  const inputs = createBatchMemory(executor, config, size);
  const words = createStepWords(executor, segments.length);
  const memory = { resident, batch: inputs.addresses, ...words };
  const arena = executor.reserve(forwardExtent(segments, programs));
  const forward = createForward(executor, programs, segments, arena, memory);
  return (batch) => {
    inputs.load(headBatch(head, batch), 1);
    forward.run();
    return head.kind === "loss" ? head.sums(batch, words.score()) : head.judge(batch, inputs.tokenLosses(tokens)).sums;
  };
}
