import { describe, expect, test } from "bun:test";
import { createEventReader, eventsOf, type ServerEvent } from "../../src/page/api/sse.ts";

const TEXT = ': hello\n\nid: 1\ndata: {"a":1}\n\nid: 2\n\ndata: first\ndata: second\n\n: still here\n\ndata: [DONE]\n\n';

const EVENTS: readonly ServerEvent[] = [
  { id: "1", data: '{"a":1}' },
  { id: "2", data: "" },
  { id: null, data: "first\nsecond" },
  { id: null, data: "[DONE]" },
];

describe("events of a server", () => {
  test("are read from pieces that are cut anywhere", () => {
    for (let size = 1; size <= TEXT.length; size++) {
      const read = createEventReader();
      const found: ServerEvent[] = [];
      for (let at = 0; at < TEXT.length; at += size) found.push(...read(TEXT.slice(at, at + size)));
      expect([size, found]).toEqual([size, [...EVENTS]]);
    }
  });

  test("are read from an answer's bytes, cut inside of letters too", async () => {
    const bytes = new TextEncoder().encode("data: Grüße ☀\n\n");
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
        controller.close();
      },
    });
    const found: ServerEvent[] = [];
    for await (const event of eventsOf(new Response(body))) found.push(event);
    expect(found).toEqual([{ id: null, data: "Grüße ☀" }]);
  });
});
