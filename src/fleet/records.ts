import { JetStreamApiCodes, JetStreamApiError } from "@nats-io/jetstream";
import type { KV } from "@nats-io/kv";
import type { Traffic } from "../page/api/types.ts";
import type { TrainConfigInput } from "../train/config.ts";
import type { RunEvent } from "../train/run/events.ts";
import type { RunResult } from "../train/run/run.ts";

/** A file by its content. */
export interface StoredFile {
  /** The path within its folder. */
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
}

/** A base model by its content. */
export interface BaseModel {
  readonly name: string;
  /** SHA-256 of its files' names and hashes. */
  readonly id: string;
  readonly files: readonly StoredFile[];
}

/** Why a job ended without a result, in the form in which an error of `train` comes back. */
export interface JobFailure {
  readonly message: string;
  /** null: the error is not the user's. */
  readonly exitCode: number | null;
  /** The code of a system call. */
  readonly code: string | null;
  /** The end of what the process wrote to its standard error, where it ended without a word. */
  readonly lastLines: string | null;
}

/** A job as it lies in the fleet. Every change is a compare-and-set, so that whoever was taken for dead changes nothing any more. */
export interface JobRecord {
  readonly front: string;
  readonly job: string;
  /** The milliseconds of Unix time at which it came: jobs are placed in this order. */
  readonly created: number;
  readonly base: BaseModel;
  /** Files of the front by the keys of the configuration that name them. */
  readonly files: Readonly<Partial<Record<FileKey, StoredFile>>>;
  /** The adapter that is trained further. */
  readonly adapter: readonly StoredFile[] | null;
  /** All other keys of the configuration, and the keys that were asked for. */
  readonly settings: TrainConfigInput;
  readonly given: readonly string[];
  /** Bytes that its process needs at least. */
  readonly least: number;
  /** It says nothing of its memory: it may have all that its node has for a job. */
  readonly isElastic: boolean;
  /** `stopped`: saved, and not to go on before somebody says so. */
  readonly state: "queued" | "running" | "stopped" | "ended";
  /** Its node is to save it and stop. */
  readonly isUnwanted: boolean;
  /** The number of times that a node took it: the fence of everything that is written about it. */
  readonly attempt: number;
  /** The newest node that took it, and which start of that node. */
  readonly node: string | null;
  readonly session: string | null;
  /** The processor that its bits come from; null: it has no checkpoint yet. */
  readonly processor: string | null;
  /** The files of the run folder at the newest checkpoint. */
  readonly run: readonly StoredFile[];
  /** Steps that are in `run`. */
  readonly step: number;
  /** Processes in a row that ended without a word before they had saved anything new. */
  readonly suddenEnds: number;
  /** The number of the newest message about it in the stream of events. */
  readonly told: number;
  /** What its nodes have sent and received for it. */
  readonly traffic: Traffic;
  readonly result: RunResult | null;
  readonly failure: JobFailure | null;
}

/** What is written about a job that no node has taken yet. */
export const UNTAKEN = {
  state: "queued",
  isUnwanted: false,
  attempt: 0,
  node: null,
  session: null,
  processor: null,
  run: [],
  step: 0,
  suddenEnds: 0,
  told: 0,
  traffic: {},
  result: null,
  failure: null,
} as const satisfies Partial<JobRecord>;

/** A message about a job, as it lies in the stream of events. */
export interface Told {
  readonly attempt: number;
  readonly node: string;
  readonly events: readonly RunEvent[];
}

/** The name of a node's home in what it tells. */
const NODE_HOME = "NODE_HOME";

/** Something that is told, in which no folder of the node is named. */
export const withoutPaths = <T>(told: T, home: string): T =>
  JSON.parse(JSON.stringify(told).replaceAll(quoted(home), NODE_HOME)) as T;

