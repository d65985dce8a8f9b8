import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createBatches, type Batches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { createRandom } from "../../src/base/random.ts";
import type { GoldenFamily, GoldenMethod } from "./golden.ts";

/** The fixture of test/golden/trainer: runs of Transformers' Trainer over micro-batches in the order in which they are drawn here. */
export const TRAINER_FILE = join(import.meta.dir, "../golden/trainer/trainer.json");

/** The settings of a run. */
export interface TrainerRun {
  readonly model: GoldenFamily;
  readonly method: GoldenMethod;
  readonly batchSize: number;
  readonly gradientAccumulation: number;
  readonly learningRate: number;
  readonly schedule: "cosine" | "linear";
  /** Steps. */
  readonly warmup: number;
  readonly weightDecay: number;
  readonly clip: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
}

export interface TrainerRow {
  readonly ids: readonly number[];
  readonly labels: readonly number[];
}

export interface TrainerFixture {
  /** Rows of each micro-batch, of all epochs one after the other. */
  readonly batches: TrainerRow[][];
  readonly runs: readonly {
    readonly settings: TrainerRun;
    readonly expected: {
      readonly steps: readonly { readonly loss: number; readonly learningRate: number; readonly gradientNorm: number }[];
      /** Loss of all rows after the last step. */
      readonly last: number;
    };
  }[];
}

const BATCH_SIZE = 2;
const EPOCHS = 3;
const ROW_LENGTH = 20;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 2, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const RUNS: readonly TrainerRun[] = [
  { model: "qwen2", method: "full", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, ...common },
  { model: "smollm2", method: "lora", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, ...common },
];

/** Examples of different lengths, whose labels begin somewhere: micro-batches with few labels and with many. */
export function trainerBatches(): Batches {
  const random = createRandom(3, "trainer");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 12; i++) {
    const ids = Int32Array.from({ length: 4 + random.below(ROW_LENGTH - 4) }, () => 5 + random.below(80));
    const labels = ids.slice().fill(IGNORED, 0, 1 + random.below(ids.length - 2));
    store.add({ ids, labels, weights: null }, i + 1);
  }
  return createBatches(store.finish(), {
    rows: BATCH_SIZE,
    rowLength: ROW_LENGTH,
    packing: false,
    seed: 5,
    shuffle: true,
    padId: 0,
  });
}

/** All micro-batches in the order in which training draws them. */
export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

export function drawnIn(epochs: number, batches: Batches): MicroBatch[] {
  return Array.from({ length: epochs * batches.count(0) }, (_, ordinal) => {
    const { epoch, index } = batches.locate(ordinal);
    return batches.batch(epoch, index);
  });
}

/** The rows of a micro-batch without their padding, labels at their own tokens as Transformers has them. */
export function rowsOf({ tokens, ids, labels, starts }: MicroBatch): TrainerRow[] {
  const length = tokens / BATCH_SIZE;
  return Array.from({ length: BATCH_SIZE }, (_, row) => {
    const from = row * length;
    // Padding attends to itself alone.
    const end = starts.subarray(from, from + length).findLastIndex((start) => start === from) + 1;
    const shifted = [IGNORED, ...labels.subarray(from, from + end - 1)];
    return { ids: [...ids.subarray(from, from + end)], labels: shifted };
  });
}

export function readTrainerFixture(): TrainerFixture {
  return JSON.parse(readFileSync(TRAINER_FILE, "utf8")) as TrainerFixture;
}
