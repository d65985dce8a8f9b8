import { constants } from "node:os";
import { UserError } from "../../base/errors.ts";
import { onOutputFailure } from "./output.ts";

/** Signals that ask a process to end in good order. A second one of the same kind ends it at once. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"] as const;

/** The exit code of work that says that it was interrupted, and not by which signal. */
const INTERRUPTED = 130;

/**
 * Runs long work that a signal may end early. The exit code is 0 for work that was done to its end, and 128 with the signal's number, as
 * shells have it, for work that was interrupted: `train && merge` does not go on then.
 * @param work resolves to true when it was interrupted
 */
export async function withSignals(work: (signal: AbortSignal) => Promise<boolean>): Promise<number> {
  const controller = new AbortController();
  let code = 0;
  const handlers = SIGNALS.map((name): (() => unknown) => {
    const abort = () => {
      code = 128 + constants.signals[name];
      controller.abort();
    };
    process.once(name, abort);
    return () => process.off(name, abort);
  });
  handlers.push(onOutputFailure(() => controller.abort()));
  try {
    return (await work(controller.signal)) ? code : 0;
  } catch (error) {
    if (error instanceof UserError && error.exitCode === INTERRUPTED) throw new UserError(error.message, code || INTERRUPTED);
    throw error;
  } finally {
    for (const remove of handlers) remove();
  }
}
