import { lazilyBy } from "../base/lazily.ts";
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
import { carriedBytes, carriedTotal, placeCarried } from "../runtime/carried.ts";
import { createForward, forwardExtent } from "../runtime/forward.ts";
import { openReadWeights, type ReadWeightsOptions } from "../load/open-weights.ts";
import { batchBytes, createBatchMemory } from "../load/batch-memory.ts";
import { createStepWords, stepWordBytes } from "../runtime/step-words.ts";
import { computeType, type WeightStorage, weightTypeOf } from "../load/weights.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../load/adapter.ts";

export interface ScorerOptions extends WeightStorage {
  readonly config: ModelConfig;
  readonly source: TensorSource;
  readonly adapter: Adapter | null;
  readonly head: Head;
  /** The numbers of tokens that micro-batches have. */
  readonly tokens: number | readonly number[];
  /** Texts in a micro-batch, at most, where the head gives logits of texts. */
  readonly texts?: number;
  readonly weighted: boolean;
}

/** Gives the numbers that an objective's metrics are made of, for micro-batches of the numbers of tokens that it was opened for. */
export interface Scorer {
  score(batch: MicroBatch): Sums;
  /** The loss of each token, with an open head. */
  tokenLosses(batch: MicroBatch): { readonly labels: Int32Array; readonly losses: Float32Array };
  /** The logits of each text, one text behind the other, with a head for texts. */
  textLogits(batch: MicroBatch): Float32Array;
  close(): void;
}

/**
 * Opens a model to score micro-batches by an objective. Weights that do not fit into memory are read from their files for each.
 * @throws {UserError} weights that are missing or do not fit
 */
export async function openScorer(executor: Executor, options: ScorerOptions, weights: ReadWeightsOptions = {}): Promise<Scorer> {
  const { adapter, head, tokens, texts, weighted, dtype } = options;
  const { config, source } = withReplacedWeights(options, adapter);
  const tuning = adapterTuning(adapter, config);
  const sizes = [tokens].flat();
  const most = Math.max(...sizes);
  const size = { tokens: most, weighted, head: head.kind, texts };
  const segmentOptions = { ...size, tuning, weightType: weightTypeOf(executor, source, options) };
  const chains = new Map(
    sizes.map((each) => [
      each,
      inPrecision(buildSegments(config, { ...segmentOptions, tokens: each }), computeType(executor, dtype)),
    ]),
  );
  const programs = createPrograms(executor);
  const extent = Math.max(...[...chains.values()].map((chain) => forwardExtent(chain, programs)));
  const segments = chains.get(most)!.length;
  const carried = carriedBytes(chains.values());
  const bytes = extent + batchBytes(config, size) + carriedTotal(carried) + stepWordBytes(segments);
  const { resident, streamed } = await openReadWeights(
    executor,
    { source, programs, chains: [...chains.values()], bytes, tokens: most },
    weights,
  );
  if (adapter) writeAdapterWeights({ executor, resident, streamed, source, config, tuning }, adapter);
  const inputs = createBatchMemory(executor, config, size, streamed?.rows);
  const words = createStepWords(executor, segments);
  const memory = {
    resident,
    window: streamed?.window ?? null,
    batch: inputs.addresses,
    carried: placeCarried(carried, (bytes) => executor.reserve(bytes)),
    ...words,
  };
  const arena = executor.reserve(extent);
  const forwards = lazilyBy((each: number) => createForward(executor, programs, chains.get(each)!, arena, memory));
  const run = (batch: MicroBatch) => {
    const loaded = headBatch(head, batch, config);
    inputs.load(loaded, 1);
    forwards(batch.tokens).run();
    return loaded;
  };
  const textLogits = (batch: MicroBatch) => {
    const { means, rows } = run(batch);
    return inputs.textLogits((means ?? rows!).length);
  };
  const tokenLosses = (batch: MicroBatch) => {
    const { labels } = run(batch);
    return { labels, losses: inputs.tokenLosses(batch.tokens) };
  };
  return {
    score(batch) {
      if (head.kind === "logits") return head.judge(batch, textLogits(batch)).sums;
      const mismatched = batch.mismatched && tokenLosses(batch.mismatched).losses.slice();
      run(batch);
      return head.kind === "loss"
        ? head.sums(batch, words.score())
        : head.judge(batch, inputs.tokenLosses(batch.tokens), mismatched).sums;
    },
    textLogits,
    tokenLosses,
    close: () => streamed?.close(),
  };
}
