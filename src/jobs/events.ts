import type { Database } from "bun:sqlite";
import type { Page, PageQuery } from "./home/files.ts";
import { commitLazily, isFull, trimLog } from "./home/database.ts";
import { now } from "./home/home.ts";

/** Something that happened to a job. */
export interface JobEvent {
  /** Grows from event to event, over all jobs. */
  readonly number: number;
  readonly job: string;
  readonly created_at: number;
  readonly level: "info" | "warn" | "error";
  readonly type: "message" | "metrics";
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>> | null;
}

export interface NewEvent extends Pick<JobEvent, "message"> {
  readonly level?: JobEvent["level"];
  readonly type?: JobEvent["type"];
  readonly data?: JobEvent["data"];
  /** There is one event of a kind for a step of a job: one that is told again, after the job went on from a checkpoint, is the same. */
  readonly once?: { readonly kind: "step" | "evaluation"; readonly step: number };
}

type Measured = NonNullable<NewEvent["once"]>["kind"];

/** Says which numbers of a job's steps are wanted. */
export interface NumbersQuery {
  readonly job: string;
  readonly kind: Measured;
  /** The step behind which they begin. */
  readonly behind: number;
  readonly limit: number;
  /** Only each so-manieth step, and the first one. */
  readonly every: number;
  readonly names: readonly string[];
}

export interface EventLog {
  /** Written with others after a moment, in their order. */
  add(job: string, event: NewEvent): void;
  /** Writes what waits. */
  flush(): void;
  /** The number of the newest event; 0: there is none. */
  newest(): number;
  /** Events of a job, or of all jobs (null), behind one, oldest first. */
  behind(job: string | null, number: number, limit: number): JobEvent[];
  /** Newest first. @param type of the events (default: all) */
  list(job: string | null, query: PageQuery & { readonly type?: JobEvent["type"] | undefined }): Page<JobEvent>;
  /** Numbers of steps or evaluations behind one, by their names in the events' data, in the order of the steps; the step itself goes first. */
  numbers(query: NumbersQuery): (number | null)[][];
  /** Calls back when a job, or any one (null), has new events; returns what ends that. */
  watch(job: string | null, onNew: () => void): () => void;
}

/** Milliseconds that events wait for others to be written with them: a commit takes a synced write. */
const GATHER_MS = 50;
/** Commits between two looks at the length of the log. */
const COMMITS = 1000;

/** @param onFull is told that events wait because the disk is full */
export function createEventLog(database: Database, onFull: () => void): EventLog {
  let waiting: { readonly job: string; readonly at: number; readonly event: NewEvent }[] = [];
  let timer: ReturnType<typeof setTimeout> | null = null;
  let commits = 0;
  const watchers = new Map<string | null, Set<() => void>>();
  const insert = database.query(
    `INSERT OR IGNORE INTO events (job, created_at, level, type, message, data, kind, step) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
  );

  const flush = () => {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    if (waiting.length === 0) return;
    const batch = waiting;
    waiting = [];
    try {
      // Steps are in the run folder too, and are told again from there.
      commitLazily(database, () => {
        for (const { job, at, event } of batch) {
          const { level = "info", type = "message", message, data = null, once } = event;
          const text = data === null ? null : JSON.stringify(data);
          insert.run(job, at, level, type, message, text, once?.kind ?? null, once?.step ?? null);
        }
      });
      if (++commits % COMMITS === 0) trimLog(database);
    } catch (error) {
      if (!isFull(error)) throw error;
      waiting = [...batch, ...waiting];
      onFull();
      schedule(1000);
      return;
    }
    for (const job of new Set([null, ...batch.map((each) => each.job)])) for (const tell of watchers.get(job) ?? []) tell();
  };
  const schedule = (ms: number) => {
    timer ??= setTimeout(flush, ms);
  };

  return {
    flush,
    add(job, event) {
      waiting.push({ job, at: now(), event });
      schedule(GATHER_MS);
    },
    newest: () => (database.query("SELECT max(number) AS number FROM events").get() as { number: number | null }).number ?? 0,
    behind(job, number, limit) {
      const [where, of] = ofJob(job);
      const rows = database.query(`SELECT * FROM events WHERE ${where} AND number > ? ORDER BY number LIMIT ?`);
      return rows.all(...of, number, limit).map((row) => eventOf(row as Row));
    },
    list(job, { after, limit, type }) {
      flush();
      const [where, of] = ofJob(job);
      // Metrics are of a kind, which an index has.
      const ofType = type === undefined ? "" : `AND kind IS ${type === "message" ? "" : "NOT"} NULL`;
      const query = database.query(`SELECT * FROM events WHERE ${where} AND number < ? ${ofType} ORDER BY number DESC LIMIT ?`);
      const rows = query.all(...of, after ?? Number.MAX_SAFE_INTEGER, limit + 1) as Row[];
      return { data: rows.slice(0, limit).map(eventOf), has_more: rows.length > limit };
    },
    numbers({ job, kind, behind, limit, every, names }) {
      const columns = names.map((_, i) => `, json_extract(data, ?${i + 6})`).join("");
      const rows = database.query(
        `SELECT step${columns} FROM events WHERE job = ?1 AND kind = ?2 AND step > ?3 AND (step % ?5 = 0 OR step = 1) ORDER BY step LIMIT ?4`,
      );
      return rows.values(job, kind, behind, limit, every, ...names.map((name) => `$.${name}`)) as (number | null)[][];
    },
    watch(job, onNew) {
      const all = watchers.get(job) ?? new Set();
      watchers.set(job, all.add(onNew));
      return () => {
        all.delete(onNew);
        if (all.size === 0) watchers.delete(job);
      };
    },
  };
}

const ofJob = (job: string | null): [where: string, values: string[]] => (job === null ? ["true", []] : ["job = ?", [job]]);

interface Row extends Omit<JobEvent, "data"> {
  readonly data: string | null;
}

function eventOf({ number, job, created_at, level, type, message, data }: Row): JobEvent {
  return {
    number,
    job,
    created_at,
    level,
    type,
    message,
    data: data === null ? null : (JSON.parse(data) as Readonly<Record<string, unknown>>),
  };
}
