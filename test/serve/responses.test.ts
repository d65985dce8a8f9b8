import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { type Client, useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const served = useServed();
const clientOf = ({ server }: Client) => new OpenAI({ baseURL: server.url, apiKey: "none", maxRetries: 0 });
let openai: OpenAI;
beforeAll(() => (openai = clientOf(served.client)));

type Params = Partial<OpenAI.Responses.ResponseCreateParamsNonStreaming>;
const create = (body: Params, client = openai) =>
  client.responses.create({ model: "served", ...body } as OpenAI.Responses.ResponseCreateParamsNonStreaming);
const ended = async (body: Params, client = openai) => {
  const stream = client.responses.stream({ model: "served", ...body } as Parameters<typeof client.responses.stream>[0]);
  const events: OpenAI.Responses.ResponseStreamEvent[] = [];
  for await (const event of stream) events.push(event);
  return { events, response: await stream.finalResponse() };
};

test("a text and message items get the answer that a chat gets, and what was asked comes back", async () => {
  const chat = (messages: object[]) =>
    openai.chat.completions
      .create({ model: "served", messages: messages as never })
      .then(({ choices, usage }) => ({ text: choices[0]!.message.content!, usage: usage! }));
  const brief = await create({ input: "Define love.", instructions: "Be brief." });
  expect(brief.instructions).toBe("Be brief.");
  const system = { role: "system", content: "Be brief." };
  expect(brief.output_text).toBe((await chat([system, { role: "user", content: "Define love." }])).text);
  const first = await create({ input: "Define love.", metadata: { a: "b" } });
  const expected = await chat([{ role: "user", content: "Define love." }]);
  expect(first.output_text).toBe(expected.text);
  expect(first).toMatchObject({
    object: "response",
    model: "served",
    status: "completed",
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: { a: "b" },
    text: { format: { type: "text" } },
    tools: [],
    output: [{ type: "message", role: "assistant", status: "completed" }],
  });
  const { prompt_tokens: input_tokens, completion_tokens: output_tokens, total_tokens } = expected.usage;
  expect(first.usage).toMatchObject({
    input_tokens,
    output_tokens,
    total_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
  });

  const turns: OpenAI.Responses.ResponseInput = [
    { role: "user", content: [{ type: "input_text", text: "Define love." }] },
    ...(first.output as OpenAI.Responses.ResponseOutputMessage[]),
    { role: "user", content: "And war?" },
  ];
  const second = await chat([
    { role: "user", content: "Define love." },
    { role: "assistant", content: first.output_text },
    { role: "user", content: "And war?" },
  ]);
  expect((await create({ input: turns })).output_text).toBe(second.text);
});

test("streams have the events that the client puts together, numbered, with the same response at their end", async () => {
  const whole = await create({ input: "Define love.", seed: 1 } as Params);
  const { events, response } = await ended({ input: "Define love.", seed: 1 } as Params);
  expect(response.output_text).toBe(whole.output_text);
  expect(events.map(({ sequence_number: number }) => number)).toEqual(events.map((_, i) => i));
  const types = events.map(({ type }) => type).filter((type) => type !== "response.output_text.delta");
  expect(types).toEqual([
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
  ]);
  const deltas = events.flatMap((event) => (event.type === "response.output_text.delta" ? [event.delta] : []));
  expect(deltas.join("")).toBe(whole.output_text);
  expect(deltas.length).toBeGreaterThan(5);
  const raw = await served.client.post("/v1/responses", { input: "x", max_output_tokens: 2, stream: true });
  expect(await raw.text()).toMatch(/^event: response\.created\ndata: \{"type":"response\.created"/);
});

test("an answer that reaches max_output_tokens is incomplete, whole and streamed; one that says nothing is an empty text", async () => {
  const cut = await create({ input: "Define love.", max_output_tokens: 3 });
  expect(cut).toMatchObject({ status: "incomplete", incomplete_details: { reason: "max_output_tokens" }, max_output_tokens: 3 });
  expect(cut.output[0]).toMatchObject({ status: "incomplete" });
  const { events } = await ended({ input: "Define love.", max_output_tokens: 3 });
  expect(events.at(-1)).toMatchObject({
    type: "response.incomplete",
    response: { output: cut.output.map(({ type }) => ({ type })) },
  });
  const empty = await create({ input: "x" }, clientOf(served.scripted("")));
  expect(empty.output).toMatchObject([{ type: "message", content: [{ type: "output_text", text: "" }] }]);
  expect((await ended({ input: "x" }, clientOf(served.scripted("")))).response.output_text).toBe("");
});

test("a schema, as the client makes it of zod's and parses the answer by it; log-probabilities where they are included", async () => {
  const Place = z.object({ city: z.string().max(10), visits: z.array(z.number().int()).max(3) });
  const response = await openai.responses.parse({
    model: "served",
    input: "Where?",
    temperature: 1,
    max_output_tokens: 60,
    text: { format: zodTextFormat(Place, "place") },
  });
  expect(Place.parse(response.output_parsed)).toEqual(response.output_parsed!);
  expect(response.text!.format).toMatchObject({ type: "json_schema", name: "place" });
  const object = await ended({ input: "Where?", max_output_tokens: 20, text: { format: { type: "json_object" } } });
  expect(JSON.parse(object.response.output_text)).toBeObject();
  const likely = await create({
    input: "Where?",
    max_output_tokens: 4,
    include: ["message.output_text.logprobs"],
    top_logprobs: 2,
  });
  const [message] = likely.output as OpenAI.Responses.ResponseOutputMessage[];
  const [content] = message!.content as OpenAI.Responses.ResponseOutputText[];
  expect(content!.logprobs!.map(({ token }) => token).join("")).toBe(likely.output_text);
  expect(content!.logprobs!.every(({ top_logprobs: top }) => top.length === 2)).toBe(true);
});

const root = join(import.meta.dir, "../..");
const qwen = readFileSync(join(root, "test/golden/tokenizers/qwen/chat_template.jinja"), "utf8");

test("calls of tools and reasoning are items, which go back as input and mean the same as in a chat", async () => {
  const script =
    '<think>\nrain?\n</think>\n\nI look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>';
  const client = served.scripted(script, {}, 4096, { chatTemplates: new Map([["default", qwen]]) });
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools: OpenAI.Responses.Tool[] = [{ type: "function", name: "weather", parameters, strict: true }];
  const input: OpenAI.Responses.ResponseInput = [{ role: "user", content: "How is the weather?" }];
  const response = await create({ input, tools }, clientOf(client));
  expect(response.output).toMatchObject([
    { type: "reasoning", content: [{ type: "reasoning_text", text: "rain?" }] },
    { type: "message", content: [{ text: "I look." }] },
    { type: "function_call", name: "weather", arguments: '{"city":"Köln"}', status: "completed" },
  ]);
  expect(response.usage!.output_tokens_details.reasoning_tokens).toBeGreaterThan(3);
  const streamed = await ended({ input, tools }, clientOf(client));
  expect(streamed.response.output.map(({ type }) => type)).toEqual(["reasoning", "message", "function_call"]);
  expect(streamed.events.filter(({ type }) => type.startsWith("response.reasoning_text")).length).toBeGreaterThan(1);

  const call = response.output[2] as OpenAI.Responses.ResponseFunctionToolCall;
  const back = [
    ...input,
    ...(response.output as never[]),
    { type: "function_call_output" as const, call_id: call.call_id, output: "rain" },
  ];
  const second = await create({ input: back, tools }, clientOf(client));
  const chat = await clientOf(client).chat.completions.create({
    model: "served",
    tools: [{ type: "function", function: { name: "weather", parameters } }],
    messages: [
      { role: "user", content: "How is the weather?" },
      {
        role: "assistant",
        content: "I look.",
        reasoning_content: "rain?",
        tool_calls: [{ id: call.call_id, type: "function", function: { name: "weather", arguments: call.arguments } }],
      },
      { role: "tool", tool_call_id: call.call_id, content: "rain" },
    ] as never,
  });
  expect(second.usage!.input_tokens).toBe(chat.usage!.prompt_tokens);
});

test("what is not there is refused by its name, as the client's own errors", async () => {
  const cases: [object, string, string][] = [
    [{}, "input", "expected a text or a list of items"],
    [{ input: [] }, "input", "a list of items"],
    [{ input: [{ role: "critic", content: "x" }] }, "input[0].role", "expected one of"],
    [{ input: "x", previous_response_id: "resp_1" }, "previous_response_id", "no conversation is kept here"],
    [{ input: "x", conversation: "conv_1" }, "conversation", "no conversation is kept here"],
    [{ input: "x", background: true }, "background", "only false"],
    [{ input: "x", reasoning: { effort: "low" } }, "reasoning", "not supported"],
    [{ input: "x", tools: [{ type: "web_search" }] }, "tools[0].type", 'only tools of type "function"'],
    [{ input: "x", include: ["file_search_call.results"] }, "include[0]", "only"],
    [{ input: "x", max_tokens: 4 }, "max_tokens", "max_output_tokens"],
    [
      { input: "x", text: { format: { type: "json_schema", name: "n", schema: { type: "x" } } } },
      "text.format.schema.type",
      "expected one of",
    ],
    [{ input: "x", truncation: "auto" }, "truncation", 'only "disabled"'],
    [{ input: "x", n: 2 }, "n", "unknown field"],
    [{ input: "word ".repeat(3000) }, "input", "more than the maximum context length"],
    [{ input: [{ role: "user", content: [{ type: "input_image", image_url: "x" }] }] }, "input[0].content", "type input_text"],
    [{ input: [{ type: "web_search_call", id: "x" }] }, "input[0].type", "expected an item of type message"],
  ];
  for (const [body, param, words] of cases) {
    const error = await create(body).then(
      () => null,
      (thrown: unknown) => thrown,
    );
    if (!(error instanceof BadRequestError)) throw new Error(`${JSON.stringify(body)}: ${String(error)}`);
    expect(error.param).toBe(param);
    expect(error.message).toContain(words);
  }
  const missing = await create({ input: "x", model: "gpt-4" } as Params).catch((thrown: unknown) => thrown);
  expect(missing).toBeInstanceOf(NotFoundError);
});

test("a server that stops ends a stream with an error event", async () => {
  const client = served.scripted("for ever", {}, 2_000_000);
  const streamed = (await client.post("/v1/responses", { input: "x", max_output_tokens: 1_000_000, stream: true })).text();
  await client.received(1);
  await client.server.stop();
  const events = (await streamed).trimEnd().split("\n\n");
  expect(events.at(-1)).toMatch(/^event: error\ndata: \{"type":"error","code":"server_stopping"/);
});
