import { existsSync, readFileSync, rmSync } from "node:fs";
import { formatBytes } from "../base/bytes.ts";
import { messageOf, systemCode, UserError } from "../base/errors.ts";
import { writeTextAtomic } from "../base/files/files.ts";
import { type ApartOptions, CHILD, SuddenEnd } from "../train/apart/train-apart.ts";
import type { TrainConfig } from "../train/config.ts";
import { savedCheckpoints } from "../train/run/checkpoint.ts";
import { lineOf, type RunEvent } from "../train/run/events.ts";
import { IN_USE, lockHolder } from "../train/run/lock.ts";
import type { MemoryControl } from "../train/run/memory-control.ts";
import type { RunResult } from "../train/run/run.ts";
import { formatSummary } from "../schedule/summary.ts";
import type { EventLog } from "./events.ts";
import { isFull } from "./home/database.ts";
import { now } from "./home/home.ts";
import { forClients, type JobPlaces, trainConfigOf } from "./job-config.ts";
import type { Job, JobChange, JobError } from "./job-store.ts";
import { metricsEvent, type MetricsLine, metricsTable, readMetrics, trainedTokens } from "./metrics.ts";
import { trimRuns } from "./retention.ts";

/** Trains as `runApart` does, for a job. */
export type Train = (
  config: TrainConfig,
  given: readonly string[],
  options: ApartOptions & { readonly job: Job },
) => Promise<RunResult>;

/** How far a job is that trains. */
export interface Progress {
  readonly step: number;
  readonly steps: number;
  readonly secondsLeft: number;
  readonly tokensPerSecond: number;
  /** Bytes: the greatest so far of what is planned. */
  readonly memory: number;
  readonly loss: number;
  /** Bytes that its process may take now; null: it says that itself, or has not begun. */
  readonly limit: number | null;
}

/** A job that has been started. */
export interface Started {
  readonly controller: AbortController;
  /** Changes its limit of memory; null: the job says that itself. */
  readonly memoryControl: MemoryControl | null;
  progress: Progress | null;
  /** Bytes that its process may take, as far as it has told. */
  limit?: number | null;
}

export interface WorkerOptions {
  readonly places: JobPlaces;
  readonly events: EventLog;
  readonly keepRuns: number | null;
  readonly train: Train;
  readonly retryMs: number;
  readonly control: {
    /** Has no job start until there is room on the disk. @param job is told */
    halt(why: string, job: Job | null): void;
    /** Has the job wait before it is started again, the longer the more `times` that was so. */
    postpone(job: Job, times: number): void;
  };
}

/** Processes of a job that may end without a word in a row, having saved nothing new. */
const MOST_SUDDEN_ENDS = 10;

export function isDiskFull(error: unknown): boolean {
  return isFull(error) || ["ENOSPC", "EDQUOT", "SQLITE_FULL"].includes(systemCode(error) ?? "");
}

/**
 * Makes what trains one job, from its start until its process has ended, and writes down what became of it. The budget is the bytes that
 * the process may take at first; null: it was told to end before there were any. In one piece: its functions share how a job is written about.
 */
