import { messageOf, UserError } from "../base/errors.ts";
import { run as runTraining } from "../train/run/run.ts";
import { watchSignals } from "../base/process/signals.ts";
import type { FromChild, ToChild } from "./train-apart.ts";

/** The exit code of work that says that it was interrupted, and not by which signal. */
const INTERRUPTED = 130;

/** The process that `runApart` starts: takes a configuration, trains, and tells its parent everything. */
export async function run(): Promise<number> {
  const controller = new AbortController();
  const tell = (message: FromChild) => process.send?.(message);
  const asked = Promise.withResolvers<Extract<ToChild, { type: "run" }>>();
  process.on("message", (message: ToChild) => {
    if (message.type === "run") asked.resolve(message);
    else controller.abort();
  });
  // Without a parent nobody would know of the run: it is saved, and goes on when it is resumed.
  process.on("disconnect", () => controller.abort());
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
    process.disconnect?.();
  }
}
