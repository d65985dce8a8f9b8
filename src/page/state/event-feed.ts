import { Problem, request } from "../api/client.ts";
import { eventsOf } from "../api/sse.ts";
import type { JobEvent } from "../api/types.ts";

/** The stream of events goes, is being opened again, or is closed because no key opens it. */
export type Connection = "live" | "lost" | "refused";

export interface FeedOptions {
  /** Called when the stream is open, each time; events wait until it has resolved. */
  onOpen(): Promise<void>;
  onEvent(event: JobEvent): void;
  onConnection(connection: Connection): void;
}

/** Milliseconds of the first pause before a lost connection is opened again, and of the longest. */
const RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;
/** Milliseconds of work after which others get their turn. */
const SLICE_MS = 8;
/** Milliseconds without a word, after which a connection is taken for lost: the server says every 15 seconds that it is there. */
const SILENCE_MS = 40_000;

/** Follows the events of all jobs for as long as the page is open. When the server was away, it goes on behind the last one that came. */
export function followEvents({ onOpen, onEvent, onConnection }: FeedOptions): void {
  let lastId: string | null = null;
  const follow = async () => {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE_MS);
    try {
      const response = await request("v1/fine_tuning/events", {
        headers: { accept: "text/event-stream", ...(lastId === null ? {} : { "last-event-id": lastId }) },
        signal: silence.signal,
      });
      await onOpen();
      onConnection("live");
      let begin = performance.now();
      for await (const { id, data } of eventsOf(response)) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE_MS);
        lastId = id ?? lastId;
        if (data !== "") onEvent(JSON.parse(data) as JobEvent);
        // What was missed may be a hundred thousand steps: drawing and keys have their turn in between.
        if (performance.now() - begin < SLICE_MS) continue;
        await new Promise((done) => setTimeout(done));
        begin = performance.now();
      }
    } finally {
      clearTimeout(timer);
    }
  };
  const keepFollowing = async () => {
    for (let pause = RETRY_MS; ; pause = Math.min(2 * pause, LONGEST_RETRY_MS)) {
      const begin = performance.now();
      try {
        await follow();
      } catch (error) {
        if (error instanceof Problem && error.status === 403) return onConnection("refused");
      }
      if (performance.now() - begin > LONGEST_RETRY_MS) pause = RETRY_MS;
      onConnection("lost");
      await new Promise((done) => setTimeout(done, pause));
    }
  };
  void keepFollowing();
}
