import { programCommand } from "../../base/process/program.ts";
import type { WorkerLink, WorkerSource } from "../../train/nodes/messages.ts";
import { RELAY } from "../names.ts";
import type { FleetOptions } from "../options.ts";
import type { FromRelay, ToRelay } from "./relay.ts";

type Handlers = Parameters<WorkerLink["listen"]>[0];

/** Has nodes of a fleet compute for a run: workers are reached by a process that does nothing else. */
export function remoteWorkers(fleet: FleetOptions): WorkerSource {
  return ({ count, prepare, folder, add, note }) => {
    const handlers = new Map<string, Handlers>();
    const send = (message: ToRelay) => {
      try {
        relay.send(message);
      } catch {
        // Its end is told below.
      }
    };
    const take = (told: FromRelay): void => {
      switch (told.type) {
        case "listening":
          return send({ type: "open", fleet, count, prepare, folder });
        case "joined":
          return add(`node ${told.worker}`, {
            // It has had the first message with the request to take part.
            send: (message) => message.type !== "prepare" && send({ type: "to", worker: told.worker, message }),
            listen: (given) => void handlers.set(told.worker, given),
            close: () => send({ type: "dismiss", worker: told.worker }),
          });
        case "from":
          return handlers.get(told.worker)?.message(told.message);
        case "left":
          return handlers.get(told.worker)?.closed(told.why);
        case "note":
          return note(told.text);
      }
    };
    const relay = Bun.spawn([...programCommand(), RELAY], {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "inherit"],
      ipc: take,
    });
    void relay.exited.then(() => {
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
