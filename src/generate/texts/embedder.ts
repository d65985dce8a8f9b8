import type { Sample } from "../../data/samples/sample.ts";
import { createSampleMaker, type SampleMaker } from "../../data/samples/sample-maker.ts";
import { type Embedding, withPooling } from "../../load/embedder.ts";
import type { OpenModel } from "../../load/open-model.ts";
import type { ReadWeightsOptions } from "../../load/open-weights.ts";
import type { WeightStorage } from "../../load/weights.ts";
import { embedderHead } from "../../objectives/index.ts";
import type { Executor } from "../../runtime/executor.ts";
import { openScorer } from "../score.ts";
import { rowSizes, rowsOf } from "./rows.ts";

/** The shortest length that an embedding is divided by, as in PyTorch's `normalize`. */
const LEAST_LENGTH = 1e-12;

/** Makes embeddings, with the weights of a model in memory. */
export interface TextEmbedder extends Pick<Embedding, "dimensions"> {
  /** Tokens of a text, at most. */
  readonly maxLength: number;
  readonly maker: Pick<SampleMaker, "alone" | "tokens">;
  /** The embeddings of texts, in their order. */
  embed(samples: readonly Sample[], options?: EmbedTextsOptions): Promise<Float32Array[]>;
  close(): void;
}

export interface EmbedTextsOptions {
  /** Numbers that are kept of each, no more than the embedder's own (these). */
  readonly dimensions?: number;
  /** Lets others get in, between two rows. */
  breathe?(): unknown;
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
  const { pooling, dense, maxLength, prompt, lowerCase, dimensions } = embedding;
  const config = withPooling(model.config, pooling, dense);
  const rows = rowSizes(maxLength);
  const options = { ...model, config, head: embedderHead(pooling), tokens: rows.sizes, texts: rows.most, weighted: false };
  const scorer = await openScorer(executor, options, reading);
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
    async embed(samples, { dimensions: kept = dimensions, breathe = () => {} } = {}) {
      const embeddings: Float32Array[] = [];
      for (const { batch, members } of rowsOf(samples, rows)) {
        await breathe();
        const values = scorer.textLogits(batch);
        const width = config.textHead!.outputs;
        for (const [i, text] of members.entries())
          embeddings[text] = finished(values.slice(i * width, i * width + kept), embedding.normalizes);
      }
      return embeddings;
    },
    close: scorer.close,
  };
}

function finished(values: Float32Array, normalizes: boolean): Float32Array {
  if (!normalizes) return values;
  const length = Math.max(LEAST_LENGTH, Math.hypot(...values));
  return values.map((value) => value / length);
}
