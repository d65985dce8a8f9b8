import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { createRandom } from "../../src/base/random.ts";
import { createBatches, type Batches, type MicroBatch, type Span } from "../../src/data/samples/batch.ts";
import { groupSamples } from "../../src/data/samples/groups.ts";
import { withMismatched } from "../../src/data/samples/mismatched.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { createSampleStore, type FileSamples, type SampleSet } from "../../src/data/samples/sample-store.ts";
import { DEFAULT_OBJECTIVE, OBJECTIVE_FLAGS, objectiveOf, type ObjectiveSettings } from "../../src/objectives/index.ts";
import type { Objective } from "../../src/objectives/objective.ts";
import { drawnIn, type TrainerRun } from "./trainer.ts";

/** The fixtures of test/golden/orpo and its like: runs of TRL's trainers over micro-batches in the order in which they are drawn here. */
export const folderOf = (objective: string): string => join(import.meta.dir, "../golden", objective);

export interface OrpoRun extends TrainerRun {
  readonly orpoLambda: number;
}

export interface SimpoRun extends TrainerRun {
  readonly simpoBeta: number;
  readonly simpoGamma: number;
}

export interface DpoRun extends TrainerRun {
  readonly dpoBeta: number;
  readonly dpoLoss: string;
}

export interface KtoRun extends TrainerRun {
  /** Absent: kto. */
  readonly ktoLoss?: "apo_zero_unpaired";
  readonly ktoBeta: number;
  readonly ktoDesirableWeight: number;
  readonly ktoUndesirableWeight: number;
}

export interface RewardRun extends TrainerRun {
  readonly rewardCentring: number;
}

/** A text with its labels at its own tokens, as Transformers has them. */
export interface PreferenceText {
  readonly ids: readonly number[];
  readonly labels: readonly number[];
}

export interface PreferencePair {
  readonly chosen: PreferenceText;
  readonly rejected: PreferenceText;
}

/** TRL's metrics by name, among them `loss`. */
export type TrlMetrics = Readonly<Record<string, number>>;

export interface TrlRun<R extends TrainerRun> {
  readonly settings: R;
  readonly expected: { readonly steps: readonly TrlMetrics[]; readonly evaluation: TrlMetrics };
}

export const BATCH_SIZE = 2;
const EPOCHS = 5;
export const TEXT_LENGTH = 24;
const common = { batchSize: BATCH_SIZE, gradientAccumulation: 2, warmup: 4, clip: 0.5, beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

export const ORPO_RUNS: readonly OrpoRun[] = [
  { model: "smollm2", method: "full", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, orpoLambda: 0.1, ...common },
  { model: "gemma2", method: "lora", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, orpoLambda: 1, ...common },
  { model: "phi3", method: "lora", learningRate: 1e-2, schedule: "cosine", weightDecay: 0, orpoLambda: 0.5, ...common },
];

export const SIMPO_RUNS: readonly SimpoRun[] = [
  {
    model: "smollm2",
    method: "full",
    learningRate: 2e-3,
    schedule: "cosine",
    weightDecay: 0.3,
    simpoBeta: 2,
    simpoGamma: 1,
    ...common,
  },
  {
    model: "gemma2",
    method: "lora",
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    simpoBeta: 0.7,
    simpoGamma: 0.3,
    ...common,
  },
];

export const DPO_RUNS: readonly DpoRun[] = [
  {
    model: "smollm2",
    method: "full",
    learningRate: 2e-3,
    schedule: "cosine",
    weightDecay: 0.3,
    dpoBeta: 0.5,
    dpoLoss: "sigmoid",
    ...common,
  },
  {
    model: "gemma2",
    method: "lora",
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    dpoBeta: 0.7,
    dpoLoss: "ipo",
    ...common,
  },
  {
    model: "phi3",
    method: "lora",
    learningRate: 3e-3,
    schedule: "cosine",
    weightDecay: 0,
    dpoBeta: 0.05,
    dpoLoss: "hinge",
    ...common,
  },
];

export const KTO_RUNS: readonly KtoRun[] = [
  {
    model: "smollm2",
    method: "full",
    learningRate: 2e-3,
    schedule: "cosine",
    weightDecay: 0.3,
    ktoBeta: 0.5,
    ktoDesirableWeight: 1,
    ktoUndesirableWeight: 1,
    ...common,
    batchSize: 4,
  },
  {
    model: "gemma2",
    method: "lora",
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    ktoBeta: 0.1,
    ktoDesirableWeight: 1.3,
    ktoUndesirableWeight: 0.7,
    ...common,
    batchSize: 4,
  },
  {
    model: "llama",
    method: "lora",
    learningRate: 1e-2,
    schedule: "linear",
    weightDecay: 0.1,
    ktoLoss: "apo_zero_unpaired",
    ktoBeta: 0.3,
    ktoDesirableWeight: 1.2,
    ktoUndesirableWeight: 0.9,
    ...common,
    batchSize: 4,
  },
];

export const REWARD_RUNS: readonly RewardRun[] = [
  { model: "smollm2", method: "full", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, rewardCentring: 0, ...common },
  { model: "gemma2", method: "lora", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, rewardCentring: 0.05, ...common },
];

/** The same of encoders, whose vocabularies are smaller. */
export const REWARD_ENCODER_RUNS: readonly RewardRun[] = [
  { model: "roberta", method: "full", learningRate: 2e-3, schedule: "cosine", weightDecay: 0.3, rewardCentring: 0.05, ...common },
  { model: "modernbert", method: "lora", learningRate: 1e-2, schedule: "linear", weightDecay: 0.1, rewardCentring: 0, ...common },
];

/** The pairs of `preferenceBatches` with ids of a smaller vocabulary. */
export function smallPreferenceBatches(): Batches {
  const batches = preferenceBatches();
  return {
    ...batches,
    batch(epoch, index) {
      const batch = batches.batch(epoch, index);
      return { ...batch, ids: batch.ids.map((id) => (id < 5 ? id : 5 + ((id - 5) % 45))) };
    },
  };
}

/** Answers with what is said of them, each with a mismatched one; in the fixture of KTO they are in the order of the tokens of both together. */
export function unpairedSamples(): SampleSet {
  const random = createRandom(5, "kto");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 32; i++) {
    const [prompt, answer] = [2 + random.below(8), 1 + random.below(14)];
    const ids = Int32Array.from({ length: prompt + answer }, () => 5 + random.below(80));
    const labels = ids.slice().fill(IGNORED, 0, prompt);
    store.add({ ids, labels, weights: null, target: Float32Array.of(random.below(2)) }, i + 1);
  }
  const set = withMismatched(store.finish(), { group: 4, maxLength: TEXT_LENGTH });
  return { ...set, lengths: set.lengths.map((_, i) => set.sample(i).ids.length + set.mismatched!(i).ids.length) };
}

