import { UserError } from "../base/errors.ts";
import { programCommand } from "../base/process/program.ts";
import type { TrainConfig } from "../train/config.ts";
import type { RunEvent } from "../train/run/events.ts";
import type { RunResult } from "../train/run/run.ts";

/** The first argument of a process that trains for another one. */
export const CHILD = "train-child";

/** Describes what the child is told: first what to train, then perhaps to stop. */
export type ToChild =
  { readonly type: "run"; readonly config: TrainConfig; readonly given: readonly string[] } | { readonly type: "stop" };

/** Describes what the child tells. The last message is a result or an error. */
export type FromChild =
  | { readonly type: "ready" }
  | { readonly type: "event"; readonly event: RunEvent }
  | { readonly type: "result"; readonly result: RunResult }
  /** `exitCode` is null for an error that is not the user's. */
  | { readonly type: "error"; readonly message: string; readonly exitCode: number | null };

/** Characters of a child's standard error that are kept for the message of its sudden end. */
const TAIL = 2000;

/**
 * As `run`, in a process of its own.
 * @throws {UserError} as `run`
 * @throws {Error} a child that ended without a word, with its exit code or signal and its last lines
 */
export async function runApart(
  config: TrainConfig,
  given: readonly string[],
  {
    sink = () => {},
    signal,
  }: { readonly sink?: ((event: RunEvent) => void) | undefined; readonly signal?: AbortSignal | undefined },
): Promise<RunResult> {
  const interrupted = () => new UserError("interrupted before the run began; nothing was written", 130);
  if (signal?.aborted === true) throw interrupted();
  const ended = Promise.withResolvers<RunResult>();
  // The promise may fail before anybody waits for it.
  ended.promise.catch(() => {});
  const send = (message: ToChild) => {
    try {
      child.send(message);
    } catch {
      // A child that has said its last word takes no more, and its end tells the rest.
    }
  };
  const stop = () => send({ type: "stop" });
  const child = Bun.spawn([...programCommand(), CHILD], {
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
          send({ type: "run", config, given });
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
        case "result":
          return ended.resolve(message.result);
        case "error":
          return ended.reject(
            message.exitCode === null ? new Error(message.message) : new UserError(message.message, message.exitCode),
          );
      }
    },
  });
  const tail = lastOf(child.stderr, TAIL);
  try {
    const code = await child.exited;
    const how = child.signalCode === null ? `exit code ${code}` : child.signalCode;
    ended.reject(new Error(`the process that trained ended without a word (${how})${(await tail) && `: ${await tail}`}`));
    return await ended.promise;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** The end of a stream's text. */
async function lastOf(stream: ReadableStream<Uint8Array>, characters: number): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const piece of stream) text = (text + decoder.decode(piece, { stream: true })).slice(-characters);
  return text.trim();
}
