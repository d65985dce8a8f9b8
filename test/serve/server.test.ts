import { beforeAll, describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { join } from "node:path";
import { chatTemplateOf } from "../../src/data/chat/chat-template.ts";
import type { Decoder } from "../../src/generate/decoders.ts";
import { generate } from "../../src/generate/generate.ts";
import { createSampler, GREEDY } from "../../src/generate/sampler.ts";
import type { ServedModel } from "../../src/serve/answer-orders.ts";
import { remat } from "../support/cli.ts";
import {
  type Answer,
  CHAT,
  type Client,
  eventsOf,
  originOf,
  said,
  scriptedDecoder,
  serve,
  TEXT,
  textOf,
  user,
  useServed,
} from "../support/served.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../../recipes/base/model");

const served = useServed();
const { ask, scripted } = served;
let model: ServedModel;
let client: Client;
beforeAll(() => ({ model, client } = served));

const promptIds = (messages: { role: string; content: unknown }[]) => [
  ...model.tokenizer.encode(chatTemplateOf(model.tokenizer).render({ messages, addGenerationPrompt: true })),
];

describe("answers", () => {
  test("are those of remat chat, with exact counts, as a whole and as a stream; a list of parts is the same text", async () => {
    const question = "Define love.";
    const flags = ["--temperature", "0", "--max-new-tokens", "24", "--threads", "1"];
    const { stdout } = await remat(["chat", "--model", folder, "--prompt", question, ...flags]);
    const prompt = promptIds([user(question)]);
    const ids = [...generate(model.decoders[0]!, prompt, { limit: 24, stop: model.stop, sampler: createSampler(GREEDY) })];
    // The token that ended the answer is one of it.
    expect(ids.length).toBeLessThan(24);
    const counts = {
      prompt_tokens: prompt.length,
      completion_tokens: ids.length + 1,
      total_tokens: prompt.length + ids.length + 1,
    };
    const answer = await ask(CHAT, { model: "served", messages: [user(question)] });
    expect(said(answer)).toBe(stdout.replace(/\n$/, ""));
    expect(answer).toMatchObject({ object: "chat.completion", model: "served", choices: [{ finish_reason: "stop" }] });
    expect(answer.choices[0].message!.role).toBe("assistant");
    expect(answer.usage).toMatchObject(counts);

    const messages = [user([{ type: "text", text: question }])];
    const response = await client.post(CHAT, { messages, stream: true, stream_options: { include_usage: true } });
    expect(response.headers.get("content-type")).toStartWith("text/event-stream");
    const { pieces, last } = await eventsOf(response);
    expect(last).toBe("[DONE]");
    expect(textOf(pieces)).toBe(said(answer));
    expect(pieces[0]!.choices[0]!.delta).toEqual({ role: "assistant", content: "" });
    expect(pieces.at(-2)!.choices[0]).toMatchObject({ delta: {}, finish_reason: "stop" });
    expect(pieces.at(-1)).toMatchObject({ choices: [], usage: counts });
    expect(new Set(pieces.map(({ id, object }) => `${id} ${object}`)).size).toBe(1);
    expect(pieces.length).toBeGreaterThan(20);
  });

  test("texts: a stream, a list of one text, token ids and a list of one list of them give the same; usage comes only when it is asked for", async () => {
    const prompt = "In the beginning";
    const answer = await ask(TEXT, { prompt });
    expect(answer).toMatchObject({ object: "text_completion", choices: [{ index: 0, finish_reason: "length" }] });
    const { pieces } = await eventsOf(await client.post(TEXT, { prompt: [prompt], stream: true }));
    expect(textOf(pieces)).toBe(said(answer));
    expect(pieces.every(({ usage }) => usage === undefined)).toBe(true);
    const ids = [...model.tokenizer.encode(prompt)];
    for (const same of [ids, [ids]]) expect(said(await ask(TEXT, { prompt: same }))).toBe(said(answer));
    expect(answer.usage.prompt_tokens).toBe(ids.length);
  });

  test("the same seed gives the same answer, streamed too, others others; without a seed answers differ", async () => {
    const body = { prompt: "And", temperature: 1, max_tokens: 20 };
    const seeded = async (seed: number) => said(await ask(TEXT, { ...body, seed }));
    const first = await seeded(5);
    expect(await seeded(5)).toBe(first);
    expect(textOf((await eventsOf(await client.post(TEXT, { ...body, seed: 5, stream: true }))).pieces)).toBe(first);
    const texts = [first, ...(await Promise.all([6, 7, 8].map(seeded)))];
    expect(new Set(texts).size).toBe(4);
    const unseeded = await Promise.all([1, 2, 3].map(() => ask(TEXT, body)));
    expect(new Set(unseeded.map(said)).size).toBe(3);
    // The flags' temperature is 0.
    const greedy = await Promise.all([1, 2].map(() => ask(TEXT, { prompt: "And" })));
    // With a seed nothing is taken from the cache that would round otherwise: whole chunks of 128 tokens at the beginning only.
    const long = { prompt: "And the LORD said unto Moses, ".repeat(30), max_tokens: 1 };
    const cachedOf = async (more: object) => (await ask(TEXT, { ...long, ...more })).usage.prompt_tokens_details.cached_tokens;
    expect(await cachedOf({ seed: 1 })).toBe(0);
    const tokens = model.tokenizer.encode(long.prompt).length;
    expect(tokens).toBeGreaterThan(128);
    expect(await cachedOf({})).toBe(tokens - 1);
    expect(await cachedOf({ seed: 1 })).toBe(tokens - (tokens % 128));
    expect(said(greedy[0]!)).toBe(said(greedy[1]!));
  });

  test("top_k, top_p, min_p and repetition_penalty reach the sampler", async () => {
    const body = { prompt: "And the LORD", max_tokens: 20, seed: 1 };
    const greedy = said(await ask(TEXT, { ...body, temperature: 0 }));
    for (const narrow of [{ top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }])
      expect(said(await ask(TEXT, { ...body, temperature: 1, ...narrow }))).toBe(greedy);
    expect(said(await ask(TEXT, { ...body, temperature: 0, repetition_penalty: 3 }))).not.toBe(greedy);
  });

  test("a follow-up turn computes what is new only, and says what a fresh server says", async () => {
    const messages = [user("Define war.")];
    const first = await ask(CHAT, { messages });
    const longer = [...messages, { role: "assistant", content: said(first) }, user("And peace?")];
    const second = await ask(CHAT, { messages: longer });
    const cached = second.usage.prompt_tokens_details.cached_tokens;
    // All of the first turn but its last token, which was never fed.
    expect(cached).toBeGreaterThanOrEqual(first.usage.total_tokens - 2);
    expect(cached).toBeLessThan(second.usage.prompt_tokens);
    await ask(TEXT, { prompt: "something else" });
    const again = await ask(CHAT, { messages: longer });
    expect(again.usage.prompt_tokens_details.cached_tokens).toBe(0);
    expect(said(again)).toBe(said(second));
  });
});

