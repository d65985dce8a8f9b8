import { describe, expect, test } from "bun:test";
import { createChatTemplate } from "../../../src/data/chat/chat-template.ts";
import { trainedTexts } from "../../../src/data/chat/chat-spans.ts";
import type { ChatExample } from "../../../src/data/examples/formats.ts";
import { parseExample } from "../../../src/data/examples/formats.ts";

const example = (given: string) =>
  parseExample(
    `{"messages":[{"role":"user","content":"w?"},{"role":"assistant","content":"","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":${given}}}]}]}`,
    "d.jsonl:1",
  ) as ChatExample;

const TEXT = JSON.stringify('{"town": "Ulm", "t": 1.0, "n": 12345678901234567890}');

/** A template that writes a message's content, and its calls by `call`. */
const template = (call: string) =>
  createChatTemplate(
    `{% for m in messages %}<|${"{{ m.role }}"}|>{{ m.content }}{% for c in m.tool_calls %}${call}{% endfor %}<|end|>{% endfor %}`,
  );

const rendered = (call: string, given = TEXT): string => {
  const chat = template(call);
  const { messages } = example(given);
  const [{ text } = { text: "" }] = trainedTexts(chat, example(given), ["<|end|>"]);
  // What is shown of a prompt is what is trained on.
  expect(chat.render({ messages: messages.map(({ fields }) => fields) })).toBe(text);
  return /<\|assistant\|>(.*)<\|end\|>$/.exec(text)![1]!;
};

const OBJECT = '{"town": "Ulm", "t": 1.0, "n": 12345678901234567890}';

describe("arguments of calls that are JSON in a text", () => {
  test.each<[string, string, string]>([
    ["tojson of the arguments: an object, numbers as they are written", "{{ c.function.arguments | tojson }}", OBJECT],
    ["tojson of the whole call", "{{ c.function | tojson }}", `{"name": "f", "arguments": ${OBJECT}}`],
    [
      "members of the arguments",
      "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}",
      "town=Ulm;t=1.0;n=12345678901234567890;",
    ],
    ["objects only", "{% if c.function.arguments is mapping %}{{ c.function.arguments | tojson }}{% endif %}", OBJECT],
    [
      "texts as they are",
      "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}",
      OBJECT,
    ],
    ["texts that are joined", "{{ 'call ' + c.function.arguments }}", `call ${OBJECT}`],
  ])("%s", (_, call, expected) => expect(rendered(call)).toBe(expected));

  test("what is no object in a text stays a text, and an object an object", () => {
    expect(rendered("{{ c.function.arguments | tojson }}", '"Ulm"')).toBe('"Ulm"');
    expect(rendered("{{ c.function.arguments | tojson }}", '"[1]"')).toBe('"[1]"');
    expect(rendered("{{ c.function.arguments | tojson }}", OBJECT)).toBe(OBJECT);
  });

  test("a call without a function around it", () => {
    const chat = template("{{ c.arguments | tojson }}");
    const bare = { role: "assistant", content: "", tool_calls: [{ name: "f", arguments: '{"a": 1}' }] };
    expect(chat.asCalled(bare)).toBe(bare);
    const whole = template("{{ c | tojson }}");
    expect(whole.render({ messages: [bare] })).toContain('"arguments": {"a": 1}');
  });
});
