import { UserError } from "../../base/errors.ts";
import type { CoordinatorLink, FromWorker, ToWorker } from "../nodes/messages.ts";
import { CHILD, LISTENING } from "../nodes/local-worker.ts";
import { type Freed, isFreed, type Laid, openSharedValues } from "../nodes/shared-values.ts";
import { serveGradients } from "./gradient-worker.ts";

/** Milliseconds between two looks at whether the parent is still there. */
const LOOK_MS = 500;

/** The process that `startLocalWorker` starts. */
export async function run(): Promise<number> {
  if (process.send === undefined)
    throw new UserError(`${CHILD} is for processes that Remat starts itself; train with: remat train --nodes N`);
  // Ctrl-C is for the run, which ends in good order and needs its workers up to the end of the step.
  for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {});
  const parent = process.ppid;
  let looking: ReturnType<typeof setInterval> | undefined;
  const post = (message: Laid<FromWorker> | Freed) => {
    try {
      process.send?.(message);
    } catch {
      // The parent is gone, which is noticed below.
    }
  };
  const shared = openSharedValues(post, true);
  const link: CoordinatorLink = {
    send: (message) => post(shared.lay(message)),
    listen({ message, closed }) {
      process.on("message", (told: Laid<ToWorker> | Freed) => (isFreed(told) ? shared.freed(told) : message(shared.pick(told))));
      process.on("disconnect", () => closed("the run has ended"));
      process.send?.(LISTENING);
      // A parent that is killed before this process listens is not told by the channel.
      looking = setInterval(() => process.ppid !== parent && closed("the run's process has ended"), LOOK_MS);
    },
    close() {},
  };
  try {
    await serveGradients(link);
    return 0;
  } finally {
    clearInterval(looking);
    try {
      process.disconnect?.();
    } catch {
      // It is closed already.
    }
  }
}
