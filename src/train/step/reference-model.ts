import { createHash } from "node:crypto";
import { join } from "node:path";
import { formatDuration } from "../../base/duration.ts";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import { keep, readKept } from "../../base/files/kept.ts";
import { createBreath } from "../../base/process/event-loop.ts";
import type { Batches, MicroBatch } from "../../data/samples/batch.ts";
import { headBatch } from "../../load/head-batch.ts";
import { deviceName } from "../memory/costs.ts";
import { type Objective, referenceTexts } from "../../objectives/objective.ts";
import type { Engine } from "./engine.ts";
import {
  addReferences,
  createReferences,
  type References,
  type TokenLosses,
  withReference,
  withReferences,
} from "./references.ts";

/** The micro-batches of a run. */
export interface RunBatches {
  readonly train: Batches;
  readonly valid: readonly MicroBatch[];
}

export interface ReferenceModelOptions {
  readonly objective: Objective;
  /** Examples of the sets that micro-batches are drawn from. */
  readonly examples: { readonly train: number; readonly valid: number };
  /** How many micro-batches training draws. */
  readonly drawn: number;
  /** Everything that decides the numbers besides the engine. */
  readonly key: readonly unknown[];
  /** Nothing is computed: what is only timed is held against anything. */
  readonly isDry: boolean;
  readonly signal?: AbortSignal | undefined;
  /** Told how far it is, where it takes long. */
  readonly onMessage?: ((text: string) => void) | undefined;
}

/**
 * Gives micro-batches the log-probabilities of their texts for the model as it is: before anything is trained, with the
 * adapter that is trained further, or a new one, which changes nothing. They are kept by content in the cache, so that a resumed run has the same
 * ones, and one with other settings of training need not compute them again.
 * @throws the signal's reason when it is aborted
 */
export async function withReferenceModel(
  engine: Engine,
  batches: RunBatches,
  options: ReferenceModelOptions,
): Promise<RunBatches> {
  const { objective, examples, isDry } = options;
  const train = createReferences(examples.train, referenceTexts(objective));
  const valid = createReferences(examples.valid, referenceTexts(objective));
  if (isDry) for (const { values } of [train, valid]) values.fill(0);
  else {
    const file = join(cacheFolder(), "references", `${keyOf(engine, options)}.f64`);
    if (!readKept(file, bytesOf([train, valid]))) {
      await compute(engine, batches, { train, valid }, options);
      keep(file, bytesOf([train, valid]));
    }
  }
  return {
    train: withReferences(batches.train, train),
    valid: batches.valid.map((batch) => withReference(batch, valid)),
  };
}

async function compute(
  engine: Engine,
  batches: RunBatches,
  { train, valid }: { readonly train: References; readonly valid: References },
  { objective: { head }, examples, drawn, signal, onMessage = () => {} }: ReferenceModelOptions,
): Promise<void> {
  const score: TokenLosses = (batch) => {
    const tokens = headBatch(head, batch, engine.config);
    return { labels: tokens.labels, losses: engine.tokenLosses(tokens) };
  };
  const breathe = createBreath(signal);
  const report = createReport(examples.train + examples.valid, "by the model as it was", onMessage);
  const add = async (references: References, batch: MicroBatch): Promise<number> => {
    await breathe();
    const added = addReferences(references, batch, score);
    report(added);
    return added;
  };
  for (const batch of batches.valid) await add(valid, batch);
  // Later epochs have the same examples.
  for (let ordinal = 0, left = examples.train; ordinal < drawn && left > 0; ordinal++) {
    const { epoch, index } = batches.train.locate(ordinal);
    left -= await add(train, batches.train.batch(epoch, index));
  }
}

/** Seconds without a word. */
const SILENT_SECONDS = 10;

/** Tells every tenth of what takes long. */
export function createReport(examples: number, by: string, onMessage: (text: string) => void): (more: number) => void {
  const begin = performance.now();
  let [done, told] = [0, 0];
  return (more) => {
    done += more;
    const seconds = (performance.now() - begin) / 1000;
    const tenth = Math.floor((10 * done) / examples);
    if (tenth === told || seconds < SILENT_SECONDS) return;
    told = tenth;
    const left = Math.max(0, (seconds / done) * (examples - done));
    onMessage(`reference       ${done} of ${examples} examples ${by}, about ${formatDuration(left)} left`);
  };
}

function keyOf({ executor, compute, plan }: Engine, { key, drawn }: ReferenceModelOptions): string {
  const parts = ["2", deviceName(executor), compute, plan.residency.streamed.size > 0, drawn, ...key];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

const bytesOf = (all: readonly References[]): Uint8Array[] => all.map(({ values }) => new Uint8Array(values.buffer));
