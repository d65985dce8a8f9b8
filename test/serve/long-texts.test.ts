import { beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { createEncoder, SHORT } from "../../src/serve/encoder.ts";
import { createTokenizer } from "../../src/data/tokens/tokenizer.ts";
import type { ServedModel } from "../../src/serve/answer-orders.ts";
import { CHAT, originOf, serve, TEXT, user, useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const served = useServed();
const { ask, scripted } = served;
let model: ServedModel;
beforeAll(() => ({ model } = served));

/** A text that takes some tenths of a second: merging one word costs most. */
const ONE_WORD = "abcdefghij".repeat(10_000);
/** One that takes ten times as long: requests get behind it before it is done. */
const LONG_WORD = ONE_WORD.repeat(10);
/** Tokens of a context that has room for both. */
const ROOM = 1_000_000;

describe("a text that no context holds", () => {
  test("is refused by its bytes, before a place in the queue is looked for and before it is tokenized", async () => {
    const client = scripted("for ever", { waiting: 0 });
    const leaving = new AbortController();
    const endless = { prompt: "x", max_tokens: 1_000_000 };
    const busy = client.post(TEXT, endless, { signal: leaving.signal }).catch(() => {});
    await client.received(1);
    expect((await client.post(TEXT, endless)).status).toBe(429);
    const huge = "a".repeat(3_900_000);
    for (const [path, body, param, size] of [
      [CHAT, { messages: [user(huge)] }, "messages", "3900000 bytes"],
      [CHAT, { messages: [user("x"), user([{ type: "text", text: huge }])] }, "messages", "3900001 bytes"],
      [TEXT, { prompt: huge }, "prompt", "3900000 bytes"],
      [TEXT, { prompt: [huge] }, "prompt", "3900000 bytes"],
      [TEXT, { prompt: Array.from({ length: 200_000 }, () => 5) }, "prompt", "200000 tokens"],
      [TEXT, { prompt: [Array.from({ length: 200_000 }, () => 5)] }, "prompt", "200000 tokens"],
    ] as const) {
      const response = await client.post(path, body);
      expect(response.status).toBe(400);
      const { error } = (await response.json()) as { error: { code: string; param: string; message: string } };
      expect(error).toMatchObject({ code: "context_length_exceeded", param });
      expect(error.message).toStartWith(`${param}: ${size}, more than the maximum context length of 1024 tokens`);
    }
    leaving.abort();
    await busy;
    await client.ended(8);
    // The first request's prompt alone: not even that of the request without a place.
    expect(client.encoded()).toEqual(["x"]);
  });

  test("an answer that the template may leave out is measured in the rendering", async () => {
    const client = scripted("hello");
    const said = "a".repeat(100_000);
    const messages = [user("x"), { role: "assistant", content: said }, user("y")];
    const refused = await client.post(CHAT, { messages });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toContain("bytes, more than the maximum context length of 1024 tokens can hold");
    expect(client.encoded()).toEqual([]);
  });

  test("white space around a content, which templates take away, does not count", async () => {
    const trimming = "{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}";
    const tokenizer = { ...model.tokenizer, chatTemplates: new Map([["default", trimming]]) };
    const client = served.also(serve({ ...model, tokenizer }));
    expect((await client.post(CHAT, { messages: [user(`${" ".repeat(100_000)}x`)] })).status).toBe(200);
  });
});

describe("a long text that may fit", () => {
  test("is tokenized while others are answered, into the tokens that it has", async () => {
    const client = scripted("hello", {}, ROOM);
    let isDone = false;
    const asked = ask(TEXT, { prompt: ONE_WORD }, client).finally(() => (isDone = true));
    let healthy = 0;
    while (!isDone) {
      expect(await (await fetch(`${originOf(client.server)}/health`)).json()).toEqual({ status: "ok" });
      healthy++;
    }
    const { usage } = await asked;
    expect(usage.prompt_tokens).toBe(model.tokenizer.encode(ONE_WORD).length);
    // One that waits for the text would be answered once or twice.
    expect(healthy).toBeGreaterThan(20);
    expect(client.encoded()).toEqual([]);
  });

  /** Resolves when a thread has been given a long text, whose request has its place then. */
  const begun = async (): Promise<void> => {
    const posts = spyOn(Worker.prototype, "postMessage");
    try {
      while (!posts.mock.calls.some(([message]) => typeof (message as { text?: unknown }).text === "string")) await Bun.sleep(1);
    } finally {
      posts.mockRestore();
    }
  };

  test("keeps its place: who comes later waits", async () => {
    const client = scripted("hello", {}, ROOM);
    const isBegun = begun();
    const long = ask(TEXT, { prompt: LONG_WORD }, client);
    await isBegun;
    await ask(TEXT, { prompt: "x" }, client);
    await long;
    expect(client.reports.map(({ answer }) => answer!.promptTokens > 100)).toEqual([true, false]);
  });

  test("whose client leaves meanwhile gives the turn back", async () => {
    const client = scripted("hello", {}, ROOM);
    const leaving = new AbortController();
    const isBegun = begun();
    const gone = client.post(TEXT, { prompt: LONG_WORD }, { signal: leaving.signal }).catch(() => "gone");
    await isBegun;
    const next = ask(TEXT, { prompt: "x" }, client);
    leaving.abort();
    expect(await gone).toBe("gone");
    await next;
    expect(client.reports.map(({ status }) => status)).toEqual([499, 200]);
  });

  test("that has too many tokens is a 400 with the count, and the next one's turn comes", async () => {
    const room = 60_000;
    const client = scripted("hello", {}, room);
    const count = model.tokenizer.encode(ONE_WORD).length;
    expect(count).toBeGreaterThan(room);
    const refused = await client.post(TEXT, { prompt: ONE_WORD, stream: true });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toContain(`prompt: ${count} tokens, more than the maximum context length of ${room} tokens`);
    await ask(TEXT, { prompt: "x" }, client);
  });

  test("a server that stops meanwhile says so", async () => {
    const client = scripted("hello", {}, ROOM);
    const isBegun = begun();
    const asked = client.post(TEXT, { prompt: LONG_WORD });
    await isBegun;
    await client.server.stop();
    const response = await asked;
    expect(response.status).toBe(503);
    expect(await response.text()).toContain("the server is stopping");
  });
});

describe("the thread", () => {
  const never = new AbortController().signal;

  test("gives the tokens of the loop's tokenizer, with text that is to stay text too", async () => {
    const { tokenizer } = model;
    const encoder = createEncoder(tokenizer);
    const special = [...tokenizer.specialTokens.keys()][0]!;
    const text = `${"the quick brown \u00fc\u6f22\u{1F600} fox ".repeat(SHORT / 20)}${special} end`;
    expect(text.length).toBeGreaterThan(SHORT);
    const place = text.indexOf(special);
    for (const plain of [[], [place]]) {
      const ids = await encoder.encode(text, plain, never);
      expect([...ids]).toEqual([...tokenizer.encode(text, plain)]);
    }
    encoder.close();
  });

  test("several texts are tokenized in their order, and those whose clients have gone are left away", async () => {
    const { tokenizer } = model;
    const encoder = createEncoder(tokenizer);
    const leaving = [new AbortController(), new AbortController()];
    const texts = [0, 1, 2, 3].map((i) => ONE_WORD.slice(i, i + 50_000));
    const done: number[] = [];
    const asked = texts.map((text, i) =>
      encoder.encode(text, [], leaving[i]?.signal ?? never).then((ids) => {
        done.push(i);
        return ids;
      }),
    );
    asked.slice(0, 2).forEach((one) => one.catch(() => {}));
    // The one that is under way, and one that waits.
    for (const one of leaving) one.abort(new Error("gone"));
    await expect(asked[0]!).rejects.toThrow("gone");
    await expect(asked[1]!).rejects.toThrow("gone");
    for (const i of [2, 3]) expect([...(await asked[i]!)]).toEqual([...tokenizer.encode(texts[i]!)]);
    expect(done).toEqual([2, 3]);
    await expect(encoder.encode("x", [], leaving[0]!.signal)).rejects.toThrow("gone");
    encoder.close();
  });

  test("a text that the vocabulary cannot write is the user's mistake there too", async () => {
    const json = {
      ...model.tokenizer.json,
      model: { type: "BPE", vocab: { a: 0 }, merges: [], unk_token: "?" },
      pre_tokenizer: null,
      decoder: null,
      normalizer: null,
      added_tokens: [],
    };
    const encoder = createEncoder(createTokenizer(json));
    await expect(encoder.encode("b".repeat(SHORT + 1), [], never)).rejects.toThrow("no token for a part of");
    encoder.close();
  });
});
