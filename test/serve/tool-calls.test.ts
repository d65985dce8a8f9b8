import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { chatTemplateOf } from "../../src/data/chat/chat-template.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { GREEDY } from "../../src/generate/sampler.ts";
import { createRandom } from "../../src/base/random.ts";
import { withArguments } from "../../src/data/chat/call-arguments.ts";
import { createCallReader, type TextOrCall } from "../../src/serve/tool-calls.ts";
import { eventsOf, scriptedDecoder, serve } from "../support/served.ts";

setDefaultTimeout(120_000);

const root = join(import.meta.dir, "../..");
const closers: (() => unknown)[] = [];
afterAll(async () => {
  for (const close of closers) await close();
});

/** Texts that follow each other as one, calls as [name, arguments]. */
function joined(parts: readonly TextOrCall[]): (string | [string, string])[] {
  const result: (string | [string, string])[] = [];
  for (const part of parts) {
    const last = result.at(-1);
    if ("call" in part) result.push([part.call.function.name, part.call.function.arguments]);
    else if (typeof last === "string") result[result.length - 1] = last + part.text;
    else result.push(part.text);
  }
  return result;
}

const CASES: [string, (string | [string, string])[]][] = [
  ["plain text, a < b and <tool\n", ["plain text, a < b and <tool\n"]],
  ['<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [["f", '{"a":1}']]],
  [
    'Let me see.\n<tool_call>{"name":"f","arguments":"{\\"a\\": 1}"}</tool_call>\n<tool_call>{"name":"g"}</tool_call>\n',
    ["Let me see.", ["f", '{"a": 1}'], ["g", "{}"]],
  ],
  [
    '<tool_call>{"name":"f","arguments":{"a":1.0,"b":12345678901234567890}}</tool_call>',
    [["f", '{"a":1.0,"b":12345678901234567890}']],
  ],
  ['<tool_call>{"name":"f","arguments":{}}</tool_call>\n\nDone. ', [["f", "{}"], "Done. "]],
  ['one <tool_call>{"name": 5}</tool_call> two', ['one<tool_call>{"name": 5}</tool_call> two']],
  ["<tool_call>no JSON</tool_call>", ["<tool_call>no JSON</tool_call>"]],
  ['<tool_call>{"name":"f","arguments":{"a":"</b>"}}', [["f", '{"a":"</b>"}']]],
  ['text <tool_call>{"name":"f","argum', ['text<tool_call>{"name":"f","argum']],
];

test("calls and texts are the same in pieces of any size", () => {
  const random = createRandom(3, "tool calls");
  for (const [text, expected] of CASES) {
    for (let i = 0; i < 200; i++) {
      const reader = createCallReader();
      const parts: TextOrCall[] = [];
      for (let at = 0; at < text.length;) {
        const to = at + (i === 0 ? text.length : 1 + random.below(9));
        parts.push(...reader.push(text.slice(at, to)));
        at = to;
      }
      parts.push(...reader.end());
      expect(joined(parts)).toEqual(expected);
      for (const part of parts) if ("text" in part) expect(part.text).not.toBe("");
    }
  }
});

test("arguments go into the template as objects; what is no object stays as it is", () => {
  const call = (written: unknown) => ({ role: "assistant", tool_calls: [{ function: { name: "f", arguments: written } }] });
  expect(withArguments(call('{"a": [1]}'))).toEqual(call({ a: [1] }));
  for (const other of ["[1]", "no JSON", { a: 1 }, 5]) expect(withArguments(call(other))).toEqual(call(other));
  expect(withArguments({ role: "user", content: "x", tool_calls: "x" })).toEqual({ role: "user", content: "x", tool_calls: "x" });
});

test("with Qwen's template an answer's calls come as tool_calls, whole and streamed, and their results go back", async () => {
  const base = loadTokenizer(join(root, "recipes/base/model"));
  const template = readFileSync(join(root, "test/golden/tokenizers/qwen/chat_template.jinja"), "utf8");
  const tokenizer = { ...base, chatTemplates: new Map([["default", template]]) };
  const script = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>';
  const client = serve({
    name: "served",
    tokenizer,
    vocabSize: base.size,
    decoders: [scriptedDecoder(base, base.size, script, 4096)],
    stop: new Set([base.eosId!]),
    sampling: { ...GREEDY, maxNewTokens: 200 },
  });
  closers.push(() => client.server.stop());
  const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
  const messages: Record<string, unknown>[] = [{ role: "user", content: "How is the weather in Köln?" }];
  const post = (body: object) => client.post("/v1/chat/completions", { messages, tools, ...body });
  const expected = { type: "function", function: { name: "weather", arguments: '{"city":"Köln"}' } };

  const { choices } = (await (await post({})).json()) as {
    choices: [{ message: { content: string; tool_calls: { id: string }[] }; finish_reason: string }];
  };
  const { message, finish_reason } = choices[0];
  expect(finish_reason).toBe("tool_calls");
  expect(message.content).toBe("I look.");
  expect(message.tool_calls).toEqual([{ id: expect.stringMatching(/^call_\w{32}$/) as string, ...expected }]);

  const { pieces } = await eventsOf(await post({ stream: true }));
  const deltas = pieces.map(({ choices: [choice] }) => choice!.delta!);
  expect(deltas.map(({ content }) => content ?? "").join("")).toBe("I look.");
  expect(deltas.flatMap((delta) => (delta as { tool_calls?: object[] }).tool_calls ?? [])).toEqual([
    expect.objectContaining({ index: 0, ...expected }),
  ]);
  expect(pieces.at(-1)!.choices[0]!.finish_reason).toBe("tool_calls");

  // Without tools, or none to be called, it is text; an answer that is cut in a call is text too.
  const plain = (await (await post({ tool_choice: "none" })).json()) as { choices: [{ message: object }] };
  expect(plain.choices[0].message).toEqual({ role: "assistant", content: script, refusal: null });
  const cut = (await (await post({ max_tokens: 20 })).json()) as { choices: [{ message: object; finish_reason: string }] };
  expect(cut.choices[0]).toMatchObject({ finish_reason: "length", message: { content: expect.stringContaining("<tool_call>") } });

  // The template writes the arguments as the model did.
  const result = { role: "tool", tool_call_id: message.tool_calls[0]!.id, content: "rain" };
  messages.push(message, result);
  const { usage } = (await (await post({})).json()) as { usage: { prompt_tokens: number } };
  const called = { ...message, tool_calls: [{ type: "function", function: { name: "weather", arguments: { city: "Köln" } } }] };
  const rendered = chatTemplateOf(tokenizer).render({
    messages: [messages[0]!, called, result],
    tools,
    addGenerationPrompt: true,
  });
  expect(rendered).toContain('{"name": "weather", "arguments": {"city": "Köln"}}');
  expect(usage.prompt_tokens).toBe(base.encode(rendered).length);
});

test("numbers and keys of tools and calls come into the prompt as they are written", async () => {
  const base = loadTokenizer(join(root, "recipes/base/model"));
  const template =
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls }}{% endfor %}{{ x }}";
  const decoder = scriptedDecoder(base, base.size, "ok", 4096);
  const client = serve({
    name: "served",
    tokenizer: { ...base, chatTemplates: new Map([["default", template]]) },
    vocabSize: base.size,
    decoders: [decoder],
    stop: new Set([base.eosId!]),
    sampling: { ...GREEDY, maxNewTokens: 10 },
  });
  closers.push(() => client.server.stop());
  const written = '{"10": {"minimum": 1.0}, "2": 12345678901234567890}';
  const call = `{"type": "function", "function": {"name": "f", "arguments": ${written}}}`;
  const body = `{"messages": [{"role": "assistant", "content": "", "tool_calls": [${call}]}, {"role": "user", "content": "q"}], "temperature": 0.5,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": ${written}}}], "chat_template_kwargs": {"x": 2.0}}`;
  const response = await client.post("/v1/chat/completions", body, { headers: { "content-type": "application/json" } });
  expect([response.status, await response.text()]).toEqual([200, expect.stringContaining("ok") as string]);
  const prompt = base.decode(decoder.ids);
  expect(prompt).toContain(`"parameters": ${written}`);
  expect(prompt).toContain("'arguments': {'10': {'minimum': 1.0}, '2': 12345678901234567890}");
  expect(prompt).toContain("2.0");
});

