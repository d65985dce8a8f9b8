import type { Database } from "bun:sqlite";
import type { Examination } from "../train/apart/examine.ts";
import type { TrainConfigInput } from "../train/config.ts";
import type { Page, PageQuery } from "./home/files.ts";
import { now } from "./home/home.ts";

export type JobStatus = "queued" | "running" | "succeeded" | "failed" | "cancelled";

/** The weights that a job goes on from. */
export type Parent =
  | { readonly kind: "job"; readonly job: string; readonly step: number | null }
  | { readonly kind: "adapter"; readonly name: string };

/** Describes what a job trains, by names: paths are made of them when it starts. */
export interface JobConfig {
  /** The base model, as it is served. */
  readonly base: string;
  /** null: the base model's own weights. */
  readonly parent: Parent | null;
  /** Ids of files. */
  readonly training: string;
  readonly validation: string | null;
  readonly chatTemplate: string | null;
  /** All other keys of `train`. */
  readonly settings: Partial<TrainConfigInput>;
}

export interface JobError {
  readonly code: string;
  readonly message: string;
  readonly param: string | null;
}

/** A job as it lies in the database. */
export interface Job {
  readonly number: number;
  readonly id: string;
  readonly status: JobStatus;
  /** It is not started, or is being stopped, until somebody resumes it. */
  readonly paused: boolean;
  /** Unix times. */
  readonly created_at: number;
  readonly started_at: number | null;
  readonly finished_at: number | null;
  readonly base: string;
  readonly parent: string | null;
  /** Its model's name when it has succeeded. */
  readonly name: string;
  /** As the client asked, with what was chosen for it. */
  readonly request: Readonly<Record<string, unknown>>;
  readonly config: JobConfig;
  readonly examination: Examination;
  /** The number of times that it was started. */
  readonly attempt: number;
  /** The number of its processes in a row that ended without a word before they had saved anything new. */
  readonly sudden_ends: number;
  /** The steps that have been told. */
  readonly step: number;
  readonly trained_tokens: number | null;
  readonly result_file: string | null;
  readonly error: JobError | null;
  /** Describes what of its run folder is there: all, the trained model alone, or nothing. */
  readonly kept: "whole" | "model" | "nothing";
  readonly idempotency_key: string | null;
  readonly request_hash: string;
}

/** A column of a job that changes, with its value; JSON columns take values. */
export type JobChange = Partial<
  Pick<
    Job,
    | "status"
    | "paused"
    | "started_at"
    | "finished_at"
    | "attempt"
    | "sudden_ends"
    | "step"
    | "trained_tokens"
    | "result_file"
    | "error"
    | "kept"
  >
>;

export type NewJob = Pick<
  Job,
  "id" | "base" | "parent" | "name" | "request" | "config" | "examination" | "idempotency_key" | "request_hash"
>;

export interface JobStore {
  insert(job: NewJob): Job;
  get(id: string): Job | null;
  byName(name: string): Job | null;
  byKey(idempotencyKey: string): Job | null;
  /** Newest first. */
  list(query: PageQuery & { readonly metadata: Readonly<Record<string, string>> }): Page<Job>;
  /** Oldest first. */
  withStatus(...statuses: readonly JobStatus[]): Job[];
  /** @param attempt changes nothing when the job is at another attempt by now; returns whether it was changed */
  change(id: string, change: JobChange, attempt?: number): boolean;
  counts(): Readonly<Record<JobStatus, number>>;
  /** Tells whether a job that has not ended needs an uploaded file. */
  needsFile(id: string): boolean;
}

const JSON_COLUMNS = ["request", "config", "examination", "error"] as const;

const STATUSES = ["queued", "running", "succeeded", "failed", "cancelled"] as const satisfies JobStatus[];

export function createJobStore(database: Database): JobStore {
  const one = (where: string, value: string): Job | null => {
    const row = database.query(`SELECT * FROM jobs WHERE ${where} = ?`).get(value);
    return row === null ? null : jobOf(row as Row);
  };
  const store: JobStore = {
    insert(job) {
      database.run(
        `INSERT INTO jobs (id, status, created_at, base, parent, name, request, config, examination, idempotency_key, request_hash)
         VALUES (?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        [
          job.id,
          now(),
          job.base,
          job.parent,
          job.name,
          JSON.stringify(job.request),
          JSON.stringify(job.config),
          JSON.stringify(job.examination),
          job.idempotency_key,
          job.request_hash,
        ],
      );
      return one("id", job.id)!;
    },
    get: (id) => one("id", id),
    byName: (name) => one("name", name),
    byKey: (key) => one("idempotency_key", key),
    list({ after, limit, metadata }) {
      const wanted = Object.entries(metadata);
      const conditions = wanted.map(
        () => "AND EXISTS (SELECT 1 FROM json_each(request, '$.metadata') WHERE key = ? AND value = ?)",
      );
      const rows = database
        .query(`SELECT * FROM jobs WHERE (? IS NULL OR number < ?) ${conditions.join(" ")} ORDER BY number DESC LIMIT ?`)
        .all(after, after, ...wanted.flat(), limit + 1) as Row[];
      return { data: rows.slice(0, limit).map(jobOf), has_more: rows.length > limit };
    },
    withStatus(...statuses) {
      const marks = statuses.map(() => "?").join(", ");
      const rows = database.query(`SELECT * FROM jobs WHERE status IN (${marks}) ORDER BY number`).all(...statuses) as Row[];
      return rows.map(jobOf);
    },
    change(id, change, attempt) {
      const entries = Object.entries(change);
      const sets = entries.map(([name]) => `${name} = ?`).join(", ");
      const values = entries.map(([name, value]) =>
        (JSON_COLUMNS as readonly string[]).includes(name) && value !== null ? JSON.stringify(value) : value,
      ) as (string | number | boolean | null)[];
      const fence = attempt === undefined ? "" : " AND attempt = ?";
      const { changes } = database.run(`UPDATE jobs SET ${sets} WHERE id = ?${fence}`, [
        ...values,
        id,
        ...(attempt === undefined ? [] : [attempt]),
      ]);
      return changes > 0;
    },
    counts() {
      const rows = database.query("SELECT status, count(*) AS count FROM jobs GROUP BY status").all() as {
        readonly status: JobStatus;
        readonly count: number;
      }[];
      const counted = new Map(rows.map(({ status, count }) => [status, count]));
      return Object.fromEntries(STATUSES.map((status) => [status, counted.get(status) ?? 0])) as Record<JobStatus, number>;
    },
    needsFile: (id) =>
      store
        .withStatus("queued", "running")
        .some(({ config }) => [config.training, config.validation, config.chatTemplate].includes(id)),
  };
  return store;
}

type Row = Readonly<Record<string, string | number | null>>;

function jobOf(row: Row): Job {
  const parsed = JSON_COLUMNS.map((name) => [name, row[name] === null ? null : (JSON.parse(String(row[name])) as unknown)]);
  return { ...row, ...Object.fromEntries(parsed), paused: row["paused"] === 1 } as unknown as Job;
}
