import { UserError } from "../../base/errors.ts";
import { programCommand } from "../../base/process/program.ts";
import type { TrainConfig } from "../config.ts";
import type { RunEvent } from "../run/events.ts";
import type { MemoryControl } from "../run/memory-control.ts";
import type { RunResult } from "../run/run.ts";
import type { Examination } from "./examine.ts";
import type { Preview, PreviewOptions } from "./preview.ts";

/** The first argument of a process that trains for another one. */
export const CHILD = "train-child";

/**
 * A file that holds the number of the newest attempt at a run. A process with an older number, which its parent believes to be dead,
 * ends at once when it sees a newer one.
 */
export interface Fence {
  readonly path: string;
  readonly attempt: number;
}

/** Describes what the child is told: first what to train, to examine or to show, then perhaps that it gets another limit of memory, or to stop. */
export type ToChild =
  | {
      readonly type: "run" | "examine";
      readonly config: TrainConfig;
      readonly given: readonly string[];
      readonly fence?: Fence | undefined;
      /** The limit of memory may change. */
      readonly elastic?: boolean;
    }
  | { readonly type: "preview"; readonly config: TrainConfig; readonly options: PreviewOptions }
  | { readonly type: "resize"; readonly ticket: number; readonly bytes: number }
  | { readonly type: "stop" };

/** The first thing that a child is told. */
export type Order = Extract<ToChild, { readonly config: TrainConfig }>;

/** Describes what the child tells. The last message is a result or an error. */
export type FromChild =
  | { readonly type: "ready" }
  | { readonly type: "event"; readonly event: RunEvent }
  /** The limit of memory that is kept as it was asked for; null: the run is over. */
  | { readonly type: "resized"; readonly ticket: number; readonly limit: number | null }
  | { readonly type: "result"; readonly result: RunResult | Examination | Preview }
  | {
      readonly type: "error";
      readonly message: string;
      /** null for an error that is not the user's. */
      readonly exitCode: number | null;
      /** The code of the system call that failed, such as `ENOSPC`. */
      readonly code: string | null;
      readonly stack: string | null;
    };

/** Characters of a child's standard error that are kept for the message of its sudden end. */
const TAIL = 2000;

/** The exit code of a child whose attempt is over: another process goes on with its run. */
export const FENCED = 75;

/** How a process for a run is started, and what is heard of it. */
export interface ApartOptions {
  readonly sink?: ((event: RunEvent) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** A command that starts the child's command, such as `nice -n 19`. */
  readonly under?: readonly string[] | undefined;
  readonly fence?: Fence | undefined;
  /** Changes the memory limit that the run begins with. */
  readonly memoryControl?: MemoryControl | undefined;
}

/** A child that ended without its last word: killed from outside, or by the system. */
export class SuddenEnd extends Error {
  override name = "SuddenEnd";

