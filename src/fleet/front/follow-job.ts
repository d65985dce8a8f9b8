import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { SeqMsgRequest } from "@nats-io/jetstream";
import { UserError } from "../../base/errors.ts";
import { writeTextAtomic } from "../../base/files/files.ts";
import type { Job } from "../../jobs/job-store.ts";
import { DETACH } from "../../jobs/queue.ts";
import type { ApartOptions } from "../../train/apart/train-apart.ts";
import type { TrainConfig } from "../../train/config.ts";
import type { RunEvent } from "../../train/run/events.ts";
import type { RunResult } from "../../train/run/run.ts";
import type { Fleet } from "../fleet.ts";
import type { Dispatch } from "./dispatch.ts";
import type { Member } from "../members.ts";
import { STREAMS, SUBJECTS } from "../names.ts";
import { restoreRun } from "../objects.ts";
import { whyNowhere } from "../placement.ts";
import { amend, type JobFailure, type JobRecord, keyOf, persistently, readEntry, type Told, withPaths } from "../records.ts";

/** Options of a job that the fleet trains. */
export type Trained = ApartOptions & { readonly job: Job };

export type FrontTrain = (config: TrainConfig, given: readonly string[], options: Trained) => Promise<RunResult>;

/** What a front has for every job. */
export interface FrontPlace {
  readonly fleet: Fleet;
  members(): readonly Member[];
  readonly dispatch: Dispatch;
  /** The folder of what the front remembers. */
  readonly folder: string;
  /** The front ends. */
  readonly closing: AbortSignal;
}

interface Following extends Trained {
  /** Puts what a node needs into the object store. */
  supply(job: JobRecord): Promise<void>;
}

/** Milliseconds between two looks at a job of which nothing is heard. */
const LOOK_MS = 2000;
/** Milliseconds for which a job has waited for a node when it is told why. */
const WAIT_MS = 3000;
/** Milliseconds that the last events of a job are waited for. */
const EVENTS_MS = 10_000;

/**
 * Puts a job into the fleet, or finds it there, and follows it until it has ended, been saved, or been left to the next start of the front. In one piece: its
 * functions share what was last seen of the job.
 * @param output the run folder, which gets what the fleet has
 * @throws as `runApart`
 */
export async function followJob(place: FrontPlace, fresh: JobRecord, output: string, options: Following): Promise<RunResult> {
  const { fleet, closing } = place;
  const { sink = () => {}, signal } = options;
  const { jobs } = fleet.buckets;
  const key = keyOf(fresh);
  // The folder of the front lies in its home.
  const home = dirname(place.folder);
  const leave = () => new UserError("the front ends; the job goes on in the fleet", 130);
  const isDetached = () => closing.aborted || signal?.reason === DETACH;
  const ending = AbortSignal.any([closing, detachedBy(signal)]);
  try {
    const entered = await enter(place, fresh, options, ending);
    const events = createReader(place, fresh, home, sink);
    let latest: JobRecord | null | undefined;
    let isNew = false;
    let wake = Promise.withResolvers<void>();
    const notify = () => wake.resolve();
    const unwatch = place.dispatch.watch(fresh.job, (record, revision) => {
      // What it was before this following began may still be on its way.
      if (record === null || revision >= entered) latest = record;
      isNew = true;
      notify();
    });
    signal?.addEventListener("abort", notify);
    let restored = "";
    let traffic = "";
    let waitingSince = performance.now();
    let isTold = false;
    try {
      for (;;) {
        await Promise.race([wake.promise, Bun.sleep(LOOK_MS)]);
        wake = Promise.withResolvers();
        if (isDetached()) throw leave();
        const record = latest;
        if (record === undefined) continue;
        if (record === null) throw new Error(`${key} was removed from the fleet`);
        if (isNew) {
          isNew = false;
          await events.read(ending, record.attempt);
        }
        if (JSON.stringify(record.traffic) !== traffic)
          writeTextAtomic(trafficFile(place.folder, fresh.job), (traffic = JSON.stringify(record.traffic)));
        const isOver = record.state === "ended" || record.state === "stopped";
        const list = JSON.stringify(record.run);
        if (list !== restored && (await bring(fleet, record, output, isOver, ending))) restored = list;
        if (isOver) {
          await events.readTo(record.told, ending);
          if (record.state === "stopped") throw new UserError("the job was stopped", 130);
          if (record.failure !== null) throw errorOf(withPaths(record.failure, home));
          return record.result!;
        }
        if (signal?.aborted === true && (!record.isUnwanted || record.state === "queued"))
          await persistently(() => amend<JobRecord>(jobs, key, unwanted), ending);
        if (record.state !== "queued") waitingSince = performance.now();
        if (performance.now() - waitingSince < WAIT_MS || isTold) continue;
        const why = whyNowhere(record, place.members());
        if (why === null) continue;
        sink({ type: "warning", text: why });
        isTold = true;
      }
    } finally {
      unwatch();
      signal?.removeEventListener("abort", notify);
    }
  } catch (error) {
    throw isDetached() ? leave() : error;
  }
}