test("calls that are required come, of the tool that is named, with arguments of its schema, in chats and responses", async () => {
  const base = loadTokenizer(join(root, "recipes/base/model"));
  const template = readFileSync(join(root, "test/golden/tokenizers/qwen/chat_template.jinja"), "utf8");
  const serving = (source: string) => {
    const client = serve({
      name: "served",
      tokenizer: { ...base, chatTemplates: new Map([["default", source]]) },
      vocabSize: base.size,
      decoders: [scriptedDecoder(base, base.size, "It rains, I guess.", 4096)],
      stop: new Set([base.eosId!]),
      sampling: { ...GREEDY, temperature: 1, maxNewTokens: 120 },
    });
    closers.push(() => client.server.stop());
    return new OpenAI({ baseURL: client.server.url, apiKey: "none", maxRetries: 0 });
  };
  const parameters = {
    type: "object",
    properties: { city: { type: "string", maxLength: 9 }, days: { type: "integer", minimum: 1, maximum: 9 } },
    required: ["city", "days"],
    additionalProperties: false,
  };
  const tools = [
    { type: "function" as const, function: { name: "weather", parameters } },
    { type: "function" as const, function: { name: "now" } },
  ];
  const messages = [{ role: "user" as const, content: "How is the weather?" }];
  const openai = serving(template);
  const checked = (name: string, written: string) => {
    const given = JSON.parse(written) as { city: string; days: number };
    if (name === "now") return expect(given).toBeObject();
    expect(name).toBe("weather");
    expect(Object.keys(given)).toEqual(["city", "days"]);
    expect(given.days).toBeWithin(1, 10);
  };
  for (let seed = 0; seed < 4; seed++) {
    const required = await openai.chat.completions.create({ model: "served", messages, tools, tool_choice: "required", seed });
    const [choice] = required.choices;
    expect(choice!.finish_reason).toBe("tool_calls");
    expect(choice!.message.content).toBeNull();
    const calls = choice!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
    expect(calls.length).toBeGreaterThan(0);
    for (const { function: called } of calls) checked(called.name, called.arguments);
    const named = { type: "function" as const, function: { name: "weather" } };
    const one = await openai.chat.completions.create({ model: "served", messages, tools, tool_choice: named, seed });
    const [call, ...rest] = one.choices[0]!.message.tool_calls as OpenAI.ChatCompletionMessageFunctionToolCall[];
    expect(rest).toEqual([]);
    expect(call!.function.name).toBe("weather");
    checked("weather", call!.function.arguments);
  }
  const response = await openai.responses.create({
    model: "served",
    input: "How is the weather?",
    tools: [{ type: "function", name: "weather", parameters, strict: true }],
    tool_choice: { type: "function", name: "weather" },
  });
  expect(response.output.map(({ type }) => type)).toEqual(["function_call"]);
  checked("weather", (response.output[0] as OpenAI.Responses.ResponseFunctionToolCall).arguments);

  const other = serving("{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}");
  const refused = await other.chat.completions
    .create({ model: "served", messages, tools, tool_choice: "required" })
    .catch((error: unknown) => error);
  expect(refused).toMatchObject({ status: 400, param: "tool_choice" });
  const bad = [
    { type: "function" as const, function: { name: "f", parameters: { type: "object", properties: { a: { not: {} } } } } },
  ];
  const place = await openai.chat.completions
    .create({ model: "served", messages, tools: bad, tool_choice: "required" })
    .catch((error: unknown) => error);
  expect(place).toMatchObject({ status: 400, param: "tools[0].function.parameters.properties.a.not" });
});
