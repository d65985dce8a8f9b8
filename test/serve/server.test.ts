import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { chatTemplateOf } from "../../src/data/chat-template.ts";
import { generate } from "../../src/generate/generate.ts";
import { createSampler, GREEDY } from "../../src/generate/sampler.ts";
import type { ServedModel } from "../../src/serve/jobs.ts";
import { MOST_BYTES } from "../../src/serve/server.ts";
import { remat } from "../support/cli.ts";
import { type Client, eventsOf, openServed, originOf, scriptedDecoder, serve, textOf } from "../support/served.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../../recipes/base/model");
const CHAT = "/v1/chat/completions";
const TEXT = "/v1/completions";

let model: ServedModel;
let client: Client;
const closers: (() => unknown)[] = [];
beforeAll(async () => {
  const opened = await openServed(folder);
  model = opened.model;
  client = serve(model);
  closers.push(() => client.server.stop(), opened.close);
});
afterAll(async () => {
  for (const close of closers) await close();
});

interface Answer {
  readonly object: string;
  readonly model: string;
  readonly choices: readonly [
    {
      readonly message?: { readonly role: string; readonly content: string };
      readonly text?: string;
      readonly finish_reason: string;
    },
  ];
  readonly usage: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly total_tokens: number;
    readonly prompt_tokens_details: { readonly cached_tokens: number };
  };
}

