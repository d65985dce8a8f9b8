import { expect, test } from "bun:test";
import { copyFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createChatTemplate } from "../../../src/data/chat/chat-template.ts";
import { type ChatExample, parseExample } from "../../../src/data/examples/formats.ts";
import { createSampleMaker } from "../../../src/data/samples/sample-maker.ts";
import { loadTokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { temporaryFolder } from "../../hf/temp.ts";

const folder = temporaryFolder();

const CALLS =
  "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}" +
  "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}\n{% endfor %}{% endfor %}";
const ARGUMENTS =
  "{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments | items %}{{ k ~ '=' }}{{ v | string }};{% endfor %}{% endfor %}{% endfor %}";

/** A conversation whose assistant calls a function with these arguments, as a line of data. */
const called = (args: string, tools = ""): string =>
  `{"messages":[{"role":"user","content":"w?"},{"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":${args}}}]}]${tools}}`;

function rendered(template: string, line: string): string {
  const { messages, tools } = parseExample(line, "data.jsonl:1") as ChatExample;
  return createChatTemplate(template).render({ messages: messages.map(({ fields }) => fields), tools });
}

/** The right sides are what Transformers 5.23 renders of the same line. */
const NUMBERS = '{"order":12345678901234567890,"t":1.0,"big":1e22,"m":{"b":1,"10":2,"2":3}}';

test("numbers and keys of a call's arguments are printed as Python prints them", () => {
  expect(rendered(CALLS, called(NUMBERS))).toBe(
    '{"name": "f", "arguments": {"order": 12345678901234567890, "t": 1.0, "big": 1e+22, "m": {"b": 1, "10": 2, "2": 3}}}\n',
  );
  expect(rendered(ARGUMENTS, called('{"a":1e5,"b":-0.0,"c":0.1,"d":-0,"e":[1.0,{"1":null,"0":true}]}'))).toBe(
    "a=100000.0;b=-0.0;c=0.1;d=0;e=[1.0, {'1': None, '0': True}];",
  );
});

test("so are those of tools, of arguments in other forms of data, and of lists in a text", () => {
  const tool =
    '{"type":"function","function":{"name":"f","parameters":{"properties":{"10":{"minimum":1.0},"2":{"maximum":12345678901234567890}}}}}';
  const printed =
    '{"type": "function", "function": {"name": "f", "parameters": {"properties": {"10": {"minimum": 1.0}, "2": {"maximum": 12345678901234567890}}}}}\n';
  expect(
    rendered(CALLS, `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tools":[${tool}]}`),
  ).toBe(printed);
  const texts = `"conversations":[{"from":"human","value":"q"},{"from":"function_call","value":${JSON.stringify(`{"name":"f","arguments":${NUMBERS}}`)}}]`;
  expect(rendered(CALLS, `{${texts},"tools":${JSON.stringify(`[${tool}]`)}}`)).toBe(
    `${printed}{"name": "f", "arguments": {"order": 12345678901234567890, "t": 1.0, "big": 1e+22, "m": {"b": 1, "10": 2, "2": 3}}}\n`,
  );
});

test("a message's weight is a number beside them", () => {
  const line = called(NUMBERS).replace('"role":"assistant"', '"role":"assistant","weight":0.50');
  expect((parseExample(line, "f:1") as ChatExample).messages.map(({ weight }) => weight)).toEqual([0, 0.5]);
});

test("True, None and texts in lists are written as Python writes them", () => {
  expect(rendered(ARGUMENTS, called('{"a":true,"l":[true,"x",null]}'))).toBe("a=True;l=[True, 'x', None];");
});

test("a template with CR LF is one with LF", () => {
  const base = join(import.meta.dir, "../../../recipes/base/model");
  for (const name of readdirSync(base)) if (name.endsWith(".json")) copyFileSync(join(base, name), join(folder, name));
  const template =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" +
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  const line = '{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}';
  const samples = [template, template.replaceAll("\n", "\r\n")].map((source) => {
    writeFileSync(join(folder, "chat_template.jinja"), source);
    const tokenizer = loadTokenizer(folder);
    return createSampleMaker(tokenizer, { maxLength: 100, vocabSize: tokenizer.size }).samples(parseExample(line, "f:1"));
  });
  expect(samples[1]).toEqual(samples[0]!);
  expect(samples[1]![0]!.ids).toHaveLength(15);
});
