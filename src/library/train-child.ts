import { messageOf, UserError } from "../base/errors.ts";
import { run as runTraining } from "../train/run/run.ts";
import type { FromChild, ToChild } from "./train-apart.ts";

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
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, () => controller.abort());
  tell({ type: "ready" });
  try {
    const { config, given } = await asked.promise;
    const result = await runTraining(config, {
      given,
      signal: controller.signal,
      sink: (event) => tell({ type: "event", event }),
    });
    tell({ type: "result", result });
    return 0;
  } catch (error) {
    const exitCode = error instanceof UserError ? error.exitCode : null;
    tell({ type: "error", message: messageOf(error), exitCode });
    return exitCode ?? 1;
  } finally {
    process.disconnect?.();
  }
}