const ask = async (path: string, body: object, from = client): Promise<Answer> => {
  const response = await from.post(path, body);
  expect(response.status).toBe(200);
  return (await response.json()) as Answer;
};
const said = ({ choices: [{ message, text }] }: Answer) => message?.content ?? text!;
const user = (content: unknown) => ({ role: "user", content });
const promptIds = (messages: { role: string; content: unknown }[]) => [
  ...model.tokenizer.encode(chatTemplateOf(model.tokenizer).render({ messages, addGenerationPrompt: true })),
];
/** A server whose model says `script`. */
const scripted = (script: string, options: Parameters<typeof serve>[1] = {}, maxTokens = 1024): Client => {
  const decoder = scriptedDecoder(model.tokenizer, model.vocabSize, script, maxTokens);
  const client = serve({ ...model, decoders: [decoder], sampling: { ...model.sampling, maxNewTokens: maxTokens } }, options);
  closers.push(() => client.server.stop());
  return client;
};

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

  test("texts: a stream, a list of one text and token ids give the same; usage comes only when it is asked for", async () => {
    const prompt = "In the beginning";
    const answer = await ask(TEXT, { prompt });
    expect(answer).toMatchObject({ object: "text_completion", choices: [{ index: 0, finish_reason: "length" }] });
    const { pieces } = await eventsOf(await client.post(TEXT, { prompt: [prompt], stream: true }));
    expect(textOf(pieces)).toBe(said(answer));
    expect(pieces.every(({ usage }) => usage === undefined)).toBe(true);
    const ids = [...model.tokenizer.encode(prompt)];
    expect(said(await ask(TEXT, { prompt: ids }))).toBe(said(answer));
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
    const client = serve({ ...model, tokenizer: { ...tokenizer, chatTemplates: new Map([["default", template]]) } });
    closers.push(() => client.server.stop());
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
    await client.received(5);
    leaving[0]!.abort();
    leaving[2]!.abort();
    expect((await last).status).toBe(200);
    expect(await Promise.all(asked)).toEqual(["gone", "gone", "gone"]);
    expect(client.reports.map(({ status }) => status)).toEqual([429, 499, 499, 499, 200]);
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

describe("what is refused", () => {
  const messages = [user("x")];
  const refused = async (response: Response, status: number, param: string | null, words: string) => {
    expect(response.status).toBe(status);
    const { error } = (await response.json()) as {
      error: { message: string; type: string; param: string | null; code: unknown };
    };
    expect(error.message).toContain(words);
    expect(error.param).toBe(param);
    expect(error.type).toBe("invalid_request_error");
    expect(error.code === null || typeof error.code === "string").toBe(true);
  };

  test("fields, each by its name", async () => {
    const chats: [object, number, string | null, string][] = [
      [{}, 400, "messages", "expected array"],
      [{ messages: [] }, 400, "messages", ">=1 items"],
      [{ messages: [user(3)] }, 400, "messages[0].content", "expected a text or a list of parts"],
      [{ messages: [user([{ type: "image_url", image_url: { url: "x" } }])] }, 400, "messages[0].content", "type text"],
      [{ messages: [...messages, { content: "x" }] }, 400, "messages[1].role", "expected string"],
      [{ messages: [{ role: "user" }] }, 400, "messages", "message 1"],
      [{ messages, temperature: -1 }, 400, "temperature", ">=0"],
      [{ messages, temperature: "hot" }, 400, "temperature", "number"],
      [{ messages, top_p: 2 }, 400, "top_p", "<=1"],
      [{ messages, top_k: 1.5 }, 400, "top_k", "int"],
      [{ messages, max_tokens: 0 }, 400, "max_tokens", ">=1"],
      [{ messages, max_completion_tokens: 0 }, 400, "max_completion_tokens", ">=1"],
      [{ messages, stop: ["a", "b", "c", "d", "e"] }, 400, "stop", "at most 4"],
      [{ messages, stop: "" }, 400, "stop", "none of them empty"],
      [{ messages, seed: 0.5 }, 400, "seed", "int"],
      [{ messages, n: 2 }, 400, "n", "only 1"],
      [{ messages, frequency_penalty: 0.5 }, 400, "frequency_penalty", "only 0"],
      [{ messages, logit_bias: { 5: 1 } }, 400, "logit_bias", "not supported"],
      [{ messages, logprobs: true }, 400, "logprobs", "only false"],
      [{ messages, response_format: { type: "json_object" } }, 400, "response_format.type", 'only "text"'],
      [{ messages, tool_choice: "required" }, 400, "tool_choice", '"auto" or "none"'],
      [{ messages, tools: [{ type: "function", function: { name: "f" } }] }, 400, "tools", "no place for tools"],
      [{ messages, stream_options: { include_usage: true } }, 400, "stream_options", "only with stream"],
      [{ messages, temprature: 1 }, 400, "temprature", "unknown field"],
      [{ messages, ["k".repeat(10_000)]: 1 }, 400, `${"k".repeat(77)}...`, "unknown field"],
      [{ messages, model: "gpt-4" }, 404, "model", '"served"'],
      [{ messages: [user("word ".repeat(2000))] }, 400, "messages", "more than the maximum context length of 1024 tokens"],
    ];
    for (const [body, status, param, words] of chats) await refused(await client.post(CHAT, body), status, param, words);
    const texts: [object, number, string | null, string][] = [
      [{}, 400, "prompt", "expected a text"],
      [{ prompt: ["a", "b"] }, 400, "prompt", "list of one text"],
      [{ prompt: "" }, 400, "prompt", "no tokens"],
      [{ prompt: [1, 999_999] }, 400, "prompt", "no token 999999"],
      [{ prompt: "x", echo: true }, 400, "echo", "only false"],
      [{ prompt: "x", suffix: "y" }, 400, "suffix", "not supported"],
      [{ prompt: "x", messages }, 400, "messages", "unknown field"],
      [{ prompt: Array.from({ length: 1025 }, () => 5) }, 400, "prompt", "1025 tokens, more than"],
    ];
    for (const [body, status, param, words] of texts) await refused(await client.post(TEXT, body), status, param, words);
  });

  test("what changes nothing is taken: null, neutral values, and what is about the caller", async () => {
    const neutral = {
      n: 1,
      presence_penalty: 0,
      frequency_penalty: 0,
      logit_bias: {},
      stop: [],
      user: "u",
      metadata: { a: "b" },
    };
    const nothing = { temperature: null, top_p: null, max_tokens: null, stop: null, stream: null, model: null, seed: null };
    const chat = { messages, logprobs: false, tools: [], tool_choice: "auto", response_format: { type: "text" }, store: false };
    const plain = said(await ask(CHAT, { messages }));
    expect(said(await ask(CHAT, { ...chat, ...neutral }))).toBe(plain);
    expect(said(await ask(CHAT, { messages, ...nothing, tools: null, tool_choice: "none" }))).toBe(plain);
    const tools = [{ type: "function", function: { name: "f" } }];
    expect(said(await ask(CHAT, { messages, tools, tool_choice: "none" }))).toBe(plain);
  });

  test("bodies that are no JSON, of another type, or too large; paths and methods that are not there", async () => {
    await refused(await client.post(CHAT, "{"), 400, null, "not valid JSON");
    const nested = `{"messages":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
    await refused(await client.post(CHAT, nested), 400, null, "nested deeper");
    await refused(await client.post(CHAT, "", { body: Uint8Array.of(0x22, 0xff, 0x22) }), 400, null, "not UTF-8");
    await refused(await client.post(CHAT, "[]"), 400, null, "expected object");
    await refused(await client.post(CHAT, "{}", { headers: { "content-type": "text/plain" } }), 415, null, "application/json");
    const large = "x".repeat(MOST_BYTES + 1);
    await refused(await client.post(CHAT, large), 413, null, `${MOST_BYTES} bytes`);
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < large.length; at += 1 << 20) controller.enqueue(Buffer.from(large.slice(at, at + (1 << 20))));
        controller.close();
      },
    });
    await refused(await client.post(CHAT, "", { body }), 413, null, `${MOST_BYTES} bytes`);
    await refused(await fetch(`${originOf(client.server)}/v1/embeddings`), 404, null, "/v1/embeddings");
    await refused(await fetch(`${originOf(client.server)}/constructor`), 404, null, "/constructor");
    const get = await fetch(originOf(client.server) + CHAT);
    expect(get.headers.get("allow")).toBe("POST");
    await refused(get, 405, null, "takes POST");
    await refused(await fetch(`${originOf(client.server)}/v1/models/other`), 404, "model", '"served"');
  });

  test("an error inside is a 500 that tells no more; its cause is in the report, and the next request is answered", async () => {
    const decoder = scriptedDecoder(model.tokenizer, model.vocabSize, "hello");
    const bug = new Error("a bug");
    let isBroken = true;
    const broken = {
      ...decoder,
      feedInPieces: (ids: readonly number[]) => {
        if (isBroken) throw bug;
        return decoder.feedInPieces(ids);
      },
    };
    const client = serve({ ...model, decoders: [broken] });
    closers.push(() => client.server.stop());
    const whole = await client.post(TEXT, { prompt: "x" });
    expect(whole.status).toBe(500);
    const { error } = (await whole.json()) as { error: { type: string; message: string } };
    expect(error).toMatchObject({ type: "server_error", message: "internal error; the server's log has more" });
    const streamed = await client.post(TEXT, { prompt: "x", stream: true });
    expect(await streamed.text()).toBe(`data: ${JSON.stringify({ error })}\n\n`);
    expect(client.reports.map((report) => report.error?.cause)).toEqual([bug, bug]);
    isBroken = false;
    expect(said(await ask(TEXT, { prompt: "x" }, client))).toBe("hello");
  });

  test("the models are listed", async () => {
    const { data } = (await (await fetch(`${originOf(client.server)}/v1/models`)).json()) as { data: object[] };
    expect(data).toEqual([expect.objectContaining({ id: "served", object: "model" })]);
    expect(await (await fetch(`${originOf(client.server)}/v1/models/served`)).json()).toEqual(data[0]!);
  });
});

describe("who may ask", () => {
  const models = "/v1/models";
  const status = async (client: Client, headers: Record<string, string>, path = models) =>
    (await fetch(originOf(client.server) + path, { headers })).status;

  test("with a key, who has it; the health is no secret", async () => {
    const client = scripted("hello", { apiKey: "secret" });
    expect(await status(client, {})).toBe(401);
    expect(await status(client, { authorization: "Bearer secreT" })).toBe(401);
    expect(await status(client, { authorization: "secret" })).toBe(401);
    expect(await status(client, { authorization: "Bearer secret" })).toBe(200);
    // A key is as good as the right name.
    expect(await status(client, { authorization: "Bearer secret", host: "model.example" })).toBe(200);
    expect(await status(client, {}, "/health")).toBe(200);
    const response = await client.post(TEXT, { prompt: "x" });
    expect(await response.json()).toMatchObject({ error: { type: "invalid_request_error", code: "invalid_api_key" } });
  });

  test("without one, names of this machine only: a web page whose name leads here is of another", async () => {
    expect(await status(client, { host: "evil.example" })).toBe(403);
    expect(await status(client, { host: "localhost:1" })).toBe(200);
  });

  test("web pages of the origin that is named, and none without", async () => {
    const preflight = { method: "OPTIONS", headers: { "access-control-request-headers": "authorization,x-other" } };
    expect((await fetch(originOf(client.server) + CHAT, preflight)).status).toBe(405);
    expect((await client.post(TEXT, { prompt: "x" })).headers.get("access-control-allow-origin")).toBeNull();
    const origin = "http://localhost:3000";
    const open = scripted("hello", { cors: origin, apiKey: "secret" });
    const asked = await fetch(originOf(open.server) + CHAT, preflight);
    expect(asked.status).toBe(204);
    expect(asked.headers.get("access-control-allow-origin")).toBe(origin);
    expect(asked.headers.get("access-control-allow-headers")).toBe("authorization,x-other");
    expect((await open.post(TEXT, { prompt: "x" })).headers.get("access-control-allow-origin")).toBe(origin);
  });
});
