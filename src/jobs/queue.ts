import { statfsSync } from "node:fs";
import { formatBytes } from "../base/bytes.ts";
import { messageOf } from "../base/errors.ts";
import { runApart } from "../train/apart/train-apart.ts";
import { createMemoryControl, type MemoryControl } from "../train/run/memory-control.ts";
import type { EventLog } from "./events.ts";
import { now } from "./home/home.ts";
import type { JobPlaces } from "./job-config.ts";
import type { Job } from "./job-store.ts";
import { type Ledger, needOf } from "./ledger.ts";
import { createWorker, isDiskFull, type Progress, type Started, type Train } from "./worker.ts";

/** The reason of a signal by which the server leaves its jobs: where they train on other machines, they go on. */
export const DETACH = "the server ends";

export interface QueueOptions {
  readonly places: JobPlaces;
  readonly events: EventLog;
  readonly ledger: Ledger;
  /** Jobs that may train at a time. */
  readonly parallel: number;
  /** Ended jobs whose run folders are kept whole; null: all. */
  readonly keepRuns: number | null;
  /** Trains (default: in a process of its own, at the lowest priority). */
  readonly train?: Train | undefined;
  /** Jobs train on other machines: they need no memory of this one, and each of them is followed. */
  readonly isElsewhere?: boolean | undefined;
  /** Bytes that are free on the home's disk. */
  readonly freeDisk?: (() => number) | undefined;
  /** Milliseconds of the first pause behind something that is tried again. */
  readonly retryMs?: number | undefined;
}

/** The jobs that train and those that wait, first come, first served. */
export interface Queue {
  /** Goes on with what an earlier server left. */
  start(): void;
  /** A job has come, or something has changed that it waits for. */
  wake(): void;
  pause(job: Job): void;
  resume(job: Job): void;
  cancel(job: Job): void;
  progressOf(job: string): Progress | null;
  /** Why no job is started; null: jobs are. */
  readonly halted: string | null;
  /** Has the jobs that train save and end; they go on at the next start. */
  drain(): Promise<void>;
}

/** A job that has been started, until its process has ended. */
interface Active extends Started {
  done: Promise<void>;
}

/** Bytes that have to be free on the disk for a job to be started. */
const LEAST_DISK = 64 << 20;
/** Milliseconds between two looks at a disk that is full. */
const DISK_MS = 10_000;
/** Milliseconds of the first pause behind something that is tried again, and of the longest. */
const RETRY_MS = 250;
const LONGEST_RETRY_MS = 30_000;

/**
 * Starts jobs. In one piece: its functions share what is known of the jobs that train, and of the disk.
 */