export function createWorker(options: WorkerOptions): (job: Job, budget: number | null, started: Started) => Promise<void> {
  const { places, events, train, retryMs, control } = options;
  const { home, jobs, files } = places;
  const priority = Bun.which("nice") === null ? [] : ["nice", "-n", "19"];

  /** Writes something about a job; where the disk is full, as soon as it is not. Nothing else happens to the job in the meantime. */
  const persist = async <T>(write: () => T): Promise<T> => {
    for (;;) {
      try {
        return home.database.transaction(write)();
      } catch (error) {
        if (!isDiskFull(error)) throw error;
        control.halt("the disk is full", null);
        await Bun.sleep(retryMs * 4);
      }
    }
  };
  const change = (job: Job, value: JobChange) => persist(() => jobs.change(job.id, value, job.attempt));

  /** Tells what a run folder has of steps that were not told: the server may have been killed before it heard of them. */
  const tellMissed = (job: Job): void => {
    for (const line of readMetrics(home.runOf(job.id))) events.add(job.id, metricsEvent(line));
    events.flush();
  };

  /** The job has saved what it has, and waits again unless it has been cancelled. */
  const back = async (job: Job): Promise<void> => {
    await change(job, { status: "queued" });
    const { paused } = jobs.get(job.id)!;
    events.add(job.id, { message: paused ? "The job is paused" : "The job has saved its state, and goes on later" });
  };

  const succeed = async (job: Job, { step }: RunResult): Promise<void> => {
    const lines = readMetrics(home.runOf(job.id));
    const table = new TextEncoder().encode(metricsTable(lines));
    await persist(() => {
      const results = files.begin();
      results.write(table);
      const file = results.finish({ filename: `${job.id}-metrics.csv`, purpose: "fine-tune-results", lifetime: null });
      const ended = { status: "succeeded", finished_at: now(), paused: false } as const;
      jobs.change(job.id, { ...ended, step, trained_tokens: trainedTokens(lines), result_file: file.id }, job.attempt);
    });
    events.add(job.id, { message: `New fine-tuned model: ${job.name}`, data: { fine_tuned_model: job.name } });
    events.add(job.id, { message: "The job has successfully completed" });
    close(job);
  };

  const lose = async (job: Job, error: JobError): Promise<void> => {
    await change(job, { status: "failed", finished_at: now(), error, paused: false });
    events.add(job.id, { level: "error", message: `The job has failed: ${error.message}`, data: { error } });
    close(job);
  };

  /** A job that has ended needs no fence, and may push an older one out. */
  const close = (job: Job): void => {
    events.flush();
    rmSync(home.fenceOf(job.id), { force: true });
    trimRuns(places, options.keepRuns);
  };

  const later = async (job: Job, times: number): Promise<void> => {
    control.postpone(job, times);
    await change(job, { status: "queued" });
  };

  const fail = async (job: Job, { controller }: Started, error: unknown): Promise<void> => {
    if (isDiskFull(error)) {
      control.halt("the disk is full", job);
      await change(job, { status: "queued" });
      return;
    }
    if (error instanceof UserError) {
      // It was told to end before it had begun, or another process has not let go of the folder yet.
      if (error.exitCode !== 2 || controller.signal.aborted) return back(job);
      if (systemCode(error) === IN_USE) return later(job, 1);
      return lose(job, { code: "training_failed", message: forClients(places, error.message), param: null });
    }
    const lines = error instanceof SuddenEnd ? error.lastLines : error instanceof Error ? (error.stack ?? "") : "";
    const message = forClients(places, messageOf(error));
    for (const line of lines.split("\n").filter((text) => text.trim() !== ""))
      events.add(job.id, { level: "warn", message: forClients(places, line) });
    if (!(error instanceof SuddenEnd)) return lose(job, { code: "internal_error", message, param: null });
    const count = (jobs.get(job.id)?.sudden_ends ?? 0) + 1;
    if (count > MOST_SUDDEN_ENDS) {
      const text = `${message}; so did ${count - 1} before it, without having saved anything new`;
      return lose(job, { code: "process_ended", message: text, param: null });
    }
    events.add(job.id, { level: "warn", message: `${message}; the job goes on from its last checkpoint` });
    await change(job, { sudden_ends: count });
    await later(job, count);
  };

  return async (waiting, budget, started) => {
    const run = home.runOf(waiting.id);
    await endOrphan(run, (pid) =>
      events.add(waiting.id, { message: `The job waits for process ${pid}, which works in its run folder` }),
    );
    const attempt = waiting.attempt + 1;
    const job: Job = { ...waiting, attempt };
    const fence = { path: home.fenceOf(job.id), attempt };
    writeTextAtomic(fence.path, String(attempt));
    const { signal } = started.controller;
    // Whoever paused or cancelled the job in the meantime found no process to stop.
    const found = jobs.get(job.id);
    if (found?.status !== "queued" || found.paused || signal.aborted) return;
    jobs.change(job.id, { status: "running", attempt, started_at: job.started_at ?? now() });
    tellMissed(job);
    const { memoryControl } = started;
    const budgeted = memoryControl !== null && budget !== null ? { memory: `${Math.floor(budget / 2 ** 20)}MiB` } : {};
    const limit = "memory" in budgeted ? `, with ${formatBytes(budget!)} of memory` : "";
    events.add(job.id, { message: `${attempt === 1 ? "The job has started" : `Attempt ${attempt} has started`}${limit}` });
    // Of a job that was cancelled while it trained nothing else is written down.
    const isCancelled = () => jobs.get(job.id)?.status !== "running";
    try {
      const { config, given } = trainConfigOf(places, run, job.config);
      const resume = savedCheckpoints(run).length > 0;
      const result = await train({ ...config, resume, overwrite: !resume, ...budgeted }, given, {
        job,
        under: priority,
        memoryControl: memoryControl ?? undefined,
        fence,
        signal,
        sink: (event) => hear(options, job, started, event),
      });
      tellMissed(job);
      if (isCancelled()) return;
      if (result.reason === "interrupted") await back(job);
      else await succeed(job, result);
    } catch (error) {
      tellMissed(job);
      if (!isCancelled()) await fail(job, started, error);
    } finally {
      events.flush();
    }
  };
}

