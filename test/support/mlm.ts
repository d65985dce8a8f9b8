import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type Batches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { type Masking, withMasks } from "../../src/data/samples/masking.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { drawnIn, type TrainerRow, type TrainerRun } from "./trainer.ts";

/** The fixture of test/golden/mlm: runs of Transformers' Trainer over micro-batches in the order in which they are drawn here, with their masks. */
export const MLM_FOLDER = join(import.meta.dir, "../golden/mlm");

export interface MlmFixture {
  /** Rows of each micro-batch, of all epochs one after the other: other tokens are hidden in each. */
  readonly batches: readonly (readonly TrainerRow[])[];
  readonly runs: readonly {
    readonly settings: TrainerRun;
    readonly expected: { readonly steps: readonly { readonly loss: number; readonly gradientNorm: number }[] };
  }[];
}

const BATCH_SIZE = 4;
const EPOCHS = 5;
const TEXT_LENGTH = 20;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 4, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const MLM_RUNS: readonly TrainerRun[] = [
  { model: "bert", method: "full", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, ...common },
  { model: "modernbert", method: "lora", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, ...common },
  { model: "roberta", method: "full", learningRate: 2e-3, schedule: "linear", weightDecay: 0.1, ...common },
  { model: "distilbert", method: "full", learningRate: 2e-3, schedule: "cosine", weightDecay: 0, ...common },
];

/** The first and the last token of each text are of those that are never hidden. */
export const MASKING: Masking = { share: 0.3, seed: 4, maskId: 4, special: new Set([2, 3]), vocabulary: 55 };

/** Texts of different lengths. */
export function maskedBatches(packing = false): Batches {
  const random = createRandom(12, "mlm");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 32; i++) {
    const inner = Array.from({ length: 2 + random.below(TEXT_LENGTH - 4) }, () => 5 + random.below(50));
    const ids = Int32Array.from([2, ...inner, 3]);
    store.add({ ids, labels: ids.slice().fill(IGNORED), weights: null }, i + 1);
  }
  const options = { rows: BATCH_SIZE, rowLength: TEXT_LENGTH, packing, seed: 5, shuffle: true, padId: 0 };
  return withMasks(createBatches(store.finish(), options), MASKING);
}

export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

/** The texts of a micro-batch without padding. */
export const rowsOf = ({ ids, labels, spans }: MicroBatch): TrainerRow[] =>
  spans.flat().map(({ from, to }) => ({ ids: [...ids.subarray(from, to)], labels: [...labels.subarray(from, to)] }));

export const readMlmFixture = (): MlmFixture => JSON.parse(readFileSync(join(MLM_FOLDER, "mlm.json"), "utf8")) as MlmFixture;