/** The file of what was last known of a job's traffic. */
export const trafficFile = (folder: string, job: string): string => join(folder, `${job}.traffic.json`);

/** Puts a job into the fleet, or has one go on that was saved. @returns the revision of its record from which on it says how it goes */
async function enter({ fleet }: FrontPlace, fresh: JobRecord, options: Following, ending: AbortSignal): Promise<number> {
  const { jobs } = fleet.buckets;
  const key = keyOf(fresh);
  const found = await persistently(() => readEntry<JobRecord>(jobs, key), ending);
  if (found === null) {
    await options.supply(fresh);
    // An answer that was lost leaves it there.
    const create = async () => (await readEntry(jobs, key))?.revision ?? jobs.create(key, JSON.stringify(fresh));
    return persistently(create, ending);
  }
  const wanted = (job: JobRecord): JobRecord | null => {
    if (job.state !== "stopped" && !job.isUnwanted) return null;
    return { ...job, isUnwanted: false, state: job.state === "stopped" ? "queued" : job.state };
  };
  return (await persistently(() => amend<JobRecord>(jobs, key, wanted), ending))?.revision ?? found.revision;
}

/** A job that is to stop: one that no node has is stopped at once. */
const unwanted = (job: JobRecord): JobRecord | null => {
  if (job.state === "ended" || job.state === "stopped") return null;
  return { ...job, isUnwanted: true, state: job.state === "queued" ? "stopped" : job.state };
};

/** A signal that is aborted when another one is, for the reason that its jobs go on without it. */
function detachedBy(signal: AbortSignal | undefined): AbortSignal {
  const detached = new AbortController();
  const look = () => {
    if (signal?.reason === DETACH) detached.abort(DETACH);
  };
  signal?.addEventListener("abort", look, { once: true });
  if (signal?.aborted === true) look();
  return detached.signal;
}

/** Brings a run folder's files. @returns false: some were gone in the meantime, since there are newer ones */
async function bring(fleet: Fleet, job: JobRecord, output: string, isOver: boolean, signal: AbortSignal): Promise<boolean> {
  if (job.run.length === 0) return true;
  try {
    await restoreRun(fleet.runs, keyOf(job), job.run, output, { signal });
    return true;
  } catch (error) {
    if (!isOver && error instanceof UserError && error.exitCode === 2) return false;
    throw error;
  }
}

/** Reads what nodes tell of a job, from where the front was. */
function createReader({ fleet, folder }: FrontPlace, job: JobRecord, home: string, sink: (event: RunEvent) => void) {
  const path = join(folder, job.job);
  const subject = SUBJECTS.events(job.front, job.job);
  let seen = existsSync(path) ? Number(readFileSync(path, "utf8")) : 0;
  let attempt = 0;
  const read = async (signal: AbortSignal, newest = 0): Promise<void> => {
    const before = seen;
    for (;;) {
      const message = await persistently(
        () => fleet.manager.streams.getMessage(STREAMS.events.name, { seq: seen + 1, next_by_subj: subject } as SeqMsgRequest),
        signal,
      );
      if (message === null) break;
      seen = message.seq;
      const told = withPaths(message.json<Told>(), home);
      // A node that was taken for dead and tells what it did since then.
      if (told.attempt < Math.max(attempt, newest)) continue;
      if (told.attempt > attempt)
        sink({ type: "message", text: `Node ${told.node} runs the job (attempt ${told.attempt} in the fleet)` });
      attempt = told.attempt;
      for (const event of told.events) sink(event);
    }
    if (seen !== before) writeTextAtomic(path, String(seen));
  };
  return {
    read,
    /** Reads at least up to a message, unless it does not come. */
    async readTo(number: number, signal: AbortSignal): Promise<void> {
      const until = performance.now() + EVENTS_MS;
      for (await read(signal); seen < number && performance.now() < until; await read(signal)) await Bun.sleep(50);
    },
  };
}

function errorOf({ message, exitCode, code, lastLines }: JobFailure): Error {
  if (exitCode !== null) return new UserError(message, exitCode, code === null ? undefined : { cause: { code } });
  const error = new Error(message);
  if (lastLines !== null) error.stack = lastLines;
  return error;
}