/** Writes down what a job's process tells. */
function hear({ places, events }: WorkerOptions, job: Job, started: Started, event: RunEvent): void {
  const tell = (message: string, more: { level?: "warn"; data?: Readonly<Record<string, unknown>> } = {}) =>
    events.add(job.id, { message: forClients(places, message), ...more });
  switch (event.type) {
    case "step":
      started.progress = { ...event, limit: started.limit ?? null };
      events.add(job.id, metricsEvent(lineOf(event) as MetricsLine));
      return;
    case "evaluation":
      events.add(job.id, metricsEvent(lineOf(event) as MetricsLine));
      return;
    case "start": {
      const { device, strategy, predictedPeak, withoutCheckpointing, limitBytes, parameters, tokens, notes } = event;
      started.limit = limitBytes;
      const plan = { device, strategy, predicted_peak: predictedPeak, without_checkpointing: withoutCheckpointing };
      tell(`${job.base} trains on ${device}`, { data: { ...plan, limit: limitBytes, parameters, tokens } });
      notes.forEach((note) => tell(note));
      return;
    }
    case "resume":
      return tell(`The job goes on after step ${event.step}`);
    case "checkpoint":
      places.jobs.change(job.id, { step: event.step, sudden_ends: 0 }, job.attempt);
      return tell(`Checkpoint of step ${event.step} is saved`, { data: { step: event.step } });
    case "memory": {
      const { asked, limit, returned, schedule, predictedPeak } = event;
      started.limit = limit;
      const text = `The job trains with ${formatBytes(limit)} of memory from now on: ${formatSummary(schedule)}`;
      return tell(text, { data: { asked, limit, returned, predicted_peak: predictedPeak } });
    }
    case "warning":
      return tell(event.text, { level: "warn" });
    case "message":
      return tell(event.text);
    case "sample":
      return tell("The model's answer to a held-out prompt", { data: { ...event } });
    case "stop":
    case "done":
    case "download":
    case "prepare":
    case "estimate":
  }
}

/** Milliseconds that a process of an earlier server has to save and end. */
const FAREWELL_MS = 30_000;
/** Milliseconds between two looks at whether it has. */
const LOOK_MS = 20;

/**
 * Waits until no process is at work in a run folder. One that an earlier server has left is asked to save what it has, and killed if it does not
 * end; anybody else's is waited for.
 */
async function endOrphan(run: string, onOther: (pid: number) => void): Promise<void> {
  if (!existsSync(run)) return;
  const begin = performance.now();
  let isTold = false;
  for (let pid = lockHolder(run); pid !== null; pid = lockHolder(run)) {
    if (pid === process.pid) return;
    const isOurs = isChild(pid);
    const isLate = performance.now() - begin > FAREWELL_MS;
    if (!isTold && !isOurs) onOther(pid);
    try {
      if (isOurs && (isLate || !isTold)) process.kill(pid, isLate ? "SIGKILL" : "SIGTERM");
    } catch {
      // It has ended in the meantime.
    }
    isTold = true;
    await Bun.sleep(LOOK_MS);
  }
}

/** Tells whether a process was started to train for another one, where that can be known. */
function isChild(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").includes(CHILD);
  } catch {
    return false;
  }
}
