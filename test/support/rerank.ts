import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type Batches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { groupSamples } from "../../src/data/samples/groups.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { drawnIn, type TrainerRun } from "./trainer.ts";

/** The fixture of test/golden/rerank: runs of sentence-transformers over micro-batches in the order in which they are drawn here. */
export const RERANK_FOLDER = join(import.meta.dir, "../golden/rerank");

export type RerankLoss = "bce" | "softmax" | "listnet";

export interface RerankRun extends TrainerRun {
  readonly rerankLoss: RerankLoss;
  readonly positiveWeight: number;
}

/** A query, and its texts with their labels, as token ids. */
export interface RankedRow {
  readonly query: readonly number[];
  readonly texts: readonly (readonly number[])[];
  readonly labels: readonly number[];
}

export interface RerankFixture {
  readonly batches: Readonly<Record<RerankLoss, readonly (readonly RankedRow[])[]>>;
  readonly runs: readonly {
    readonly settings: RerankRun;
    readonly expected: {
      readonly steps: readonly { readonly loss: number; readonly gradientNorm: number }[];
      /** Scores of the texts of the first epoch's micro-batches, in this order, after the last step. */
      readonly scores: readonly number[];
    };
  }[];
}

const BATCH_SIZE = 4;
const EPOCHS = 5;
const TEXT_LENGTH = 20;
/** Texts of a query, at most. */
export const LIST_SIZE = 4;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 4, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const RERANK_RUNS: readonly RerankRun[] = [
  {
    model: "bert",
    method: "full",
    rerankLoss: "listnet",
    positiveWeight: 1,
    learningRate: 2e-3,
    schedule: "cosine",
    weightDecay: 0.3,
    ...common,
  },
  {
    model: "smollm2",
    method: "lora",
    rerankLoss: "bce",
    positiveWeight: 1,
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    ...common,
  },
  {
    model: "modernbert",
    method: "lora",
    rerankLoss: "softmax",
    positiveWeight: 1,
    learningRate: 3e-3,
    schedule: "cosine",
    weightDecay: 0,
    ...common,
  },
  {
    model: "roberta",
    method: "full",
    rerankLoss: "bce",
    positiveWeight: 3,
    learningRate: 2e-3,
    schedule: "linear",
    weightDecay: 0.1,
    ...common,
  },
];

/**
 * Queries with as many texts as the loss takes: one (bce), one match and two others (softmax), or some of any grade.
 * @param typed an encoder is told query and text apart
 */
export function rankedBatches(loss: RerankLoss, typed: boolean, packing = false): Batches {
  const random = createRandom(11, `rerank ${loss}`);
  const store = createSampleStore((number) => `d:${number}`);
  const words = (most: number) => Array.from({ length: 1 + random.below(most) }, () => 5 + random.below(50));
  for (let i = 0; i < 32; i++) {
    const query = words(TEXT_LENGTH / 2);
    const count = { bce: 1, softmax: 3, listnet: 2 + random.below(LIST_SIZE - 1) }[loss];
    for (let text = 0; text < count; text++) {
      const ids = Int32Array.from([...query, ...words(TEXT_LENGTH / 2)]);
      const label = { bce: random.below(3) / 2, softmax: Number(text === 0), listnet: random.below(3) }[loss];
      const target = Float32Array.of(label, 0, i);
      store.add(
        { ids, labels: ids.slice().fill(IGNORED), weights: null, target, ...(typed && { seconds: [query.length] }) },
        i + 1,
      );
    }
  }
  const texts = loss === "bce" ? 1 : LIST_SIZE;
  const options = { rows: BATCH_SIZE, rowLength: texts * TEXT_LENGTH, packing, seed: 5, shuffle: true, padId: 0 };
  return createBatches(groupSamples(store.finish()), options);
}

/** All micro-batches in the order in which training draws them. */
export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

export function rowsOf({ ids, spans, targets, types }: MicroBatch): RankedRow[] {
  let at = 0;
  return spans.map((texts) => {
    const pairs = texts.map(({ from, to }) => {
      const second = from + types!.subarray(from, to).indexOf(1);
      return { query: [...ids.subarray(from, second)], text: [...ids.subarray(second, to)], label: targets![3 * at++]! };
    });
    return { query: pairs[0]!.query, texts: pairs.map(({ text }) => text), labels: pairs.map(({ label }) => label) };
  });
}

export function readRerankFixture(): RerankFixture {
  return JSON.parse(readFileSync(join(RERANK_FOLDER, "rerank.json"), "utf8")) as RerankFixture;
}
