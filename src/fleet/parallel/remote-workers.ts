import { programCommand } from "../../base/process/program.ts";
import type { WorkerLink, WorkerSource } from "../../train/nodes/messages.ts";
import { RELAY } from "../names.ts";
import type { FleetOptions } from "../options.ts";
import { type Freed, isFreed, openSharedValues } from "../../train/nodes/shared-values.ts";
import type { FromRelay, ToRelay } from "./relay.ts";

type Handlers = Parameters<WorkerLink["listen"]>[0];

/** Has nodes of a fleet compute for a run: workers are reached by a process that does nothing else. */
export function remoteWorkers(fleet: FleetOptions): WorkerSource {
  return ({ count, prepare, folder, add, note }) => {
    const handlers = new Map<string, Handlers>();
    let isOver = false;
    const send = (message: ToRelay | Freed) => {
      try {
        relay.send(message);
      } catch {
        // Its end is told below.
      }
    };
    const shared = openSharedValues(send);
    const end = () => {
      if (!isOver) shared.close();
      isOver = true;
    };
    const take = (told: FromRelay | Freed): void => {
      if (isOver) return;
      if (isFreed(told)) return shared.freed(told);
      switch (told.type) {
        case "listening":
          return send({ type: "open", fleet, count, prepare, folder });
        case "joined":
          return add(`node ${told.worker}`, {
            // It has had the first message with the request to take part.
            send(message) {
              if (message.type !== "prepare" && !isOver) send({ type: "to", worker: told.worker, message: shared.lay(message) });
            },
            listen: (given) => void handlers.set(told.worker, given),
            close: () => send({ type: "dismiss", worker: told.worker }),
          });
        case "from":
          return handlers.get(told.worker)?.message(shared.pick(told.message));
        case "left":
          return handlers.get(told.worker)?.closed(told.why);
        case "note":
          return note(told.text);
      }
    };
    const relay = Bun.spawn([...programCommand(), RELAY], {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "inherit", ...shared.descriptors],
      ipc: take,
    });
    void relay.exited.then(() => {
      end();
      for (const each of handlers.values()) each.closed("the fleet is no longer reached");
    });
    return {
      async close() {
        send({ type: "close" });
        await Promise.race([relay.exited, Bun.sleep(5000)]);
        relay.kill("SIGKILL");
      },
    };
  };
}
