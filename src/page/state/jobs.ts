import { get } from "../api/client.ts";
import type { Job, JobEvent, Page } from "../api/types.ts";
import { type Connection, followEvents } from "./event-feed.ts";

/** All jobs, as they are at the moment: kept so by the server's events, and asked for again when the server was away. */
export interface Jobs {
  /** Newest first. */
  list(): readonly Job[];
  get(id: string): Job | null;
  readonly isLoaded: boolean;
  readonly connection: Connection;
  /** Takes a job as the server has just answered with it. */
  put(job: Job): void;
  /** Calls back when jobs or the connection have changed; returns what ends that. */
  watch(onChange: () => void): () => void;
  /** Calls back for each event of a job as it comes. */
  watchEvents(job: string, onEvent: (event: JobEvent) => void): () => void;
}

/** Jobs that are asked for at a time, and at most. */
const PAGE = 100;
const MOST_JOBS = 2000;

/** Milliseconds that a change waits for others, before what has changed is asked for or shown. */
const GATHER_MS = 100;
export function createJobs(): Jobs {
  const jobs = new Map<string, Job>();
  const watchers = new Set<() => void>();
  const eventWatchers = new Map<string, Set<(event: JobEvent) => void>>();
  const stale = new Set<string>();
  let order: readonly Job[] = [];
  let isLoaded = false;
  let connection: Connection = "lost";
  let isTelling = false;

  const tell = () => {
    if (isTelling) return;
    isTelling = true;
    requestAnimationFrame(() => {
      isTelling = false;
      order = [...jobs.values()].sort((a, b) => b.created_at - a.created_at || (a.id < b.id ? 1 : -1));
      for (const watcher of watchers) watcher();
    });
  };
  const put = (job: Job) => {
    jobs.set(job.id, job);
    tell();
  };

  const load = async () => {
    const found: Job[] = [];
    for (let after: string | null = null; found.length < MOST_JOBS;) {
      const page: Page<Job> = await get(`v1/fine_tuning/jobs?limit=${PAGE}${after === null ? "" : `&after=${after}`}`);
      found.push(...page.data);
      after = page.last_id;
      if (!page.has_more) break;
    }
    jobs.clear();
    for (const job of found) jobs.set(job.id, job);
    isLoaded = true;
    tell();
  };

  const refresh = (id: string) => {
    if (stale.has(id)) return;
    stale.add(id);
    setTimeout(async () => {
      stale.delete(id);
      try {
        put(await get<Job>(`v1/fine_tuning/jobs/${id}`));
      } catch {
        // The stream tells when the server is gone.
      }
    }, GATHER_MS);
  };

  const take = (event: JobEvent) => {
    const id = event.fine_tuning_job_id;
    const job = jobs.get(id);
    const { data } = event;
    if (event.type === "metrics" && job && typeof data?.["train_loss"] === "number") put(withStep(job, data));
    if (event.type === "message" || !job) refresh(id);
    for (const tellEvent of eventWatchers.get(id) ?? []) tellEvent(event);
  };

  followEvents({
    // Behind the opening of the stream: nothing that happens in between is missed.
    onOpen: load,
    onEvent: take,
    onConnection(now) {
      connection = now;
      tell();
    },
  });

  return {
    list: () => order,
    get: (id) => jobs.get(id) ?? null,
    get isLoaded() {
      return isLoaded;
    },
    get connection() {
      return connection;
    },
    put,
    watch(onChange) {
      watchers.add(onChange);
      return () => void watchers.delete(onChange);
    },
    watchEvents(job, onEvent) {
      const all = eventWatchers.get(job) ?? new Set();
      eventWatchers.set(job, all.add(onEvent));
      return () => void all.delete(onEvent);
    },
  };
}

/** A job after a step that an event tells of. */
function withStep(job: Job, data: Readonly<Record<string, unknown>>): Job {
  const number = (name: string) => (typeof data[name] === "number" ? data[name] : null);
  const left = number("seconds_left");
  const { remat } = job;
  return {
    ...job,
    estimated_finish: left === null ? job.estimated_finish : Math.floor(Date.now() / 1000 + left),
    remat: {
      ...remat,
      step: Math.max(number("step") ?? 0, remat.step),
      loss: number("train_loss"),
      tokens_per_second: number("tokens_per_second"),
      memory: { ...remat.memory, planned: number("memory") ?? remat.memory.planned },
    },
  };
}