export function createQueue(options: QueueOptions): Queue {
  const { places, events, ledger, parallel, train = runApart, retryMs = RETRY_MS } = options;
  const { home, jobs } = places;
  const { freeDisk = () => freeBytes(home.folder), isElsewhere = false } = options;
  const active = new Map<string, Active>();
  /** Jobs that are not started before a time, in milliseconds. */
  const notBefore = new Map<string, number>();
  /** Jobs that were told that they wait for memory. */
  const told = new Set<string>();
  let halted: string | null = null;
  let isDraining = false;
  let timer: ReturnType<typeof setTimeout> | null = null;

  const wakeIn = (ms: number) => {
    if (timer !== null || isDraining) return;
    timer = setTimeout(() => {
      timer = null;
      wake();
    }, ms);
  };

  const halt = (why: string, job: Job | null) => {
    if (job !== null)
      events.add(job.id, { level: "warn", message: `The queue is paused: ${why}. It goes on when there is room.` });
    halted = why;
    wakeIn(Math.min(DISK_MS, retryMs * 40));
  };

  const wake = (): void => {
    if (isDraining) return;
    if (halted !== null || active.size < parallel) {
      const free = freeDisk();
      if (free < LEAST_DISK) {
        const [next] = jobs.withStatus("queued").filter((job) => !job.paused && !active.has(job.id));
        if (next) halt(`${formatBytes(free)} are free on the disk of the home`, halted === null ? next : null);
        return;
      }
      if (halted !== null) {
        halted = null;
        for (const job of jobs.withStatus("queued"))
          events.add(job.id, { message: "The queue goes on: there is room on the disk." });
      }
    }
    for (const job of jobs.withStatus("queued")) {
      if (active.size >= parallel) return;
      if (job.paused || active.has(job.id)) continue;
      const wait = (notBefore.get(job.id) ?? 0) - Date.now();
      if (wait > 0) {
        wakeIn(wait);
        continue;
      }
      if (isElsewhere) {
        begin(job, Promise.resolve(null), null);
        continue;
      }
      const need = needOf(job.examination.memory, ledger.mostForJobs);
      const memoryControl = job.examination.memory.asked === null ? createMemoryControl() : null;
      const budget = ledger.admit(job.id, need, memoryControl);
      if (budget === null) {
        if (!told.has(job.id)) {
          const text = `The job waits for memory: it needs ${formatBytes(need.least)}, and of ${formatBytes(ledger.limit)} others need all but ${formatBytes(ledger.unpromised)}.`;
          events.add(job.id, { message: text });
        }
        told.add(job.id);
        // Those behind it wait too: else small jobs could keep it waiting for ever.
        return;
      }
      told.delete(job.id);
      begin(job, budget, memoryControl);
    }
  };

  const postpone = (job: Job, times: number) => {
    notBefore.set(job.id, Date.now() + Math.min(LONGEST_RETRY_MS, retryMs * 2 ** (times - 1)));
  };
  const work = createWorker({ ...options, train, retryMs, control: { halt, postpone } });

  const begin = (job: Job, budget: Promise<number | null>, memoryControl: MemoryControl | null): void => {
    const controller = new AbortController();
    const started: Active = { controller, memoryControl, done: Promise.resolve(), progress: null };
    active.set(job.id, started);
    // Whoever is told to end does not wait until others have given way.
    const stopped = new Promise<null>((resolve) => controller.signal.addEventListener("abort", () => resolve(null)));
    const end = () => {
      active.delete(job.id);
      if (!isElsewhere) ledger.release(job.id);
      wake();
    };
    const worked = Promise.race([budget, stopped]).then((bytes) => work(job, bytes, started));
    started.done = worked.then(end, (error: unknown) => {
      if (isDiskFull(error)) halt("the disk is full", job);
      else {
        // A bug of this process, not the job's: it stays in the queue.
        events.add(job.id, { level: "error", message: `internal error: ${messageOf(error)}` });
        postpone(job, Infinity);
      }
      end();
    });
  };

  return {
    start() {
      for (const job of jobs.withStatus("running")) {
        jobs.change(job.id, { status: "queued" });
        events.add(job.id, { message: "The server has started again; the job goes on from its last checkpoint" });
      }
      wake();
    },
    wake,
    pause(job) {
      jobs.change(job.id, { paused: true });
      const started = active.get(job.id);
      events.add(job.id, { message: started ? "The job saves its state, to be paused" : "The job is paused" });
      events.flush();
      started?.controller.abort();
    },
    resume(job) {
      jobs.change(job.id, { paused: false });
      events.add(job.id, { message: "The job is resumed" });
      events.flush();
      wake();
    },
    cancel(job) {
      jobs.change(job.id, { status: "cancelled", finished_at: now(), paused: false });
      events.add(job.id, { message: "The job is cancelled; its checkpoints are kept" });
      events.flush();
      active.get(job.id)?.controller.abort();
      wake();
    },
    progressOf: (job) => active.get(job)?.progress ?? null,
    get halted() {
      return halted;
    },
    async drain() {
      isDraining = true;
      if (timer !== null) clearTimeout(timer);
      for (const { controller } of active.values()) controller.abort(DETACH);
      await Promise.all([...active.values()].map(({ done }) => done));
      events.flush();
    },
  };
}

function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}