  constructor(
    how: string,
    /** The end of what it wrote to its standard error. */
    readonly lastLines: string,
  ) {
    super(`the process that trained ended without a word (${how})${lastLines === "" ? "" : `: ${lastLines}`}`);
  }
}

/**
 * As `run`, in a process of its own.
 * @throws {UserError} as `run`
 * @throws {SuddenEnd} a child that ended without a word, with its exit code or signal and its last lines
 */
export function runApart(config: TrainConfig, given: readonly string[], options: ApartOptions = {}): Promise<RunResult> {
  const { fence, memoryControl } = options;
  return haveDone<RunResult>({ type: "run", config, given, fence, elastic: memoryControl !== undefined }, options);
}

/** As `examine`, in a process of its own. @throws as `runApart` */
export function examineApart(
  config: TrainConfig,
  given: readonly string[],
  options: Pick<ApartOptions, "signal" | "under"> = {},
): Promise<Examination> {
  return haveDone<Examination>({ type: "examine", config, given }, options);
}

/** As `preview`, in a process of its own. @throws as `runApart` */
export function previewApart(
  config: TrainConfig,
  options: PreviewOptions,
  apart: Pick<ApartOptions, "signal" | "under"> = {},
): Promise<Preview> {
  return haveDone<Preview>({ type: "preview", config, options }, apart);
}

/** Starts a child, gives it an order, and returns its result. */
async function haveDone<T extends RunResult | Examination | Preview>(
  order: Order,
  { sink = () => {}, signal, under = [], memoryControl }: ApartOptions,
): Promise<T> {
  const interrupted = () => new UserError("interrupted before the run began; nothing was written", 130);
  const ended = Promise.withResolvers<T>();
  // The promise may fail before anybody waits for it.
  ended.promise.catch(() => {});
  const send = (message: ToChild) => {
    try {
      child.send(message);
    } catch {
      // A child that has said its last word takes no more, and its end tells the rest.
    }
  };
  // One that only reads has nothing to bring into order, and may read for minutes without looking up.
  const stop = () => (order.type === "preview" ? child.kill("SIGKILL") : send({ type: "stop" }));
  const limits = createLimits(memoryControl, send);
  if (signal?.aborted === true) {
    limits.end();
    throw interrupted();
  }
  const child = Bun.spawn([...under, ...programCommand(), CHILD], {
    // Structured clones keep numbers that are not finite, which JSON has no words for.
    serialization: "advanced",
    stdio: ["ignore", "ignore", "pipe"],
    ipc(message: FromChild) {
      switch (message.type) {
        case "ready":
          if (signal?.aborted === true) {
            ended.reject(interrupted());
            child.kill();
            return;
          }
          send(order);
          limits.begin();
          signal?.addEventListener("abort", stop, { once: true });
          return;
        case "event":
          try {
            sink(message.event);
          } catch (error) {
            ended.reject(error);
            stop();
          }
          return;
        case "resized":
          return limits.settle(message.ticket, message.limit);
        case "result":
          return ended.resolve(message.result as T);
        case "error":
          return ended.reject(errorOf(message));
      }
    },
  });
  const tail = lastOf(child.stderr, TAIL);
  try {
    const code = await child.exited;
    const how = String(child.signalCode ?? `exit code ${code}`);
    ended.reject(new SuddenEnd(how, await tail));
    return await ended.promise;
  } finally {
    limits.end();
    signal?.removeEventListener("abort", stop);
  }
}

/** Passes on to a child which limits of memory are asked for, and what it has said of them. */
function createLimits(control: MemoryControl | undefined, send: (message: ToChild) => void) {
  const asked = new Map<number, { readonly bytes: number; readonly resolve: (limit: number | null) => void }>();
  let [tickets, hasBegun] = [0, false];
  const detach = control?.attach(
    (bytes) =>
      new Promise((resolve) => {
        const ticket = tickets++;
        asked.set(ticket, { bytes, resolve });
        if (hasBegun) send({ type: "resize", ticket, bytes });
      }),
  );
  return {
    /** The child has its order. */
    begin() {
      hasBegun = true;
      for (const [ticket, { bytes }] of asked) send({ type: "resize", ticket, bytes });
    },
    settle(ticket: number, limit: number | null) {
      asked.get(ticket)?.resolve(limit);
      asked.delete(ticket);
    },
    /** The child has ended. */
    end() {
      detach?.();
      for (const { resolve } of asked.values()) resolve(null);
    },
  };
}

function errorOf({ message, exitCode, code, stack }: Extract<FromChild, { type: "error" }>): Error {
  if (exitCode !== null) return new UserError(message, exitCode, code === null ? undefined : { cause: { code } });
  const error = new Error(message);
  if (stack !== null) error.stack = stack;
  return error;
}

/** The end of a stream's text. */
async function lastOf(stream: ReadableStream<Uint8Array>, characters: number): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const piece of stream) text = (text + decoder.decode(piece, { stream: true })).slice(-characters);
  return text.trim();
}
