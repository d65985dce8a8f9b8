import { UserError } from "../base/errors.ts";
import { threadModule } from "../base/process/program.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { FromEncoder, ToEncoder } from "./encoder-thread.ts";

/** Tokenizes texts without holding the event loop for long: long ones in a thread, which is started for the first of them. */
export interface Encoder {
  /**
   * As `Tokenizer.encode`.
   * @throws the signal's reason
   * @throws {UserError} as `Tokenizer.encode`
   */
  encode(text: string, plain: readonly number[], signal: AbortSignal): Promise<Int32Array>;
  close(): void;
}

/** UTF-16 units of a text that is tokenized at once: some milliseconds, 50 of them where it is one word. */
export const SHORT = 1 << 14;

interface Task {
  readonly text: string;
  readonly plain: readonly number[];
  resolve(ids: Int32Array): void;
  reject(error: unknown): void;
}

export function createEncoder(tokenizer: Tokenizer): Encoder {
  /** The first one is under way. */
  const tasks: Task[] = [];
  let thread: Worker | null = null;

  const end = () => {
    thread?.terminate();
    thread = null;
  };
  const next = () => {
    const task = tasks[0];
    if (!task) return;
    thread ??= start();
    thread.postMessage({ text: task.text, plain: task.plain } satisfies ToEncoder);
  };
  const start = (): Worker => {
    const started = new Worker(threadModule("src/serve/encoder-thread.ts"));
    // An idle thread does not keep the process alive.
    started.unref();
    // One text is copied at once; an object of as many tokens would be taken apart for a while.
    started.postMessage({ folder: tokenizer.folder, json: JSON.stringify(tokenizer.json) } satisfies ToEncoder);
    started.onmessage = ({ data }: MessageEvent<FromEncoder>) => {
      const task = tasks.shift();
      if ("ids" in data) task?.resolve(data.ids);
      else task?.reject(data.isUserError ? new UserError(data.error) : new Error(data.error));
      next();
    };
    started.onerror = ({ message }) => {
      end();
      tasks.shift()?.reject(new Error(`the thread that tokenizes failed: ${message}`));
      next();
    };
    return started;
  };

  return {
    async encode(text, plain, signal) {
      signal.throwIfAborted();
      if (text.length <= SHORT) return tokenizer.encode(text, plain);
      const { promise, resolve, reject } = Promise.withResolvers<Int32Array>();
      const task: Task = { text, plain, resolve, reject };
      const giveUp = () => {
        const at = tasks.indexOf(task);
        if (at < 0) return;
        tasks.splice(at, 1);
        reject(signal.reason);
        if (at > 0) return;
        // Nobody waits for what the thread does, and it cannot be told.
        end();
        next();
      };
      signal.addEventListener("abort", giveUp, { once: true });
      if (tasks.push(task) === 1) next();
      try {
        return await promise;
      } finally {
        signal.removeEventListener("abort", giveUp);
      }
    },
    close: end,
  };
}
