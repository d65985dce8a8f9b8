import { messageOf, UserError } from "../../base/errors.ts";
import type { FromWorker, ToWorker } from "../../train/nodes/messages.ts";
import { type Freed, isFreed, type Laid, openSharedValues } from "../../train/nodes/shared-values.ts";
import { RELAY } from "../names.ts";
import { recruit, type RecruitOptions, type Recruits } from "./recruit.ts";

/** Messages of a run's process to the one that reaches the fleet for it, and back. The former stands still while it computes, which NATS takes for death. */
export type ToRelay =
  | ({ readonly type: "open" } & Pick<RecruitOptions, "fleet" | "count" | "prepare" | "folder">)
  | { readonly type: "to"; readonly worker: string; readonly message: Laid<ToWorker> }
  | { readonly type: "dismiss"; readonly worker: string }
  | { readonly type: "close" };

export type FromRelay =
  | { readonly type: "listening" }
  | { readonly type: "joined"; readonly worker: string }
  | { readonly type: "from"; readonly worker: string; readonly message: Laid<FromWorker> }
  | { readonly type: "left"; readonly worker: string; readonly why: string }
  | { readonly type: "note"; readonly text: string };

/** Milliseconds between two looks at whether the parent is still there. */
const LOOK_MS = 500;

export async function run(): Promise<number> {
  if (process.send === undefined)
    throw new UserError(`${RELAY} is for processes that Remat starts itself; train with: remat train --nodes N --fleet URL`);
  for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {});
  const parent = process.ppid;
  const over = Promise.withResolvers<void>();
  const tell = (message: FromRelay | Freed) => {
    try {
      process.send?.(message);
    } catch {
      over.resolve();
    }
  };
  const shared = openSharedValues(tell, true);
  let opening: Promise<Recruits | null> | null = null;
  let recruits: Recruits | null = null;
  process.on("message", (told: ToRelay | Freed) => {
    if (isFreed(told)) return shared.freed(told);
    switch (told.type) {
      case "open":
        opening = recruit({
          ...told,
          joined: (worker) => tell({ type: "joined", worker }),
          message: (worker, message) => tell({ type: "from", worker, message: shared.lay(message) }),
          left: (worker, why) => tell({ type: "left", worker, why }),
          note: (text) => tell({ type: "note", text }),
        }).catch((error: unknown) => {
          tell({ type: "note", text: `no nodes of the fleet take part: ${messageOf(error)}` });
          return null;
        });
        return void opening.then((opened) => (recruits = opened));
      case "to":
        return recruits?.send(told.worker, shared.pick(told.message));
      case "dismiss":
        return recruits?.dismiss(told.worker);
      case "close":
        return over.resolve();
    }
  });
  process.on("disconnect", () => over.resolve());
  const looking = setInterval(() => process.ppid !== parent && over.resolve(), LOOK_MS);
  tell({ type: "listening" });
  await over.promise;
  clearInterval(looking);
  await (await (opening as Promise<Recruits | null> | null))?.close();
  return 0;
}