/** The same for clients of a front, whose files have the same names in its home. */
export const withPaths = <T>(told: T, home: string): T =>
  JSON.parse(JSON.stringify(told).replaceAll(`${NODE_HOME}/files/`, quoted(`${home}/files/`))) as T;

/** A text as it stands in JSON. */
const quoted = (text: string): string => JSON.stringify(text).slice(1, -1);

/** The keys of a configuration that name one file. */
export const FILE_KEYS = ["data", "valid", "chatTemplate"] as const;

export type FileKey = (typeof FILE_KEYS)[number];

export const keyOf = ({ front, job }: Pick<JobRecord, "front" | "job">): string => `${front}.${job}`;

/** A value with the revision of its key. */
export interface Held<T> {
  readonly value: T;
  readonly revision: number;
}

export async function readEntry<T>(bucket: KV, key: string): Promise<Held<T> | null> {
  const entry = await bucket.get(key);
  return entry === null || entry.operation !== "PUT" ? null : { value: entry.json<T>(), revision: entry.revision };
}

/** Milliseconds after which what does not come is asked for again: a server that has died meanwhile owes it to nobody. */
const STALL_MS = 10_000;

/** Waits for something that may never come. @throws an error that has it asked for again */
export function within<T>(promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(Object.assign(new Error("nothing more came"), { name: "Stalled" })), STALL_MS);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Returns the keys of a bucket. @throws where NATS dies meanwhile */
export async function keysOf(bucket: KV): Promise<string[]> {
  const keys: string[] = [];
  const listed = await bucket.keys();
  try {
    await within(
      (async () => {
        for await (const key of listed) keys.push(key);
      })(),
    );
  } finally {
    listed.stop();
  }
  return keys;
}

/** Tells whether a compare-and-set was refused because the value is another one by now. */
export function isOutdated(error: unknown): boolean {
  return (
    error instanceof JetStreamApiError &&
    (error.code === JetStreamApiCodes.StreamWrongLastSequence || error.code === JetStreamApiCodes.StreamWrongLastSequenceUnknown)
  );
}

/** Writes a value if its key is still at a revision (0: there is none); null: it is not. */
export async function swap<T>(bucket: KV, key: string, value: T, revision: number): Promise<Held<T> | null> {
  try {
    return { value, revision: await bucket.put(key, JSON.stringify(value), { previousSeq: revision }) };
  } catch (error) {
    if (isOutdated(error)) return null;
    throw error;
  }
}

/**
 * Changes a value by compare-and-set, again and again until nobody was faster. `change` sees the newest value; null from it changes nothing.
 * It must not matter if a change is made twice: an answer that was lost leaves it open whether it was made.
 */
export async function amend<T>(bucket: KV, key: string, change: (value: T) => T | null): Promise<Held<T> | null> {
  for (;;) {
    const held = await readEntry<T>(bucket, key);
    if (held === null) return null;
    const changed = change(held.value);
    if (changed === null) return null;
    const written = await swap(bucket, key, changed, held.revision);
    if (written !== null) return written;
  }
}

/** Milliseconds between two tries of something that NATS did not answer. */
const AGAIN_MS = 250;

/** Does something with NATS until it answers; an error of another kind ends it. @throws the signal's reason */
export async function persistently<T>(act: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (;;) {
    signal.throwIfAborted();
    try {
      return await act();
    } catch (error) {
      if (!isAway(error)) throw error;
      await Bun.sleep(AGAIN_MS);
    }
  }
}

const AWAY: readonly string[] = ["TimeoutError", "NoResponders", "ConnectionError", "RequestError", "Stalled"];

/** Tells whether an error means that NATS did not answer, or not yet after a start. */
export function isAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const names = [error.name, error.cause instanceof Error ? error.cause.name : ""];
  if (names.some((name) => AWAY.includes(name))) return true;
  // A server that has just started answers before it has opened all that it stores.
  return (error instanceof JetStreamApiError && error.status >= 500) || error.name === "JetStreamNotEnabled";
}
