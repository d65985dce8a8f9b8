import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type Batches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { createTaught, taughtBatches } from "../../src/train/teacher/taught.ts";
import { drawnIn, type TrainerRun } from "./trainer.ts";

/** The fixture of test/golden/distil: runs in PyTorch over micro-batches in the order in which they are drawn here. */
export const DISTIL_FOLDER = join(import.meta.dir, "../golden/distil");

export interface DistilRun extends TrainerRun {
  readonly distilTemperature: number;
  readonly distilShare: number;
}

export interface TaughtRow {
  readonly ids: readonly number[];
  /** At their own tokens, as Transformers has them. */
  readonly labels: readonly number[];
  /** Behind each token: ids and log-probabilities of the teacher's likeliest in the place of the next one, empty without a label. */
  readonly teacher: readonly (readonly (readonly [id: number, logProbability: number])[])[];
}

export interface DistilFixture {
  readonly batches: readonly (readonly TaughtRow[])[];
  readonly runs: readonly {
    readonly settings: DistilRun;
    readonly expected: { readonly steps: readonly { readonly loss: number; readonly gradientNorm: number }[] };
  }[];
}

const BATCH_SIZE = 2;
const EPOCHS = 5;
const TEXT_LENGTH = 20;
export const TOP = 3;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 4, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const DISTIL_RUNS: readonly DistilRun[] = [
  {
    model: "llama",
    method: "full",
    distilTemperature: 1,
    distilShare: 1,
    learningRate: 2e-3,
    schedule: "cosine",
    weightDecay: 0.3,
    ...common,
  },
  {
    model: "smollm2",
    method: "lora",
    distilTemperature: 2,
    distilShare: 0.7,
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    ...common,
  },
  {
    model: "phi",
    method: "lora",
    distilTemperature: 1.5,
    distilShare: 0.5,
    learningRate: 1e-2,
    schedule: "cosine",
    weightDecay: 0.1,
    ...common,
  },
];

/** Answers of different lengths, and a teacher that says something at random. */
export function distilBatches(packing = false): Batches {
  const random = createRandom(13, "distil");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 16; i++) {
    const ids = Int32Array.from({ length: 4 + random.below(TEXT_LENGTH - 4) }, () => 5 + random.below(40));
    const labels = ids.slice().fill(IGNORED, 0, 1 + random.below(ids.length - 2));
    store.add({ ids, labels, weights: null }, i + 1);
  }
  const samples = store.finish();
  const taught = createTaught(samples, TOP);
  for (let at = 0; at < taught.ids.length; at += TOP) {
    const weights = Array.from({ length: TOP + 1 }, () => Math.exp(2 * random.normal()));
    const sum = weights.reduce((all, each) => all + each, 0);
    const likeliest = weights.slice(0, TOP).sort((a, b) => b - a);
    const first = random.below(35);
    for (let i = 0; i < TOP; i++) {
      taught.ids[at + i] = 5 + first + 3 * i;
      taught.logProbabilities[at + i] = Math.log(likeliest[i]! / sum);
    }
  }
  const options = { rows: BATCH_SIZE, rowLength: TEXT_LENGTH, packing, seed: 5, shuffle: true, padId: 0 };
  return taughtBatches(createBatches(samples, options), taught);
}

export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

export function rowsOf({ ids, labels, spans, teacher }: MicroBatch): TaughtRow[] {
  return spans.flat().map(({ from, to }) => ({
    ids: [...ids.subarray(from, to)],
    labels: [IGNORED, ...labels.subarray(from, to - 1)],
    teacher: Array.from({ length: to - from }, (_, i) =>
      labels[from + i] === IGNORED
        ? []
        : Array.from({ length: TOP }, (_each, k) => {
            const at = (from + i) * TOP + k;
            return [teacher!.ids[at]!, teacher!.logProbabilities[at]!] as const;
          }),
    ),
  }));
}

export const readDistilFixture = (): DistilFixture =>
  JSON.parse(readFileSync(join(DISTIL_FOLDER, "distil.json"), "utf8")) as DistilFixture;