describe("the template", () => {
  /** A server whose model's template is this one. */
  const templated = (template: string): Client => {
    const { tokenizer } = model;
    const client = served.also(serve({ ...model, tokenizer: { ...tokenizer, chatTemplates: new Map([["default", template]]) } }));
    return client;
  };
  const turns = "{% for m in messages %}{% if m.role != 'developer' %}{{ m.role + ':' + m.content }}{% endif %}{% endfor %}";
  const tokens = (text: string) => model.tokenizer.encode(text).length;

  test("gets the tools where it has a place for them, unless none are to be called", async () => {
    const client = templated(`{% if tools %}{{ tools | tojson }}{% endif %}${turns}`);
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
    const count = async (more: object) => (await ask(CHAT, { messages: [user("x")], ...more }, client)).usage.prompt_tokens;
    const written = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]';
    expect(await count({ tools })).toBe(tokens(`${written}user:x`));
    expect(await count({ tools, tool_choice: "none" })).toBe(tokens("user:x"));
  });

  test("may refuse a conversation, and may not pass over a message", async () => {
    const strict = templated("{{ raise_exception('roles must alternate') }}");
    const refused = await strict.post(CHAT, { messages: [user("x")] });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toContain("roles must alternate");
    const lost = await templated(turns).post(CHAT, { messages: [{ role: "developer", content: "Be brief." }, user("x")] });
    expect(lost.status).toBe(400);
    expect(await lost.text()).toContain("leaves out message 1");
  });
});

