import { expect, test } from "bun:test";
import type { EventLog, JobEvent } from "../../../src/jobs/events.ts";
import type { JobStore } from "../../../src/jobs/job-store.ts";
import { createEventReader } from "../../../src/page/api/sse.ts";
import { eventStream } from "../../../src/serve/home/event-stream.ts";

/** A log that holds so many events, and tells of those that come. */
function logOf(count: number) {
  const event = (number: number): JobEvent => ({
    number,
    job: "job",
    created_at: 0,
    level: "info",
    type: "message",
    message: String(number),
    data: null,
  });
  const all = Array.from({ length: count }, (_, i) => event(i + 1));
  const watchers = new Set<() => void>();
  const sizes: number[] = [];
  const log = {
    flush: () => {},
    behind(_: string | null, number: number, limit: number) {
      const found = all.slice(number, number + limit);
      sizes.push(found.length);
      return found;
    },
    watch(_: string | null, onNew: () => void) {
      watchers.add(onNew);
      return () => void watchers.delete(onNew);
    },
  } as unknown as EventLog;
  return {
    log,
    sizes,
    watchers,
    add() {
      all.push(event(all.length + 1));
      for (const tell of watchers) tell();
    },
  };
}

const jobs = (status: string) => ({ get: () => ({ status }) }) as unknown as JobStore;

/** Reads a stream until an event of a number has come, or to its end; returns the numbers, and the last event's data. */
async function numbersOf(response: Response, until: number, onFirst: () => void = () => {}): Promise<[number[], string]> {
  const read = createEventReader();
  const reader = response.body!.getReader();
  const numbers: number[] = [];
  let last = "";
  while (numbers.at(-1) !== until) {
    const { done, value } = await reader.read();
    if (done) return [numbers, last];
    for (const { data } of read(typeof value === "string" ? value : new TextDecoder().decode(value))) {
      last = data;
      if (data.startsWith("{")) numbers.push(Number((JSON.parse(data) as { message: string }).message));
    }
    onFirst();
    onFirst = () => {};
  }
  await reader.cancel();
  return [numbers, last];
}

const upTo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

test("a stream has what a client missed in its order, piece by piece, and what comes meanwhile", async () => {
  const { log, sizes, watchers, add } = logOf(2000);
  const response = eventStream(log, jobs("running"), null, 700, new AbortController().signal);
  const [numbers] = await numbersOf(response, 2001, add);
  expect(numbers).toEqual(upTo(701, 2001));
  expect(Math.max(...sizes)).toBeLessThanOrEqual(256);
  expect(watchers.size).toBe(0);
});

test("the stream of a job that has ended ends behind its last event", async () => {
  const { log, watchers } = logOf(600);
  const [numbers, last] = await numbersOf(eventStream(log, jobs("failed"), "job", 0, new AbortController().signal), Infinity);
  expect([numbers, last]).toEqual([upTo(1, 600), "[DONE]"]);
  expect(watchers.size).toBe(0);
});

test("a stream whose client is gone waits for nothing any more", async () => {
  const { log, watchers } = logOf(0);
  const controller = new AbortController();
  const response = eventStream(log, jobs("running"), "job", 0, controller.signal);
  const ended = numbersOf(response, Infinity);
  expect(watchers.size).toBe(1);
  controller.abort();
  expect(await ended).toEqual([[], ""]);
  expect(watchers.size).toBe(0);
});
