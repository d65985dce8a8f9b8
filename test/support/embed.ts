import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type Batches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { groupSamples } from "../../src/data/samples/groups.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import type { Pooling } from "../../src/models/config.ts";
import { drawnIn, type TrainerRun } from "./trainer.ts";

/** The fixture of test/golden/embed: runs of sentence-transformers over micro-batches in the order in which they are drawn here. */
export const EMBED_FOLDER = join(import.meta.dir, "../golden/embed");

export interface EmbedRun extends TrainerRun {
  readonly pooling: Pooling;
  readonly embedScale: number;
}

export interface EmbedFixture {
  /** Ids of the texts of each example, of each micro-batch. */
  readonly batches: readonly (readonly (readonly (readonly number[])[])[])[];
  readonly runs: readonly {
    readonly settings: EmbedRun;
    readonly expected: {
      readonly steps: readonly { readonly loss: number; readonly gradientNorm: number }[];
      /** Embeddings of length 1 of the texts of the first epoch's micro-batches, in this order, after the last step. */
      readonly embeddings: readonly (readonly number[])[];
    };
  }[];
}

const BATCH_SIZE = 4;
const EPOCHS = 5;
const TEXT_LENGTH = 20;
/** Anchor, positive, a hard negative. */
export const TEXTS = 3;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 4, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const EMBED_RUNS: readonly EmbedRun[] = [
  {
    model: "bert",
    method: "full",
    pooling: "mean",
    embedScale: 20,
    learningRate: 2e-3,
    schedule: "cosine",
    weightDecay: 0.3,
    ...common,
  },
  {
    model: "smollm2",
    method: "lora",
    pooling: "last",
    embedScale: 20,
    learningRate: 3e-3,
    schedule: "linear",
    weightDecay: 0.1,
    ...common,
  },
  {
    model: "modernbert",
    method: "lora",
    pooling: "cls",
    embedScale: 10,
    learningRate: 3e-3,
    schedule: "cosine",
    weightDecay: 0,
    ...common,
  },
  // Not a Qwen2: the gradients of its keys' biases are nearly 0, and of their rounding Adam makes steps. PyTorch's own float32 run lies 7e-5 (the
  // largest element 1.5e-4) beside its float64 run there, and 2e-7 everywhere else.
  {
    model: "llama",
    method: "full",
    pooling: "mean",
    embedScale: 20,
    learningRate: 2e-3,
    schedule: "linear",
    weightDecay: 0.1,
    ...common,
  },
];

/** Runs with other losses, of at least two families each where that is not said of another kind of run already. */
const bert = { ...EMBED_RUNS[0]!, clip: 2 };
const smollm2 = { ...EMBED_RUNS[1]!, clip: 2 };
export const LOSS_RUNS: readonly (readonly [name: string, run: LossRun])[] = [
  ["matryoshka-bert", { ...bert, matryoshka: [12, 24, 5] }],
  ["matryoshka-smollm2", { ...smollm2, matryoshka: [16, 3] }],
  ["cosent-bert", { ...bert, embedLoss: "cosent" }],
  ["cosent-smollm2", { ...smollm2, embedLoss: "cosent" }],
  ["cached-bert", { ...bert, gradCache: true }],
  ["cached-smollm2", { ...smollm2, gradCache: true }],
  ["cached-matryoshka", { ...bert, gradCache: true, matryoshka: [24, 8] }],
  ["symmetric", { ...bert, symmetric: true }],
  ["triplet", { ...bert, embedLoss: "triplet", tripletMargin: 0.3 }],
  ["cosine", { ...smollm2, embedLoss: "cosine" }],
];

export interface LossRun extends EmbedRun {
  readonly embedLoss?: "triplet" | "cosent" | "cosine";
  readonly matryoshka?: readonly number[];
  readonly gradCache?: true;
  readonly symmetric?: true;
  readonly tripletMargin?: number;
}

export interface LossFixture {
  /** Ids of both texts, and the score, of each example of each micro-batch. */
  readonly pairs: readonly (readonly (readonly [readonly number[], readonly number[], number])[])[];
  readonly runs: readonly {
    readonly name: string;
    readonly settings: LossRun;
    readonly steps: readonly { readonly loss: number; readonly gradientNorm: number }[];
  }[];
}

/** Examples of three texts of different lengths; or with `scored` of the first two, with one of five scores. */
export function contrastBatches(packing = false, scored = false): Batches {
  const random = createRandom(8, "embed");
  const store = createSampleStore((number) => `d:${number}`);
  const texts = scored ? 2 : TEXTS;
  for (let i = 0; i < 32; i++) {
    for (let text = 0; text < TEXTS; text++) {
      const ids = Int32Array.from({ length: 2 + random.below(TEXT_LENGTH - 2) }, () => 5 + random.below(50));
      const target = scored && { target: Float32Array.of(((i * 7) % 5) / 4) };
      if (text < texts) store.add({ ids, labels: ids.slice().fill(IGNORED), weights: null, ...target }, i + 1);
    }
  }
  const options = { rows: BATCH_SIZE, rowLength: texts * TEXT_LENGTH, packing, seed: 5, shuffle: true, padId: 0 };
  return createBatches(groupSamples(store.finish()), options);
}

/** All micro-batches in the order in which training draws them. */
export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

export const textsOf = ({ ids, spans }: MicroBatch): number[][][] =>
  spans.map((texts) => texts.map(({ from, to }) => [...ids.subarray(from, to)]));

export const pairsOf = (batch: MicroBatch): (readonly [number[], number[], number])[] =>
  textsOf(batch).map(([first, second], i) => [first!, second!, batch.targets![2 * i]!]);

export function readEmbedFixture(): EmbedFixture {
  return JSON.parse(readFileSync(join(EMBED_FOLDER, "embed.json"), "utf8")) as EmbedFixture;
}