describe("ends", () => {
  const script = "One, two; three. Four END five";
  const ends = async (stop: unknown, stream: boolean, more: object = {}) => {
    const body = { prompt: "Count", stop, stream, stream_options: stream ? { include_usage: true } : null, ...more };
    const response = await scripted(script).post(TEXT, body);
    if (!stream) {
      const answer = (await response.json()) as Answer;
      return { text: said(answer), reason: answer.choices[0].finish_reason, tokens: answer.usage.completion_tokens };
    }
    const { pieces } = await eventsOf(response);
    const usage = pieces.at(-1)!.usage as Answer["usage"];
    return { text: textOf(pieces), reason: pieces.at(-2)!.choices[0]!.finish_reason!, tokens: usage.completion_tokens };
  };

  test("stop texts, which may lie in several tokens, end the answer and are no part of it, not even a beginning", async () => {
    const ids = [...model.tokenizer.encode(script)];
    /** Tokens up to the end of a text. */
    const upTo = (end: string) => {
      const length = script.indexOf(end) + end.length;
      return ids.findIndex((_, i) => model.tokenizer.decode(ids.slice(0, i + 1)).length >= length) + 1;
    };
    for (const stream of [false, true]) {
      for (const [stop, end] of [
        [["two; three"], "two; three"],
        [". Four END", ". Four END"],
        [["nothing", "END", "three", "five"], "three"],
        ["ve", "ve"],
      ] as const) {
        const expected = { text: script.slice(0, script.indexOf(end)), reason: "stop", tokens: upTo(end) };
        expect(await ends(stop, stream)).toEqual(expected);
      }
      // What only begins a stop text is given out in the end; the token that ends the text is counted.
      expect(await ends(["five!", "END."], stream)).toEqual({ text: script, reason: "stop", tokens: ids.length + 1 });
      const cut = model.tokenizer.decode(ids.slice(0, 3));
      expect(await ends(["five"], stream, { max_tokens: 3 })).toEqual({ text: cut, reason: "length", tokens: 3 });
    }
  });

  test("characters of several tokens are streamed whole", async () => {
    const script = "Wörter 👩‍👩‍👧, 漢字 and 🇫🇷 end";
    const { pieces } = await eventsOf(await scripted(script).post(CHAT, { messages: [user("x")], stream: true }));
    expect(textOf(pieces)).toBe(script);
    for (const piece of pieces) expect(textOf([piece])).not.toContain("\uFFFD");
    expect(model.tokenizer.encode("漢").length).toBeGreaterThan(1);
  });

  test("an answer that fills the context ends there", async () => {
    const { usage, choices } = await ask(TEXT, { prompt: "a" }, scripted("for ever", {}, 30));
    expect(choices[0].finish_reason).toBe("length");
    expect(usage.completion_tokens).toBe(30);
  });
});

