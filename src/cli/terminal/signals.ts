import { UserError } from "../../base/errors.ts";
import { watchSignals } from "../../base/process/signals.ts";
import { onOutputFailure } from "./output.ts";

/** The exit code of work that says that it was interrupted, and not by which signal. */
const INTERRUPTED = 130;

/**
 * Runs long work that a signal may end early. The exit code is 0 for work that was done to its end, and 128 with the signal's number, as
 * shells have it, for work that was interrupted: `train && merge` does not go on then.
 * @param work resolves to true when it was interrupted
 */
export async function withSignals(work: (signal: AbortSignal) => Promise<boolean>): Promise<number> {
  const controller = new AbortController();
  const watch = watchSignals(() => controller.abort());
  const forget = onOutputFailure(() => controller.abort());
  try {
    return (await work(controller.signal)) ? (watch.code ?? 0) : 0;
  } catch (error) {
    if (error instanceof UserError && error.exitCode === INTERRUPTED)
      throw new UserError(error.message, watch.code ?? INTERRUPTED);
    throw error;
  } finally {
    watch.end();
    forget();
  }
}
