import { existsSync, rmSync } from "node:fs";
import { basename, extname, join } from "node:path";
import type { JetStreamClient } from "@nats-io/jetstream";
import type { KV } from "@nats-io/kv";
import type { ObjectStore } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { messageOf, systemCode, UserError } from "../../base/errors.ts";
import { writeTextAtomic } from "../../base/files/files.ts";
import { type ApartOptions, SuddenEnd } from "../../train/apart/train-apart.ts";
import { type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { savedCheckpoints } from "../../train/run/checkpoint.ts";
import type { RunResult } from "../../train/run/run.ts";
import type { Bases } from "../bases/bases.ts";
import { BaseAway } from "../bases/fetch-file.ts";
import { type Attempt, Fenced } from "./attempt.ts";
import { follow } from "../follow.ts";
import { SUBJECTS } from "../names.ts";
import { getFile, modelId, objectOf, restoreRun, saveRun } from "../objects.ts";
import { FILE_KEYS, isAway, type JobFailure, type JobRecord, keyOf, type StoredFile, withoutPaths } from "../records.ts";
import { checkSettings } from "../settings.ts";
import { addTraffic, type Meter } from "../traffic.ts";
import { createTeller, type Teller } from "./telling.ts";

/** Trains as `runApart` does. */
export type Train = (config: TrainConfig, given: readonly string[], options: ApartOptions) => Promise<RunResult>;

/** What a node has for every job. */
export interface Workplace {
  readonly nats: NatsConnection;
  readonly js: JetStreamClient;
  readonly jobs: KV;
  readonly files: ObjectStore;
  readonly runs: ObjectStore;
  readonly home: string;
  readonly node: string;
  readonly processor: string;
  /** Bytes that a job may take. */
  readonly memory: number;
  readonly bases: Bases;
  readonly train: Train;
  /** Counts everything that the node sends and receives. */
  readonly meter: Meter;
  /** The node has ended, whatever its jobs wait for. */
  readonly closed: AbortSignal;
  /** Told of a disk that is full: no job is taken for a while. */
  onFull(): void;
}

/** Processes of a job that may end without a word in a row, having saved nothing new. */
const MOST_SUDDEN_ENDS = 10;

/**
 * Runs one attempt at a job: fetches what it needs, trains in a child process, and puts checkpoints and results into the object store. What it leaves behind
 * is in the record of the job, or nothing, where the attempt is over.
 * @param meter counts what goes over the network for this attempt
 * @param signal the node leaves: the job is saved and given back
 * @returns how it ended, in words
 */
export async function runJob(place: Workplace, taken: Attempt, meter: Meter, signal: AbortSignal): Promise<string> {
  const attempt = countedBy(meter, taken);
  const key = keyOf(attempt.job);
  const run = join(place.home, "runs", `${key}.${attempt.number}`);
  const fence = { path: join(place.home, "attempts", key), attempt: attempt.number };
  const over = new AbortController();
  const stopping = new AbortController();
  const stop = () => stopping.abort();
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const teller = createTeller(
    place.js,
    SUBJECTS.events(attempt.job.front, attempt.job.job),
    { attempt: attempt.number, node: place.node, home: place.home },
    over.signal,
  );
  /** Ends the child at once, and everything that waits for NATS. */
  const giveUp = () => {
    over.abort(new Fenced(`attempt ${attempt.number} at ${key} is over`));
    writeTextAtomic(fence.path, String(attempt.number + 1));
    stop();
  };
  place.closed.addEventListener("abort", giveUp, { once: true });
  const following = follow<JobRecord>(place.nats, place.jobs, key, (_, job) => {
    const isOurs = job !== null && job.state === "running" && job.attempt === attempt.number && job.node === place.node;
    if (!isOurs) giveUp();
    else if (job.isUnwanted) stop();
  });
  try {
    writeTextAtomic(fence.path, String(attempt.number));
    await work(place, attempt, meter, { run, fence, teller, over: over.signal, stopping: stopping.signal });
    return attempt.job.state === "ended" ? "has ended the job" : "has given the job back";
  } catch (error) {
    if (!(error instanceof Fenced) && !over.signal.aborted && !place.closed.aborted) throw error;
    return "is over: its node was taken for dead, or the job was taken away";
  } finally {
    following.end();
    signal.removeEventListener("abort", stop);
    place.closed.removeEventListener("abort", giveUp);
    over.abort();
    rmSync(run, { recursive: true, force: true });
  }
}

/** Says in each write what went over the network by then, with all attempts. */
function countedBy(meter: Meter, attempt: Attempt): Attempt {
  const before = attempt.job.traffic;
  return {
    number: attempt.number,
    get job() {
      return attempt.job;
    },
    write: (change) => attempt.write({ ...change, traffic: addTraffic(before, meter.traffic) }),
  };
}

interface Work {
  readonly run: string;
  readonly fence: { readonly path: string; readonly attempt: number };
  readonly teller: Teller;
  /** The attempt is over. */
  readonly over: AbortSignal;
  /** The child is to save and end. */
  readonly stopping: AbortSignal;
}

/** @throws {Fenced} */
async function work(
  place: Workplace,
  attempt: Attempt,
  meter: Meter,
  { run, fence, teller, over, stopping }: Work,
): Promise<void> {
  const key = keyOf(attempt.job);
  const sent = new Map(attempt.job.run.map((file) => [file.path, file]));
  let dropped: StoredFile[] = [];
  /** Puts the run folder as it is now into the fleet. */
  const save = async (change: Partial<JobRecord>): Promise<void> => {
    const way = meter.passage(change.state === "ended" ? "results" : "checkpoints", "sent", over);
    const files = existsSync(run) ? await saveRun(place.runs, key, run, sent, way) : attempt.job.run;
    const before = attempt.job.run;
    const kept = new Set(files.map(({ sha256 }) => sha256));
    const told = (await teller.flush()) || attempt.job.told;
    await attempt.write({ run: files, told, processor: place.processor, ...change });
    // What nobody reads any more: those who were reading it see the new list first.
    for (const file of dropped) if (!kept.has(file.sha256)) await place.runs.delete(objectOf.run(key, file)).catch(() => {});
    dropped = before.filter(({ sha256 }) => !kept.has(sha256));
  };
  let saving = Promise.resolve();
  let failed: unknown = null;
  /** The newest checkpoint that waits to be sent. */
  let wanted: number | null = null;
  const saveSoon = (step: number): void => {
    const isWaiting = wanted !== null;
    wanted = step;
    if (isWaiting) return;
    saving = saving.then(async () => {
      const at = wanted!;
      wanted = null;
      await save({ step: at, suddenEnds: 0 });
    });
    saving.catch((error: unknown) => (failed ??= error));
  };
  try {
    const { config, given } = await prepare(place, attempt.job, run, meter, over);
    // What was fetched is told before the first checkpoint.
    await attempt.write({});
    const result = await place.train(config, given, {
      under: Bun.which("nice") === null ? [] : ["nice", "-n", "19"],
      fence,
      signal: stopping,
      sink(event) {
        teller.tell(event);
        if (event.type === "checkpoint") saveSoon(event.step);
      },
    });
    await saving;
    if (failed !== null) throw failed;
    if (result.reason === "interrupted") {
      await save({});
      await attempt.write({ state: stateAfter(attempt) });
    } else await save({ state: "ended", step: result.step, result });
  } catch (error) {
    await saving.catch(() => {});
    over.throwIfAborted();
    if (error instanceof Fenced || isAway(error)) throw error;
    await settle(place, attempt, save, stopping, error);
  }
}

/** Returns what becomes of a job that has been saved. */
const stateAfter = ({ job }: Attempt): JobRecord["state"] => (job.isUnwanted ? "stopped" : "queued");

/** Writes down what an error makes of a job: it ends, or waits for a node again. */
async function settle(
  place: Workplace,
  attempt: Attempt,
  save: (change: Partial<JobRecord>) => Promise<void>,
  stopping: AbortSignal,
  error: unknown,
): Promise<void> {
  const { job } = attempt;
  const isFull = ["ENOSPC", "EDQUOT"].includes(systemCode(error) ?? "");
  if (isFull) place.onFull();
  const isInterrupted = error instanceof UserError && (error.exitCode !== 2 || stopping.aborted);
  if (isFull || isInterrupted || error instanceof BaseAway) {
    await attempt.write({ state: stateAfter(attempt) });
    return;
  }
  const suddenEnds = job.suddenEnds + 1;
  if (error instanceof SuddenEnd && suddenEnds <= MOST_SUDDEN_ENDS) {
    await save({ suddenEnds });
    await attempt.write({ state: "queued" });
    return;
  }
  await save({ state: "ended", failure: withoutPaths(failureOf(error, job.suddenEnds), place.home) });
}

function failureOf(error: unknown, before: number): JobFailure {
  if (error instanceof SuddenEnd) {
    const message = `${messageOf(error)}; so did ${before} before it, without having saved anything new`;
    return { message, exitCode: null, code: null, lastLines: error.lastLines };
  }
  const exitCode = error instanceof UserError ? error.exitCode : null;
  const lastLines = error instanceof Error && exitCode === null ? (error.stack ?? null) : null;
  return { message: messageOf(error), exitCode, code: systemCode(error), lastLines };
}

/** Fetches what a job needs, and makes its configuration. Paths are of this machine; everything else is what the front said. @throws {UserError} */
async function prepare(
  place: Workplace,
  job: JobRecord,
  run: string,
  meter: Meter,
  signal: AbortSignal,
): Promise<{ readonly config: TrainConfig; readonly given: readonly string[] }> {
  checkSettings(job.settings);
  const model = await place.bases.folderOf(job.base, meter.passage("bases", "received", signal));
  const way = meter.passage("data", "received", signal);
  const files: Partial<Record<(typeof FILE_KEYS)[number], string>> = {};
  for (const name of FILE_KEYS) {
    const file = job.files[name];
    if (file === undefined) continue;
    const path = join(place.home, "files", `${file.sha256}${extname(file.path)}`);
    if (!existsSync(path)) await getFile(place.files, objectOf.data(job.front, file), file, path, way);
    files[name] = path;
  }
  let adapter: string | undefined;
  if (job.adapter !== null) {
    adapter = join(place.home, "adapters", modelId(job.adapter));
    for (const file of job.adapter) {
      const path = join(adapter, basename(file.path));
      if (!existsSync(path)) await getFile(place.files, objectOf.data(job.front, file), file, path, way);
    }
  }
  await restoreRun(place.runs, keyOf(job), job.run, run, meter.passage("checkpoints", "received", signal));
  const resume = savedCheckpoints(run).length > 0;
  const parsed = trainConfigSchema.parse({
    ...job.settings,
    ...files,
    ...(adapter !== undefined && { adapter }),
    model,
    output: run,
    resume,
    overwrite: !resume,
    ...(job.isElastic && { memory: `${Math.floor(place.memory / 2 ** 20)}MiB` }),
  });
  return { config: parsed, given: job.given };
}
