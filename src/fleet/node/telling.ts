import type { JetStreamClient } from "@nats-io/jetstream";
import type { RunEvent } from "../../train/run/events.ts";
import { isAway, persistently, type Told, withoutPaths } from "../records.ts";

/** Milliseconds that events wait for others to be sent with them. */
const GATHER_MS = 100;
/** Events that wait while NATS is away; of more the oldest go: steps are in the run folder too. */
const MOST_WAITING = 2000;

/** Sends what happens to a job. */
export interface Teller {
  tell(event: RunEvent): void;
  /** Sends what waits, and returns the number of the last message in the stream (0: none). */
  flush(): Promise<number>;
}

export function createTeller(
  js: JetStreamClient,
  subject: string,
  { home, ...about }: Pick<Told, "attempt" | "node"> & { readonly home: string },
  signal: AbortSignal,
): Teller {
  let waiting: RunEvent[] = [];
  let timer: ReturnType<typeof setTimeout> | null = null;
  let last = 0;
  let sending = Promise.resolve();
  const send = async (): Promise<void> => {
    if (waiting.length === 0) return;
    const events = waiting;
    waiting = [];
    try {
      // A message that is sent twice has one number.
      const msgID = `${subject} ${about.attempt} ${about.node} ${crypto.randomUUID()}`;
      const publish = () =>
        js.publish(subject, JSON.stringify(withoutPaths({ ...about, events } satisfies Told, home)), { msgID });
      last = (await persistently(publish, signal)).seq;
    } catch (error) {
      if (!signal.aborted && !isAway(error)) throw error;
    }
  };
  const schedule = () => {
    timer = null;
    sending = sending.then(send);
  };
  return {
    tell(event) {
      waiting.push(event);
      if (waiting.length > MOST_WAITING) waiting.shift();
      timer ??= setTimeout(schedule, GATHER_MS);
    },
    async flush() {
      if (timer !== null) clearTimeout(timer);
      schedule();
      await sending;
      return last;
    },
  };
}
