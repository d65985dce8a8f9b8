import type { EventLog } from "../../jobs/events.ts";
import type { JobStore } from "../../jobs/job-store.ts";
import { eventId, eventView } from "./job-views.ts";

/** Events that are read at a time. */
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
  let end: () => void = () => {};
  const body = new ReadableStream<string>({
    start(controller) {
      let unwatch: () => void = () => {};
      let isOver = false;
      const quiet = setInterval(() => controller.enqueue(": still here\n\n"), QUIET_MS);
      end = () => {
        if (isOver) return;
        isOver = true;
        clearInterval(quiet);
        unwatch();
        signal.removeEventListener("abort", end);
        try {
          controller.close();
        } catch {
          // The client has closed it.
        }
      };
      const send = () => {
        if (isOver) return;
        // Asked first: what is told behind it is read in any case.
        const isGoingOn = job === null || ["queued", "running"].includes(jobs.get(job)?.status ?? "");
        for (;;) {
          const found = events.behind(job, last, BATCH);
          for (const event of found)
            controller.enqueue(`id: ${eventId(event.number)}\ndata: ${JSON.stringify(eventView(event))}\n\n`);
          last = found.at(-1)?.number ?? last;
          if (found.length < BATCH) break;
        }
        if (!isGoingOn) {
          controller.enqueue("data: [DONE]\n\n");
          end();
        }
      };
      unwatch = events.watch(job, send);
      signal.addEventListener("abort", end, { once: true });
      events.flush();
      // A client that has seen none yet knows where it is all the same, and the headers of an answer go out with its first bytes.
      if (job === null) controller.enqueue(`id: ${eventId(behind)}\n\n`);
      send();
    },
    cancel: () => end(),
  });
  return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" } });
}
