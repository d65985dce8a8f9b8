import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type Batches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import type { LabelKind } from "../../src/hf/config/classifier.ts";
import { drawnIn, type TrainerRun } from "./trainer.ts";

/** The fixture of test/golden/classify: runs of Transformers' Trainer over micro-batches in the order in which they are drawn here. */
export const CLASSIFY_FOLDER = join(import.meta.dir, "../golden/classify");

export interface ClassifyRun extends TrainerRun {
  readonly kind: LabelKind;
}

export interface LabelledText {
  readonly ids: readonly number[];
  /** Of an encoder that tells two texts apart. */
  readonly types?: readonly number[];
  readonly target: readonly number[];
}

export interface ClassifyFixture {
  readonly batches: Readonly<Record<LabelKind, readonly (readonly LabelledText[])[]>>;
  readonly runs: readonly FixtureRun<ClassifyRun>[];
}

interface FixtureRun<Run> {
  readonly settings: Run;
  readonly name: string;
  readonly expected: {
    readonly steps: readonly { readonly loss: number; readonly gradientNorm: number }[];
    /** Logits of the texts of the first epoch's micro-batches, in this order, after the last step. */
    readonly logits: readonly (readonly number[])[];
  };
}

export interface OptionsFixture {
  readonly options: readonly number[];
  readonly batches: readonly (readonly LabelledText[])[];
  readonly runs: readonly FixtureRun<(typeof OPTION_RUNS)[number]>[];
}

const BATCH_SIZE = 2;
const EPOCHS = 5;
const TEXT_LENGTH = 20;
const CLASSES = 3;
/** The id of padding. */
export const PAD = 0;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 4, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const CLASSIFY_RUNS: readonly ClassifyRun[] = [
  { model: "smollm2", method: "full", kind: "single", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, ...common },
  { model: "gemma2", method: "lora", kind: "single", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, ...common },
  { model: "phi3", method: "lora", kind: "several", learningRate: 1e-2, schedule: "cosine", weightDecay: 0.1, ...common },
  { model: "qwen2", method: "full", kind: "number", learningRate: 2e-3, schedule: "linear", weightDecay: 0.1, ...common },
];

/** Tokens of a vocabulary that the models' own heads pick among. */
export const OPTIONS: readonly number[] = [7, 31, 12];

/** Runs in which they do, with a fixture of their own: of a tied head with capped logits, an untied one with a bias, and a tied one that is trained. */
export const OPTION_RUNS: readonly (ClassifyRun & { readonly labelSmoothing: number })[] = [
  {
    model: "gemma2",
    method: "lora",
    kind: "single",
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    labelSmoothing: 0.1,
    ...common,
  },
  {
    model: "phi",
    method: "lora",
    kind: "single",
    learningRate: 1e-2,
    schedule: "cosine",
    weightDecay: 0.3,
    labelSmoothing: 0,
    ...common,
  },
  {
    model: "granite",
    method: "full",
    kind: "single",
    learningRate: 2e-3,
    schedule: "linear",
    weightDecay: 0.1,
    labelSmoothing: 0,
    ...common,
  },
];

/** The same of encoders, with a fixture of their own. */
export const ENCODER_RUNS: readonly ClassifyRun[] = [
  { model: "bert", method: "full", kind: "single", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, ...common },
  { model: "roberta", method: "lora", kind: "several", learningRate: 1e-2, schedule: "cosine", weightDecay: 0.1, ...common },
  { model: "distilbert", method: "full", kind: "number", learningRate: 2e-3, schedule: "linear", weightDecay: 0.1, ...common },
  { model: "modernbert", method: "lora", kind: "several", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, ...common },
];

export const outputsOf = (kind: LabelKind): number => (kind === "number" ? 1 : CLASSES);

/** Texts of the smallest vocabulary, each with the class that is right behind it. */
export function askedBatches(packing = false): Batches {
  const random = createRandom(11, "options");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 16; i++) {
    const ids = Int32Array.from({ length: 3 + random.below(TEXT_LENGTH - 3) }, () => 1 + random.below(45));
    const target = Float32Array.of(random.below(OPTIONS.length));
    store.add({ ids, labels: ids.slice().fill(IGNORED), weights: null, target }, i + 1);
  }
  const options = { rows: BATCH_SIZE, rowLength: TEXT_LENGTH, packing, seed: 5, shuffle: true, padId: PAD };
  return createBatches(store.finish(), options);
}

/** Texts of different lengths, some of which end with the token of padding; for encoders they do not, have a smaller vocabulary, and two parts. */
export function labelledBatches(kind: LabelKind, packing = false, encoder = false): Batches {
  const random = createRandom(7, "classify");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 16; i++) {
    const ids = Int32Array.from({ length: 3 + random.below(TEXT_LENGTH - 3) }, () => 5 + random.below(encoder ? 50 : 80));
    if (i % 4 === 0 && !encoder) ids[ids.length - 1] = PAD;
    const target = {
      single: () => [random.below(CLASSES)],
      several: () => Array.from({ length: CLASSES }, () => random.below(2)),
      number: () => [Math.fround(random.normal())],
    }[kind]();
    const labels = ids.slice().fill(IGNORED);
    const second = encoder && kind === "single" && { seconds: [i % 3 === 0 ? ids.length : Math.ceil(ids.length / 2)] };
    store.add({ ids, labels, weights: null, target: Float32Array.from(target), ...second }, i + 1);
  }
  const options = { rows: BATCH_SIZE, rowLength: TEXT_LENGTH, packing, seed: 5, shuffle: true, padId: PAD };
  return createBatches(store.finish(), options);
}

export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

export function textsOf({ ids, spans, targets, types }: MicroBatch): LabelledText[] {
  const width = targets!.length / spans.length;
  return spans.map(([span], i) => ({
    ids: [...ids.subarray(span!.from, span!.to)],
    ...(types && { types: [...types.subarray(span!.from, span!.to)] }),
    target: [...targets!.subarray(i * width, (i + 1) * width)],
  }));
}

export function readOptionsFixture(): OptionsFixture {
  return JSON.parse(readFileSync(join(CLASSIFY_FOLDER, "options.json"), "utf8")) as OptionsFixture;
}

export function readClassifyFixture(file = "classify.json"): ClassifyFixture {
  return JSON.parse(readFileSync(join(CLASSIFY_FOLDER, file), "utf8")) as ClassifyFixture;
}
