import { createHash } from "node:crypto";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import { keep, readKept } from "../../base/files/kept.ts";
import { createBreath } from "../../base/process/event-loop.ts";
import { createBatches } from "../../data/samples/batch.ts";
import type { SampleSet } from "../../data/samples/sample-store.ts";
import type { Tokenizer } from "../../data/tokens/tokenizer.ts";
import { openDevice } from "../../device.ts";
import { openTeacher } from "../../generate/teacher.ts";
import { hashFile } from "../../base/files/files.ts";
import { vocabularyOf } from "../../data/tokens/vocabulary.ts";
import { type OpenModel, openModel } from "../../load/open-model.ts";
import { storageOf } from "../../load/weights.ts";
import type { ModelConfig } from "../../models/config.ts";
import { checkContext } from "../../models/context.ts";
import type { TrainConfig } from "../config.ts";
import { createReport } from "../step/reference-model.ts";
import { addTaught, createTaught, type Taught } from "./taught.ts";

export interface TeachOptions {
  readonly config: TrainConfig;
  /** Folder or hub name of the teacher. */
  readonly teacher: string;
  /** The student, and its tokenizer. */
  readonly model: Pick<ModelConfig, "vocabSize" | "logitSoftCap">;
  readonly tokenizer: Tokenizer;
  readonly sequenceLength: number;
  readonly train: SampleSet;
  readonly valid: SampleSet | null;
  /** Everything that decides the samples. */
  readonly key: readonly unknown[];
  readonly signal?: AbortSignal | undefined;
  readonly onMessage?: ((text: string) => void) | undefined;
  readonly onNote?: ((text: string) => void) | undefined;
}

/** The teacher's tokens for both sets. */
export interface TaughtSets {
  readonly train: Taught;
  readonly valid: Taught | null;
}

/** Tokens of a row, in which short samples lie behind each other. */
const ROW_TOKENS = 512;

/**
 * Asks the teacher of a run what it finds likely in the place of each labelled token, once for all: it is in memory before the student is, and
 * what it says is kept by content in the cache. A dry run asks nobody.
 * @throws the signal's reason when it is aborted
 * @throws {UserError} a teacher with another tokenizer, one that does not fit
 */
export async function teach(options: TeachOptions): Promise<TaughtSets> {
  const { config, teacher: name, tokenizer, sequenceLength, key, onNote } = options;
  const { teacherTop: top, distilTemperature: temperature } = config;
  if (options.model.logitSoftCap !== null && temperature !== 1)
    throw new UserError(
      `--distil-temperature ${temperature}: the student's logits are capped (Gemma 2), and only a temperature of 1 is supported there`,
    );
  const teacher = await openModel({ model: name }, { onNote, check: "kept" });
  try {
    checkContext(teacher.config, sequenceLength);
    if (vocabularyOf(teacher.tokenizer) !== vocabularyOf(tokenizer))
      throw new UserError(
        `--teacher ${name}: its tokenizer has other tokens than the student's; expected a model with the same one`,
      );
    const sets: TaughtSets = {
      train: createTaught(options.train, top),
      valid: options.valid && createTaught(options.valid, top),
    };
    const all = [sets.train, ...(sets.valid ? [sets.valid] : [])];
    if (config.dryRun) {
      for (const { logProbabilities } of all) logProbabilities.fill(-Math.log(2 * top));
      return sets;
    }
    const parts = all.flatMap(({ ids, logProbabilities }) =>
      [ids, logProbabilities].map((values) => new Uint8Array(values.buffer)),
    );
    const words = ["1", teacher.identity, adapterOf(teacher), config.device, config.dtype, top, temperature, ...key];
    const file = join(cacheFolder(), "teachers", `${createHash("sha256").update(JSON.stringify(words)).digest("hex")}.top`);
    if (readKept(file, parts)) return sets;
    await ask(teacher, sets, options);
    keep(file, parts);
    return sets;
  } finally {
    teacher.close();
  }
}

const adapterOf = ({ adapter }: OpenModel): string | null => adapter && hashFile(adapter.source.path);

async function ask(model: OpenModel, { train, valid }: TaughtSets, options: TeachOptions): Promise<void> {
  const { config, sequenceLength, signal, onMessage = () => {} } = options;
  const device = await openDevice(config);
  try {
    const tokens = Math.max(sequenceLength, ROW_TOKENS);
    const { teacherTop: top, distilTemperature: temperature } = config;
    const asked = { model: { ...model, ...storageOf(config) }, tokens, top, temperature, vocabulary: options.model.vocabSize };
    const teacher = await openTeacher(device.executor, asked, { signal });
    try {
      const breathe = createBreath(signal);
      const report = createReport(options.train.count + (options.valid?.count ?? 0), "by the teacher", onMessage);
      for (const [set, taught] of [
        [options.train, train],
        [options.valid, valid],
      ] as const) {
        if (!set || !taught) continue;
        const { draw: _, ...each } = set;
        const batches = createBatches(each, { rows: 1, rowLength: tokens, packing: true, seed: 0, padId: 0, shuffle: false });
        for (let index = 0; index < batches.count(0); index++) {
          await breathe();
          const batch = batches.batch(0, index);
          addTaught(taught, batch, teacher.top(batch));
          report(batch.examples);
        }
      }
    } finally {
      teacher.close();
    }
  } finally {
    device.close();
  }
}
