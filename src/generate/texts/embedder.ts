import { createBatches, type MicroBatch } from "../../data/samples/batch.ts";
import type { Sample } from "../../data/samples/sample.ts";
import { createSampleMaker, type SampleMaker } from "../../data/samples/sample-maker.ts";
import { createSampleStore } from "../../data/samples/sample-store.ts";
import { type Embedding, withPooling } from "../../load/embedder.ts";
import type { OpenModel } from "../../load/open-model.ts";
import type { ReadWeightsOptions } from "../../load/open-weights.ts";
import type { WeightStorage } from "../../load/weights.ts";
import { embedderHead } from "../../objectives/index.ts";
import type { Executor } from "../../runtime/executor.ts";
import { openScorer } from "../score.ts";

/** Tokens of a row that short texts lie behind each other in, and of shorter rows, where all texts fit into one. */
const ROWS = [32, 128, 512];

/** The length of rows for longer texts, of which each has one, is a power of this times the longest of `ROWS`. */
const GROWTH = 4;

/** The shortest length that an embedding is divided by, as in PyTorch's `normalize`. */
const LEAST_LENGTH = 1e-12;

/** Makes embeddings, with the weights of a model in memory. */
export interface TextEmbedder extends Pick<Embedding, "dimensions"> {
  /** Tokens of a text, at most. */
  readonly maxLength: number;
  readonly maker: Pick<SampleMaker, "alone" | "tokens">;
  /**
   * The embeddings of texts, in their order.
   * @param breathe lets others get in, between two rows
   */
  embed(samples: readonly Sample[], breathe?: () => unknown): Promise<Float32Array[]>;
  close(): void;
}

export interface TextEmbedderOptions {
  readonly model: OpenModel & WeightStorage;
  readonly embedding: Embedding;
  readonly truncate: boolean;
}

/**
 * Opens a model to make embeddings. Texts share rows; none sees another.
 * @throws {UserError} weights that are missing or do not fit
 */
export async function openEmbedder(
  executor: Executor,
  { model, embedding, truncate }: TextEmbedderOptions,
  reading: ReadWeightsOptions,
): Promise<TextEmbedder> {
  const { pooling, maxLength, prompt, lowerCase, dimensions } = embedding;
  const config = withPooling(model.config, pooling);
  const sizes = rowsFor(maxLength);
  const shared = Math.min(maxLength, ROWS.at(-1)!);
  const head = embedderHead(pooling);
  const scorer = await openScorer(executor, { ...model, config, head, tokens: sizes, texts: shared, weighted: false }, reading);
  const maker = createSampleMaker(model.tokenizer, {
    maxLength,
    truncate,
    vocabSize: config.vocabSize,
    surround: config.encoder !== null,
    prompt,
    lowerCase,
  });
  return {
    dimensions,
    maxLength,
    maker,
    async embed(samples, breathe = () => {}) {
      const embeddings: Float32Array[] = [];
      for (const { batch, members } of rowsOf(samples, sizes, shared)) {
        await breathe();
        const values = scorer.textLogits(batch);
        const width = config.hiddenSize;
        for (const [i, text] of members.entries())
          embeddings[text] = finished(values.slice(i * width, i * width + dimensions), embedding.normalizes);
      }
      return embeddings;
    },
    close: scorer.close,
  };
}

/** Lengths of rows for texts of up to so many tokens. */
function rowsFor(maxLength: number): number[] {
  const sizes = ROWS.filter((size) => size < maxLength);
  for (let size = ROWS.at(-1)! * GROWTH; size < maxLength; size *= GROWTH) sizes.push(size);
  return [...sizes, maxLength];
}

/** Rows of texts, and the numbers of those: short ones share rows, of the least length that all fit into or the longest; each other has one. */
function* rowsOf(
  samples: readonly Sample[],
  sizes: readonly number[],
  shared: number,
): Generator<{ readonly batch: MicroBatch; readonly members: readonly number[] }> {
  const [short, long]: number[][] = [[], []];
  for (const [i, { ids }] of samples.entries()) (ids.length > shared ? long! : short!).push(i);
  const total = short!.reduce((sum, i) => sum + samples[i]!.ids.length, 0);
  yield* batchesOf(
    samples,
    short!,
    sizes.find((size) => size >= Math.min(total, shared))!,
  );
  for (const i of long!)
    yield* batchesOf(
      samples,
      [i],
      sizes.find((size) => size >= samples[i]!.ids.length)!,
    );
}

function* batchesOf(samples: readonly Sample[], numbers: readonly number[], rowLength: number) {
  if (numbers.length === 0) return;
  const store = createSampleStore(() => "");
  for (const [i, number] of numbers.entries()) store.add(samples[number]!, i);
  const batches = createBatches(store.finish(), { rows: 1, rowLength, packing: true, seed: 0, padId: 0, shuffle: false });
  for (let index = 0; index < batches.count(0); index++) {
    const batch = batches.batch(0, index);
    yield { batch, members: batch.members.map((member) => numbers[member]!) };
  }
}

function finished(values: Float32Array, normalizes: boolean): Float32Array {
  if (!normalizes) return values;
  const length = Math.max(LEAST_LENGTH, Math.hypot(...values));
  return values.map((value) => value / length);
}