describe("the queue", () => {
  const endless = { prompt: "x", max_tokens: 1_000_000 };
  const room = 2_000_000;

  test("a client that goes ends its answer, whole or streamed, and the next one's turn comes", async () => {
    for (const stream of [false, true]) {
      const client = scripted("for ever", {}, room);
      const leaving = new AbortController();
      const gone = client.post(TEXT, { ...endless, stream }, { signal: leaving.signal }).then((response) => response.text());
      await client.received(1);
      const next = client.post(TEXT, { prompt: "x", max_tokens: 3 });
      await client.received(2);
      expect(await (await fetch(`${originOf(client.server)}/health`)).json()).toEqual({ status: "ok" });
      expect(client.reports).toEqual([]);
      leaving.abort();
      await expect(gone).rejects.toThrow();
      expect((await next).status).toBe(200);
      expect(client.reports.map(({ status }) => status)).toEqual([499, 200]);
      expect(client.reports[0]!.answer).toMatchObject({ reason: null });
      expect(client.reports[1]!.answer!.waited).toBeGreaterThan(0);
    }
  });

  test("first come, first served; more than may wait are told when to come back, and who leaves makes room", async () => {
    const client = scripted("for ever", { waiting: 2 }, room);
    const leaving = [new AbortController(), new AbortController(), new AbortController()];
    const asked: Promise<unknown>[] = [];
    for (const { signal } of leaving) {
      const response = client.post(TEXT, endless, { signal });
      asked.push(response.then(({ status }) => status).catch(() => "gone"));
      await client.received(asked.length);
    }
    const refused = await client.post(TEXT, endless);
    expect(refused.status).toBe(429);
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
    expect(await refused.json()).toEqual({
      error: {
        message: "2 requests wait already; come back later",
        type: "rate_limit_error",
        param: null,
        code: "rate_limit_exceeded",
      },
    });
    leaving[1]!.abort();
    await client.ended(2);
    const last = client.post(TEXT, { prompt: "x", max_tokens: 2 });
    await client.received(4);
    leaving[0]!.abort();
    leaving[2]!.abort();
    expect((await last).status).toBe(200);
    expect(await Promise.all(asked)).toEqual(["gone", "gone", "gone"]);
    expect(client.reports.map(({ status }) => status)).toEqual([429, 499, 499, 499, 200]);
  });

  test("Retry-After is the whole seconds of the last answer, without its waiting, and at least one", async () => {
    // Each token takes 1.1 seconds of this clock, and nothing else takes any.
    let now = 0;
    const clock = spyOn(performance, "now").mockImplementation(() => now);
    try {
      const decoder = scriptedDecoder(model.tokenizer, model.vocabSize, "for ever", room);
      const slow: Decoder = {
        ...decoder,
        get ids() {
          return decoder.ids;
        },
        *feedInPieces(ids) {
          now += 1100;
          return yield* decoder.feedInPieces(ids);
        },
      };
      const sampling = { ...model.sampling, maxNewTokens: room };
      const client = served.also(serve({ ...model, decoders: [slow], sampling }, { waiting: 1 }));
      let received = 0;
      const begin = async (max_tokens: number) => {
        const leaving = new AbortController();
        const ended = client.post(TEXT, { prompt: "x", max_tokens }, { signal: leaving.signal }).then(
          ({ status }) => status,
          () => "gone",
        );
        await client.received(++received);
        return { ended, leave: () => leaving.abort() };
      };
      const retryAfter = async () => {
        const refused = await client.post(TEXT, endless);
        expect(refused.status).toBe(429);
        return refused.headers.get("retry-after");
      };

      const [first, next] = [await begin(room), await begin(3)];
      expect(await retryAfter()).toBe("1");
      first.leave();
      expect(await next.ended).toBe(200);
      const [third, fourth] = [await begin(room), await begin(room)];
      expect(await retryAfter()).toBe("4");
      for (const { leave } of [fourth, third]) leave();
      expect(await Promise.all([first, third, fourth].map(({ ended }) => ended))).toEqual(["gone", "gone", "gone"]);
    } finally {
      clock.mockRestore();
    }
  });

  test("a server that stops cuts what it is answering and says so", async () => {
    const client = scripted("for ever", {}, room);
    const streamed = (await client.post(TEXT, { ...endless, stream: true })).text();
    const waiting = client.post(TEXT, endless);
    await client.received(2);
    await client.server.stop();
    const error = { message: "the server is stopping", type: "server_error", param: null, code: "server_stopping" };
    expect(await streamed).toEndWith(`data: ${JSON.stringify({ error })}\n\n`);
    const whole = await waiting;
    expect(whole.status).toBe(503);
    expect(await whole.json()).toEqual({ error });
    await expect(client.post(TEXT, endless)).rejects.toThrow();
  });
});
