import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ServedModel } from "../../src/serve/answer-orders.ts";
import { MOST_BYTES } from "../../src/serve/server.ts";
import { CHAT, type Client, originOf, said, scriptedDecoder, serve, TEXT, user, useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const served = useServed();
const { ask, scripted } = served;
let model: ServedModel;
let client: Client;
beforeAll(() => ({ model, client } = served));

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
    const tools = [{ type: "function", function: { name: "f" } }];
    const schema = (schema: object) => ({ type: "json_schema", json_schema: { name: "x", schema } });
    const place = "response_format.json_schema.schema";
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
      [{ messages, n: 9 }, 400, "n", "<=8"],
      [{ messages, n: 0 }, 400, "n", ">=1"],
      [{ messages, frequency_penalty: 2.5 }, 400, "frequency_penalty", "<=2"],
      [{ messages, presence_penalty: -3 }, 400, "presence_penalty", ">=-2"],
      [{ messages, logit_bias: { 5: 101 } }, 400, "logit_bias.5", "<=100"],
      [{ messages, logit_bias: { a: 1 } }, 400, "logit_bias.a", "the id of a token"],
      [{ messages, logit_bias: { 999999: 1 } }, 400, "logit_bias", "no token 999999"],
      [{ messages, logprobs: 3 }, 400, "logprobs", "boolean"],
      [{ messages, top_logprobs: 3 }, 400, "top_logprobs", "only with logprobs"],
      [{ messages, logprobs: true, top_logprobs: 21 }, 400, "top_logprobs", "<=20"],
      [{ messages, response_format: { type: "xml" } }, 400, "response_format.type", '"json_schema"'],
      [{ messages, response_format: { type: "json_schema" } }, 400, "response_format.json_schema", "expected object"],
      [{ messages, response_format: schema({ type: "date" }) }, 400, `${place}.type`, "expected one of object"],
      [
        { messages, response_format: schema({ type: "string", pattern: "(?=a)" }) },
        400,
        `${place}.pattern`,
        "cannot be followed",
      ],
      [{ messages, tools, response_format: { type: "json_object" } }, 400, "response_format", "not supported together"],
      [{ messages, tool_choice: "sometimes" }, 400, "tool_choice", '"auto", "none", "required"'],
      [{ messages, tool_choice: "required" }, 400, "tool_choice", "no tools to be called"],
      [{ messages, tools, tool_choice: { type: "function", function: { name: "g" } } }, 400, "tool_choice", 'no tool "g"'],
      [{ messages, tools: [{ type: "function", function: { name: "f" } }] }, 400, "tools", "no place for tools"],
      [{ messages, stream_options: { include_usage: true } }, 400, "stream_options", "only with stream"],
      [{ messages, temprature: 1 }, 400, "temprature", "unknown field"],
      [{ messages, ["k".repeat(10_000)]: 1 }, 400, `${"k".repeat(77)}...`, "unknown field"],
      [{ messages, model: "gpt-4" }, 404, "model", '"served"'],
      [{ messages: [user("word ".repeat(2000))] }, 400, "messages", "more than the maximum context length of 1024 tokens"],
      [{ messages: Array.from({ length: 1025 }, () => user("x")) }, 400, "messages", "1025 messages, more than"],
    ];
    for (const [body, status, param, words] of chats) await refused(await client.post(CHAT, body), status, param, words);
    const texts: [object, number, string | null, string][] = [
      [{}, 400, "prompt", "expected a text"],
      [{ prompt: ["a", "b"] }, 400, "prompt", "list of one text"],
      [{ prompt: [[5], [6]] }, 400, "prompt", "list of one such list"],
      [{ prompt: [[]] }, 400, "prompt", "list of one such list"],
      [{ prompt: [[5, 999_999]] }, 400, "prompt", "no token 999999"],
      [{ prompt: "" }, 400, "prompt", "no tokens"],
      [{ prompt: [1, 999_999] }, 400, "prompt", "no token 999999"],
      [{ prompt: "x", echo: true }, 400, "echo", "only false"],
      [{ prompt: "x", logprobs: true }, 400, "logprobs", "number"],
      [{ prompt: "x", best_of: 2 }, 400, "best_of", "only 1"],
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
    const unknown = { functions: null, function_call: null, reasoning_effort: null, verbosity: null, temprature: null };
    expect(said(await ask(CHAT, { messages, ...unknown }))).toBe(plain);
    const parts = [{ type: "text", text: "x", cache_control: null }];
    expect(said(await ask(CHAT, { messages: [{ role: "user", content: parts, name: null }] }))).toBe(plain);
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
    const client = served.also(serve({ ...model, decoders: [broken] }));
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
