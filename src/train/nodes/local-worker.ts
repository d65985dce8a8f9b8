import { programCommand } from "../../base/process/program.ts";
import type { FromWorker, ToWorker, WorkerLink } from "./messages.ts";
import { type Freed, isFreed, type Laid, openSharedValues } from "./shared-values.ts";

/** The first argument of a process that computes gradients for another one. */
export const CHILD = "gradient-child";

/** Told by a child as soon as it listens. */
export const LISTENING = "listening";

/** Characters of a worker's standard error that are kept for the message of its end. */
const TAIL = 500;

/** Starts a worker on this machine: a process of its own, reached by a channel of the system's. */
export function startLocalWorker(): WorkerLink {
  let handlers: Parameters<WorkerLink["listen"]>[0] | null = null;
  let isClosed = false;
  /** What is to be sent when the child listens. */
  let waiting: Laid<ToWorker>[] | null = [];
  const post = (message: Laid<ToWorker> | Freed) => {
    try {
      child.send(message);
    } catch {
      // Its end is told when the process has ended.
    }
  };
  const shared = openSharedValues(post);
  const child = Bun.spawn([...programCommand(), CHILD], {
    // Structured clones keep numbers that are not finite, and bytes as they are.
    serialization: "advanced",
    stdio: ["ignore", "ignore", "pipe", ...shared.descriptors],
    ipc(message: Laid<FromWorker> | Freed | typeof LISTENING) {
      if (isClosed) return;
      if (message !== LISTENING) return isFreed(message) ? shared.freed(message) : handlers?.message(shared.pick(message));
      for (const early of waiting ?? []) post(early);
      waiting = null;
    },
  });
  const end = () => {
    isClosed = true;
    shared.close();
  };
  const tail = lastOf(child.stderr);
  void child.exited.then(async (code) => {
    const last = await tail;
    const how = String(child.signalCode ?? `exit code ${code}`);
    if (isClosed) return;
    end();
    handlers?.closed(`its process has ended (${how})${last === "" ? "" : `: ${last}`}`);
  });
  return {
    send(message) {
      if (isClosed) return;
      const laid = shared.lay(message);
      if (waiting === null) post(laid);
      else waiting.push(laid);
    },
    listen: (given) => void (handlers = given),
    close() {
      if (!isClosed) end();
      // It holds nothing that could be lost.
      child.kill("SIGKILL");
    },
  };
}

async function lastOf(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const piece of stream) text = (text + decoder.decode(piece, { stream: true })).slice(-TAIL);
  return text.trim();
}
