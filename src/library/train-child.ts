import { messageOf, UserError } from "../base/errors.ts";
import { run as runTraining } from "../train/run/run.ts";
import { watchSignals } from "../base/process/signals.ts";
import { CHILD, type FromChild, type ToChild } from "./train-apart.ts";

/** The exit code of work that says that it was interrupted, and not by which signal. */
const INTERRUPTED = 130;

/** Milliseconds between two looks at whether the parent is still there. */
const LOOK_MS = 500;

/** The process that `runApart` starts: takes a configuration, trains, and tells its parent everything. */
export async function run(): Promise<number> {
  if (process.send === undefined)
    throw new UserError(`${CHILD} is for processes that Remat starts itself; train with: remat train`);
  const controller = new AbortController();
  const asked = Promise.withResolvers<Extract<ToChild, { type: "run" }>>();
  const parent = process.ppid;
  // Without a parent nobody would know of the run: it is saved, and goes on when it is resumed.
  const orphaned = () => {
    asked.reject(new UserError("the process that asked for the run has ended", INTERRUPTED));
    controller.abort();
  };
  // A parent that is killed before this process listens is not told by the channel.
  const looking = setInterval(() => process.ppid !== parent && orphaned(), LOOK_MS);
  const tell = (message: FromChild) => {
    try {
      process.send?.(message);
    } catch {
      // The parent is gone: what is told has no reader, and the run is ended in good order.
      orphaned();
    }
  };
  process.on("message", (message: ToChild) => {
    if (message.type === "run") asked.resolve(message);
    else controller.abort();
  });
  process.on("disconnect", orphaned);
  const signals = watchSignals(() => controller.abort());
  tell({ type: "ready" });
  try {
    const { config, given } = await asked.promise;
    const result = await runTraining(config, {
      given,
      signal: controller.signal,
      sink: (event) => tell({ type: "event", event }),
    });
    tell({ type: "result", result });
    return result.reason === "interrupted" ? (signals.code ?? 0) : 0;
  } catch (error) {
    const own = error instanceof UserError ? error.exitCode : null;
    const exitCode = own === INTERRUPTED ? (signals.code ?? own) : own;
    tell({ type: "error", message: messageOf(error), exitCode });
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
