import type { EventLog } from "../../jobs/events.ts";
import type { JobStore } from "../../jobs/job-store.ts";
import { eventId, eventView } from "./job-views.ts";

/** Events that are read and sent at a time, a millisecond or two: answers go on in between, however many a client has missed. */
const BATCH = 256;
/** Milliseconds after which a quiet stream says that it is there: proxies close those that say nothing. */
const QUIET_MS = 15_000;

/**
 * Events as they come (https://html.spec.whatwg.org/multipage/server-sent-events.html), from behind one that the client has. The stream of a
 * job ends behind the last event of one that has ended, that of all jobs when the client goes.
 * @param job null: all jobs
 * @param behind the number of an event; 0: from the first one on
 */
export function eventStream(events: EventLog, jobs: JobStore, job: string | null, behind: number, signal: AbortSignal): Response {
  let last = behind;
  let isOver = false;
  /** Wakes the stream where it waits for events. */
  let wake: () => void = () => {};
  const unwatch = events.watch(job, () => wake());
  const end = () => {
    if (isOver) return;
    isOver = true;
    unwatch();
    signal.removeEventListener("abort", end);
    wake();
  };
  signal.addEventListener("abort", end, { once: true });
  /** Resolves with whether something has woken the stream before it had to say that it is there. */
  const woken = (): Promise<boolean> => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const quiet = setTimeout(() => resolve(false), QUIET_MS);
    wake = () => {
      clearTimeout(quiet);
      resolve(true);
    };
    return promise;
  };
  const next = async (): Promise<string | null> => {
    while (!isOver) {
      // Asked first: what is told behind it is read in any case.
      const isGoingOn = job === null || ["queued", "running"].includes(jobs.get(job)?.status ?? "");
      const news = woken();
      const found = events.behind(job, last, BATCH);
      if (found.length > 0) {
        wake();
        last = found.at(-1)!.number;
        return found.map((event) => `id: ${eventId(event.number)}\ndata: ${JSON.stringify(eventView(event))}\n\n`).join("");
      }
      if (!isGoingOn) {
        end();
        return "data: [DONE]\n\n";
      }
      if (!(await news)) return ": still here\n\n";
    }
    return null;
  };
  const body = new ReadableStream<string>({
    start(controller) {
      events.flush();
      // A client that has seen none yet knows where it is all the same, and the headers of an answer go out with its first bytes.
      if (job === null) controller.enqueue(`id: ${eventId(behind)}\n\n`);
    },
    async pull(controller) {
      const text = await next();
      if (text === null) controller.close();
      else controller.enqueue(text);
      await Bun.sleep(0);
    },
    cancel: end,
  });
  return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" } });
}
