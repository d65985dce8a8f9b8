import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import type { ServedModel } from "../../src/serve/answer-orders.ts";
import { CHAT, type Client, eventsOf, scriptedDecoder, serve, TEXT, user, useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const served = useServed();
let model: ServedModel;
beforeAll(() => ({ model } = served));

/** A server whose model has this template and says this. */
function saying(script: string, template: string): Client {
  const { tokenizer, vocabSize } = model;
  const own = { ...tokenizer, chatTemplates: new Map([["default", template]]) };
  return served.also(serve({ ...model, tokenizer: own, decoders: [scriptedDecoder(tokenizer, vocabSize, script)] }));
}

interface Message {
  readonly content: string | null;
  readonly reasoning_content?: string;
  readonly tool_calls?: readonly object[];
}

const TURNS = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}{# </think> #}{{ 'assistant:' }}";
const OPEN = `${TURNS}{% if open is not defined or open %}{{ '<think>' }}{% else %}{{ '<think></think>' }}{% endif %}`;

async function whole(client: Client, more: object = {}): Promise<Message> {
  const response = await client.post(CHAT, { messages: [user("2+2?")], ...more });
  const { choices } = (await response.json()) as { choices: [{ message: Message; finish_reason: string }] };
  return choices[0].message;
}

async function streamed(client: Client, more: object = {}): Promise<{ content: string; reasoning: string }> {
  const { pieces } = await eventsOf(await client.post(CHAT, { messages: [user("2+2?")], stream: true, ...more }));
  const deltas = pieces.map(({ choices: [choice] }) => choice?.delta as Partial<Message> | undefined);
  return {
    content: deltas.map((delta) => delta?.content ?? "").join(""),
    reasoning: deltas.map((delta) => delta?.reasoning_content ?? "").join(""),
  };
}

test("reasoning comes beside the answer, as a whole and as a stream", async () => {
  const client = saying("<think>\nadd them\n</think>\n\nIt is 4.", TURNS);
  expect(await whole(client)).toMatchObject({ content: "It is 4.", reasoning_content: "add them" });
  expect(await streamed(client)).toEqual({ content: "It is 4.", reasoning: "add them" });
  const none = await whole(saying("It is 4.", TURNS));
  expect(none.content).toBe("It is 4.");
  expect(none).not.toHaveProperty("reasoning_content");
});

test("where the prompt begins it, also as template arguments say; a template without it, and plain texts, give all as text", async () => {
  const client = saying("add them</think>It is 4.", OPEN);
  expect(await whole(client)).toMatchObject({ content: "It is 4.", reasoning_content: "add them" });
  expect(await streamed(client)).toEqual({ content: "It is 4.", reasoning: "add them" });
  expect((await whole(client, { chat_template_kwargs: { open: false } })).content).toBe("add them</think>It is 4.");
  expect(await whole(client, { chat_template_kwargs: null })).toMatchObject({ reasoning_content: "add them" });
  const plain = saying("<think>a</think>b", TURNS.replace("{# </think> #}", ""));
  expect((await whole(plain)).content).toBe("<think>a</think>b");
  const text = await client.post(TEXT, { prompt: "x" });
  expect(((await text.json()) as { choices: [{ text: string }] }).choices[0].text).toBe("add them</think>It is 4.");
});

test("calls behind reasoning", async () => {
  const template = `{% if tools %}{{ tools | tojson }}{% endif %}${TURNS}{# <tool_call></tool_call> #}`;
  const client = saying('<think>a tool</think>\n<tool_call>{"name": "f", "arguments": {}}</tool_call>', template);
  const tools = [{ type: "function", function: { name: "f" } }];
  expect(await whole(client, { tools, max_tokens: 100 })).toMatchObject({
    content: null,
    reasoning_content: "a tool",
    tool_calls: [{ function: { name: "f", arguments: "{}" } }],
  });
});

test("a stop text that is a special token ends the answer at that token", async () => {
  const client = saying("One.<|im_start|>Two.", TURNS);
  const response = await client.post(CHAT, { messages: [user("x")], stop: ["<|im_start|>"] });
  const { choices } = (await response.json()) as { choices: [{ message: Message; finish_reason: string }] };
  expect(choices[0]).toMatchObject({ message: { content: "One." }, finish_reason: "stop" });
  const without = await whole(client);
  expect(without.content).toBe("One.Two.");
});

test("a conversation of which the template leaves something out is refused", async () => {
  const client = saying(
    "x",
    "{% for m in messages %}{% if m.role != 'tool' %}{{ m.role + ':' + m.content }}{% endif %}{% endfor %}",
  );
  const response = await client.post(CHAT, { messages: [user("x"), { role: "tool", content: "3 degrees", tool_call_id: "c" }] });
  expect(response.status).toBe(400);
  expect(await response.text()).toContain("message 2: the chat template leaves out");
});
