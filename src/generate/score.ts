import type { MicroBatch } from "../data/batch.ts";
import type { ModelConfig } from "../hf/config.ts";
import type { Adapter } from "../hf/peft.ts";
import type { TensorSource } from "../hf/safetensors.ts";
import type { SegmentOptions } from "../models/parts.ts";
import { buildLogits, buildSegments } from "../models/segments.ts";
import { createPrograms } from "../runtime/chain.ts";
import { type Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent } from "../runtime/forward.ts";
import { readTensor, reserveResident } from "../runtime/resident.ts";
import { createBatchMemory } from "../train/batch-memory.ts";
import { loadWeights, storedWeightType } from "../train/weights.ts";
import { adapterTuning, writeAdapterWeights } from "./adapter.ts";
import { argmax } from "./sampler.ts";

export interface Score {
  /** Sum of -log p(label). */
  readonly loss: number;
  readonly labelled: number;
  /** Labels that were the likeliest token. */
  readonly correct: number;
}

/** Positions whose logits are in memory at one time. */
const ROWS = 32;

/** Scores micro-batches of `tokens` tokens: how likely a model finds the labels. @throws {UserError} weights that do not fit */
export function createScorer(
  executor: Executor,
  options: {
    readonly config: ModelConfig;
    readonly source: TensorSource;
    readonly adapter: Adapter | null;
    readonly tokens: number;
  },
): (batch: MicroBatch) => Score {
  const { config, source, adapter, tokens } = options;
  const tuning = adapterTuning(adapter, config);
  const segmentOptions: SegmentOptions = { tokens, tuning, weightType: storedWeightType(source) };
  const segments = [...buildSegments(config, segmentOptions).slice(0, -1), buildLogits(config, segmentOptions, ROWS)];
  const programs = createPrograms(executor);
  const resident = reserveResident(executor, segments, { optimizer: false, decays: () => false });
  loadWeights(executor, resident, source);
  if (adapter) writeAdapterWeights(executor, resident, adapter, tuning);
  const inputs = createBatchMemory(executor, config, tokens, ROWS);
  const word = executor.reserve(4);
  const memory = { resident, batch: inputs.addresses, segmentIndex: segments.map(() => word), lossGradient: word, loss: word };
  const logits = executor.reserve(4 * ROWS * config.vocabSize);
  const arena = executor.reserve(forwardExtent(segments, programs));
  const forward = createForward(executor, programs, segments, arena, memory, logits);
  return (batch) => {
    inputs.load(batch);
    const positions = Int32Array.from(batch.labels.keys()).filter((t) => batch.labels[t]! >= 0);
    let loss = 0;
    let correct = 0;
    for (let first = 0; first < positions.length; first += ROWS) {
      const rows = new Int32Array(ROWS);
      rows.set(positions.subarray(first, first + ROWS));
      inputs.setRows(rows);
      forward.run(first === 0 ? 0 : segments.length - 1);
      const values = readTensor(executor, logits, { dtype: "f32", shape: [ROWS, config.vocabSize] });
      for (let i = 0; i < Math.min(ROWS, positions.length - first); i++) {
        const row = values.subarray(i * config.vocabSize, (i + 1) * config.vocabSize);
        const label = batch.labels[positions[first + i]!]!;
        const best = argmax(row);
        let sum = 0;
        for (const value of row) sum += Math.exp(value - row[best]!);
        loss += Math.log(sum) + row[best]! - row[label]!;
        if (best === label) correct++;
      }
    }
    return { loss, labelled: positions.length, correct };
  };
}
