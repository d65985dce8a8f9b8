import { readFileSync } from "node:fs";
import { messageOf, systemCode, UserError } from "../../base/errors.ts";
import { watchSignals } from "../../base/process/signals.ts";
import { createMemoryControl } from "../run/memory-control.ts";
import { run as runTraining } from "../run/run.ts";
import { examine } from "./examine.ts";
import { preview } from "./preview.ts";
import { CHILD, FENCED, type Fence, type FromChild, type Order, type ToChild } from "./train-apart.ts";

/** The exit code of work that says that it was interrupted, and not by which signal. */
const INTERRUPTED = 130;

/** Milliseconds between two looks at whether the parent is still there. */
const LOOK_MS = 500;

/** The process that `runApart` starts: takes a configuration, trains, and tells its parent everything. */
export async function run(): Promise<number> {
  if (process.send === undefined)
    throw new UserError(`${CHILD} is for processes that Remat starts itself; train with: remat train`);
  const controller = new AbortController();
  const asked = Promise.withResolvers<Order>();
  const memoryControl = createMemoryControl();
  let fence: Fence | undefined;
  const parent = process.ppid;
  // Before there is an order, nothing else would end this process.
  const stop = (why: string) => {
    asked.reject(new UserError(why, INTERRUPTED));
    controller.abort();
  };
  // Without a parent nobody would know of the run: it is saved, and goes on when it is resumed.
  const orphaned = () => stop("the process that asked for the run has ended");
  const told = () => stop("interrupted before the run began; nothing was written");
  // A parent that is killed before this process listens is not told by the channel.
  const looking = setInterval(() => {
    endIfFenced(fence);
    if (process.ppid !== parent) orphaned();
  }, LOOK_MS);
  const tell = (message: FromChild) => {
    try {
      process.send?.(message);
    } catch {
      // The parent is gone: what is told has no reader, and the run is ended in good order.
      orphaned();
    }
  };
  process.on("message", (message: ToChild) => {
    switch (message.type) {
      case "stop":
        return told();
      case "resize": {
        const { ticket, bytes } = message;
        void memoryControl.resize(bytes).then((limit) => tell({ type: "resized", ticket, limit }));
        return;
      }
      case "run":
      case "examine":
      case "preview":
        return asked.resolve(message);
    }
  });
  process.on("disconnect", orphaned);
  const signals = watchSignals(told);
  tell({ type: "ready" });
  try {
    const order = await asked.promise;
    if (order.type === "preview") {
      tell({ type: "result", result: await preview(order.config, order.options) });
      return 0;
    }
    const { config, given } = order;
    fence = order.fence;
    const { signal } = controller;
    if (order.type === "examine") {
      tell({ type: "result", result: await examine(config, { given, signal }) });
      return 0;
    }
    const result = await runTraining(config, {
      given,
      signal,
      memoryControl: order.elastic ? memoryControl : undefined,
      sink(event) {
        endIfFenced(fence);
        tell({ type: "event", event });
      },
    });
    tell({ type: "result", result });
    return result.reason === "interrupted" ? (signals.code ?? 0) : 0;
  } catch (error) {
    const own = error instanceof UserError ? error.exitCode : null;
    const exitCode = own === INTERRUPTED ? (signals.code ?? own) : own;
    const stack = exitCode === null && error instanceof Error ? (error.stack ?? null) : null;
    tell({ type: "error", message: messageOf(error), exitCode, code: systemCode(error), stack });
    return exitCode ?? 1;
  } finally {
    clearInterval(looking);
    process.off("disconnect", orphaned);
    try {
      process.disconnect?.();
    } catch {
      // It is closed already.
    }
  }
}

/** Ends this process at once where another attempt has begun: nothing more may be written. */
function endIfFenced(fence: Fence | undefined): void {
  if (fence === undefined) return;
  let newest: number;
  try {
    newest = Number(readFileSync(fence.path, "utf8"));
  } catch {
    // A folder that is gone or cannot be read says nothing of other attempts.
    return;
  }
  if (newest > fence.attempt) process.exit(FENCED);
}