export function unpairedBatches(samples = unpairedSamples(), packing = false): Batches {
  return createBatches(samples, { rows: 4, rowLength: 2 * TEXT_LENGTH, packing, seed: 6, shuffle: true, padId: 0 });
}

/** Pairs with prompts and answers of different lengths. */
export function preferenceSamples(): FileSamples {
  const random = createRandom(4, "orpo");
  const store = createSampleStore((number) => `d:${number}`);
  const tokens = (count: number) => Array.from({ length: count }, () => 5 + random.below(80));
  for (let i = 0; i < 16; i++) {
    const prompt = tokens(2 + random.below(8));
    for (let side = 0; side < 2; side++) {
      const answer = tokens(1 + random.below(TEXT_LENGTH - prompt.length - 1));
      const ids = Int32Array.from([...prompt, ...answer]);
      store.add({ ids, labels: ids.slice().fill(IGNORED, 0, prompt.length), weights: null }, i + 1);
    }
  }
  return groupSamples(store.finish());
}

export function preferenceBatches(samples = preferenceSamples(), packing = false): Batches {
  const options = { rows: BATCH_SIZE, rowLength: 2 * TEXT_LENGTH, packing, seed: 6, shuffle: true, padId: 0 };
  return createBatches(samples, options);
}

/** The answers of a micro-batch of `unpairedBatches`, and the mismatched ones. */
export function answersOf(batch: MicroBatch): { text: PreferenceText; mismatched: PreferenceText; label: boolean }[] {
  const mismatched = textsOf(batch.mismatched!);
  return textsOf(batch).map(([text], i) => ({
    text: text!,
    mismatched: mismatched[i]![0]!,
    label: batch.targets![i] === 1,
  }));
}

/** All micro-batches in the order in which training draws them. */
export const drawn = (batches: Batches): MicroBatch[] => drawnIn(EPOCHS, batches);

/** The two texts of each example. */
export const pairsOf = (batch: MicroBatch): PreferencePair[] =>
  textsOf(batch).map(([chosen, rejected]) => ({ chosen: chosen!, rejected: rejected! }));

function textsOf({ ids, labels, spans }: MicroBatch): PreferenceText[][] {
  const text = ({ from, to }: Span): PreferenceText => ({
    ids: [...ids.subarray(from, to)],
    labels: [IGNORED, ...labels.subarray(from, to - 1)],
  });
  return spans.map((texts) => texts.map(text));
}

/** Pairs of each micro-batch, of all epochs one after the other; the same for every objective. */
export function readTrlBatches(): PreferencePair[][] {
  return read("orpo").batches as PreferencePair[][];
}

/** The same of KTO. */
export function readUnpairedBatches(): ReturnType<typeof answersOf>[] {
  return read("kto").batches as ReturnType<typeof answersOf>[];
}

/** Settings of the runs and what TRL makes of them. */
export function readTrlRuns<R extends TrainerRun>(objective: string): readonly TrlRun<R>[] {
  return read(objective).runs as TrlRun<R>[];
}

function read(objective: string): { readonly batches?: unknown; readonly runs: unknown } {
  return JSON.parse(readFileSync(join(folderOf(objective), `${objective}.json`), "utf8")) as { runs: unknown };
}

/** An objective with all its settings by default but some. */
export function objectiveWith(settings: Partial<ObjectiveSettings>): Objective {
  return objectiveOf({ objective: DEFAULT_OBJECTIVE, ...z.object(OBJECTIVE_FLAGS).parse({}), ...settings });
}
