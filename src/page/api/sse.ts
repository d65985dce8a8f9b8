/** An event of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html). */
export interface ServerEvent {
  readonly id: string | null;
  readonly data: string;
}

/** Reads a stream's text, piece by piece, and returns the events that are whole. An event without data only says where the stream is. */
export function createEventReader(): (piece: string) => ServerEvent[] {
  let rest = "";
  return (piece) => {
    const events: ServerEvent[] = [];
    const blocks = (rest + piece).split(/\n\n|\r\n\r\n/);
    rest = blocks.pop()!;
    for (const block of blocks) {
      let id: string | null = null;
      const data: string[] = [];
      for (const line of block.split(/\r?\n/)) {
        const [, field, value] = /^(\w*): ?(.*)$/.exec(line) ?? [];
        if (field === "id") id = value!;
        else if (field === "data") data.push(value!);
      }
      if (id !== null || data.length > 0) events.push({ id, data: data.join("\n") });
    }
    return events;
  };
}

/** The events of an answer, as they come. */
export async function* eventsOf(response: Response): AsyncGenerator<ServerEvent> {
  const read = createEventReader();
  for await (const piece of textsOf(response)) yield* read(piece);
}

/** The text of an answer, as it comes; not every browser iterates over streams. */
export async function* textsOf(response: Response): AsyncGenerator<string> {
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}
