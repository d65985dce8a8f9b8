import type { ModelConfig } from "../../src/models/config.ts";
import type { TensorSource } from "../../src/hf/weights/safetensors.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import { buildLogits, buildSegments } from "../../src/models/chain/segments.ts";
import { carriedBytes, placeCarried } from "../../src/runtime/carried.ts";
import { createPrograms } from "../../src/runtime/chain.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { createForward, forwardExtent } from "../../src/runtime/forward.ts";
import { readTensor, reserveResident, type Resident } from "../../src/runtime/resident.ts";
import { createBatchMemory } from "../../src/load/batch-memory.ts";
import { loadWeights, storedWeightType } from "../../src/load/weights.ts";

/** Logits of a text's last token by one pass over the whole text, padded to `tokens`: the reference for decoding. */
export function fullForward(
  executor: Executor,
  config: ModelConfig,
  source: TensorSource,
  tuning: Tuning,
  tokens: number,
): { readonly resident: Resident; logits(ids: readonly number[]): Float32Array } {
  const options = { tokens, tuning, weightType: storedWeightType(source) };
  const segments = [...buildSegments(config, options).slice(0, -1), buildLogits(config, options, 1)];
  const programs = createPrograms(executor);
  const resident = reserveResident(executor, segments);
  loadWeights(executor, resident, source);
  const batch = createBatchMemory(executor, config, { tokens });
  const word = executor.reserve(4);
  const memory = {
    resident,
    batch: batch.addresses,
    carried: placeCarried(carriedBytes([segments]), (bytes) => executor.reserve(bytes)),
    segmentIndex: segments.map(() => word),
    lossGradient: word,
    loss: word,
    correct: word,
  };
  const logits = executor.reserve(4 * config.vocabSize);
  const arena = executor.reserve(forwardExtent(segments, programs));
  const forward = createForward(executor, programs, segments, arena, memory, logits);
  return {
    resident,
    logits(text) {
      const ids = new Int32Array(tokens);
      ids.set(text);
      const inside = (t: number) => t < text.length;
      batch.load(
        {
          ids,
          labels: new Int32Array(tokens).fill(-100),
          starts: Int32Array.from({ length: tokens }, (_, t) => (inside(t) ? 0 : t)),
          positions: Int32Array.from({ length: tokens }, (_, t) => (inside(t) ? t : 0)),
        },
        1,
      );
      batch.setRows(Int32Array.of(text.length - 1));
      forward.run();
      return readTensor(executor, logits, { dtype: "f32", shape: [config.vocabSize] });
    },
  };
}
