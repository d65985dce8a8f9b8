import { describe, expect, test } from "bun:test";
import { trainedTexts } from "../../../src/data/chat/chat-spans.ts";
import { createChatTemplate } from "../../../src/data/chat/chat-template.ts";
import { refuseLostContext } from "../../../src/data/chat/losses.ts";
import type { Notice } from "../../../src/data/chat/notices.ts";
import { parseExample, type ChatExample } from "../../../src/data/examples/formats.ts";
import { userError } from "../../hf/temp.ts";

const ENDS = ["<|im_end|>"];
const ASKING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const turn = (content: string) => `{{ '<|im_start|>' ~ m.role ~ '\\n' }}${content}{{ '<|im_end|>\\n' }}`;
const each = (body: string) => `{% for m in messages %}${body}{% endfor %}${ASKING}`;

const PLAIN = each(turn("{{ m.content }}"));
const CALLS = each(
  turn(
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name ~ (c.function.arguments | tojson) }}{% endfor %}",
  ),
);
/** Passes over results of tools and calls. */
const SKIPPING = each(`{% if m.role != 'tool' %}${turn("{{ m.content or '' }}")}{% endif %}`);
/** DeepSeek-R1's habit: reasoning is cut out of answers, and begun when one is asked for. */
const CUTTING =
  `{% for m in messages %}${turn("{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}")}{% endfor %}` +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}";

const user = (content: unknown) => ({ role: "user", content });
const assistant = (content: unknown, more: object = {}) => ({ role: "assistant", content, ...more });
const call = (args: unknown, more: object = {}) =>
  assistant("", { tool_calls: [{ id: "c1", type: "function", function: { name: "rain", arguments: args } }], ...more });
const tools = [{ type: "function", function: { name: "rain", parameters: {} } }];

function trained(source: string, messages: object[], more: object = {}) {
  const notices: Notice[] = [];
  const example = parseExample(JSON.stringify({ messages, ...more }), "d.jsonl:3") as ChatExample;
  const texts = trainedTexts(createChatTemplate(source), example, ENDS, (notice) => notices.push(notice));
  const parts = texts.map(({ text, ranges }) => ranges.map(([from, to]) => text.slice(from, to)));
  return { texts: texts.map(({ text }) => text), parts, notices };
}

const lost = (source: string, messages: object[], more: object = {}) => userError(() => trained(source, messages, more));

describe("what a template leaves out is an error that names place, message and field", () => {
  test("calls and results: one error for all, the first one in front", () => {
    const messages = [user("rain in Ulm?"), call({ town: "Ulm" }), { role: "tool", content: "3 mm" }, assistant("It rained.")];
    expect(lost(SKIPPING, messages, { tools })).toBe(
      'd.jsonl:3, message 2: the chat template leaves out "tool_calls", and also "content" of the role "tool" (message 3), "tools"; ' +
        "the model would never see it: give a template that has a place for it with --chat-template, or take it out of the data",
    );
  });

  test("tools alone; a tool without a name too", () => {
    const messages = [user("a"), assistant("b")];
    expect(lost(PLAIN, messages, { tools })).toStartWith('d.jsonl:3: the chat template leaves out "tools"');
    expect(lost(PLAIN, messages, { tools: [{ a: 1 }] })).toStartWith('d.jsonl:3: the chat template leaves out "tools"');
    expect(trained(`{{ tools | tojson }}${PLAIN}`, messages, { tools: [{ a: 1 }] }).parts).toEqual([["b<|im_end|>"]]);
  });

  test("arguments, whatever is in them; OpenAI's older function_call", () => {
    const named = CALLS.replace(" ~ (c.function.arguments | tojson)", "");
    for (const args of [
      { town: "Ulm" },
      { n: [1, { deep: "x" }] },
      { n: 1 },
      '{"town": "Ulm"}',
      { big: 12345678901234567890n.toString() },
    ]) {
      expect(lost(named, [user("a"), call(args)])).toStartWith('d.jsonl:3, message 2: the chat template leaves out "tool_calls"');
      expect(trained(CALLS, [user("a"), call(args)]).parts).toHaveLength(1);
    }
    expect(trained(named, [user("a"), call({})]).parts).toEqual([["rain<|im_end|>"]]);
    const older = { role: "assistant", content: null, function_call: { name: "rain", arguments: '{"n":1}' } };
    expect(lost(SKIPPING, [user("a"), older])).toContain('message 2: the chat template leaves out "tool_calls"');
    expect(trained(CALLS.replace("m.content or ''", "m.content | default('')"), [user("a"), older]).parts[0]![0]).toStartWith(
      "rain{",
    );
  });

  test("words beside calls, system prompts, parts of a content", () => {
    const beside = CALLS.replace("m.content or ''", "'' if m.tool_calls else m.content");
    expect(lost(beside, [user("a"), { ...call({ n: "x" }), content: "Let me look." }])).toContain(
      'message 2: the chat template leaves out "content"',
    );
    const silent = each(`{% if m.role != 'system' %}${turn("{{ m.content }}")}{% endif %}`);
    expect(lost(silent, [{ role: "system", content: "Be brief." }, user("a"), assistant("b")])).toStartWith(
      'd.jsonl:3, message 1: the chat template leaves out "content" of the role "system"',
    );
    const first = each(turn("{{ m.content if m.content is string else m.content[0].text }}"));
    const parts = [
      { type: "text", text: "one" },
      { type: "text", text: "two" },
    ];
    expect(lost(first, [user(parts), assistant("b")])).toContain('message 1: the chat template leaves out "content"');
    expect(trained(PLAIN, [user(parts), assistant(parts)]).parts).toEqual([["one\ntwo<|im_end|>"]]);
  });

  test("reasoning in a content or in a field of its own", () => {
    expect(lost(CUTTING, [user("2+2?"), assistant("<think>\ntwo and two\n</think>\n\n4")])).toStartWith(
      'd.jsonl:3, message 2: the chat template leaves out the reasoning in "content"',
    );
    for (const name of ["reasoning_content", "thinking", "reasoning"])
      expect(lost(PLAIN, [user("a"), assistant("b", { [name]: "because" })])).toContain(
        `message 2: the chat template leaves out "${name}"`,
      );
    // Nothing to lose.
    expect(trained(CUTTING, [user("a"), assistant("<think>\n\n</think>\n\n4")]).parts).toEqual([["\n\n4<|im_end|>"]]);
  });

  test("templates that look at what a text says", () => {
    const said = (content: string) => each(turn(content));
    const messages = (content: string) => [user("what is it?"), assistant(content)];
    const equal = said("{% if m.content != 'secret' %}{{ m.content }}{% endif %}");
    expect(lost(equal, messages("secret"))).toContain('message 2: the chat template leaves out "content"');
    expect(trained(equal, messages("secrets")).parts).toEqual([["secrets<|im_end|>"]]);
    const redacted = said("{{ '[redacted]' if 'password' in m.content else m.content }}");
    expect(lost(redacted, messages("the password is a word"))).toContain('message 2: the chat template leaves out "content"');
    expect(trained(redacted, messages("the word is a pass word")).parts).toHaveLength(1);
    const short = said("{{ m.content[:20] }}");
    expect(lost(short, messages("more than twenty characters of it"))).toContain(
      'message 2: the chat template leaves out "content"',
    );
    expect(trained(short, messages("twenty and no more")).parts).toHaveLength(1);
    // Another text, and nothing is lost.
    expect(trained(said("{{ m.content | upper }}"), messages("loud")).parts).toEqual([["LOUD<|im_end|>"]]);
    expect(trained(said("{{ m.content | tojson }}"), messages('a "b"')).parts).toEqual([['"a \\"b\\""<|im_end|>']]);
  });

  test("the same words elsewhere do not hide that a message is gone", () => {
    const lastUser = each(
      `{% if m.role == 'assistant' or loop.index0 >= messages | length - 2 %}${turn("{{ m.content }}")}{% endif %}`,
    );
    const twice = [
      user("What is love, after all?"),
      assistant("A word of four letters."),
      user("What is love, after all?"),
      assistant("Still that."),
    ];
    expect(lost(lastUser, twice)).toContain("message 1: ");
    expect(lost(SKIPPING.replaceAll("'tool'", "'user'"), [user("a"), assistant("an assistant's a")])).toContain("message 1: ");
  });
});

describe("reasoning that a template leaves out of what was said before is counted", () => {
  // Kept in the last message alone.
  const LAST = each(turn("{{ m.content if loop.last else m.content.split('</think>')[-1] }}"));
  const thought = (text: string, more: object = {}) => assistant(`<think>${text}</think>said`, more);

  test("each trained turn has its own in a text of its own, and an untrained one is counted", () => {
    const both = trained(LAST, [user("q"), thought("one"), user("r"), thought("two")]);
    expect(both.parts).toEqual([["<think>one</think>said<|im_end|>"], ["<think>two</think>said<|im_end|>"]]);
    expect(both.notices).toEqual([]);
    const second = trained(LAST, [user("q"), thought("one", { weight: 0 }), user("r"), thought("two")]);
    expect(second.parts).toEqual([["<think>two</think>said<|im_end|>"]]);
    expect(second.notices).toEqual([{ kind: "reasoning", where: "d.jsonl:3, message 2" }]);
  });

  test("with generation blocks the conversation is one text: counted where the last turn would keep it", () => {
    const blocks = LAST.replace("{{ m.content if", "{% generation %}{{ m.content if").replace(
      "[-1] }}",
      "[-1] }}{% endgeneration %}",
    );
    const made = trained(blocks, [user("q"), thought("one"), user("r"), thought("two")]);
    expect(made.notices).toEqual([{ kind: "reasoning", where: "d.jsonl:3, message 2" }]);
    const always = blocks.replace("m.content if loop.last else ", "");
    expect(lost(always, [user("q"), thought("one")])).toContain(
      'message 2: the chat template leaves out the reasoning in "content"',
    );
  });
});

describe("where answers are", () => {
  test("an answer that begins like the generation prompt's tail is whole", () => {
    for (const answer of ["<b>bold</b>", "<", "<thin", "<think", "\n<b>"]) {
      const { parts } = trained(CUTTING, [user("q"), assistant(answer), user("r"), assistant(answer)]);
      expect(parts).toEqual([[`${answer}<|im_end|>`, `${answer}<|im_end|>`]]);
    }
  });

  test("a result that is rendered otherwise when it is last", () => {
    const lastTool = each(turn("{{ m.content }}{% if m.role == 'tool' and not loop.last %}{{ '\\n' }}{% endif %}"));
    const messages = [user("a"), assistant("call"), { role: "tool", content: "3" }, assistant("three")];
    expect(trained(lastTool, messages).parts).toEqual([["call<|im_end|>", "three<|im_end|>"]]);
    // The words of the answer stand before it too.
    const same = [user("three"), assistant("three"), { role: "tool", content: "three" }, assistant("three")];
    expect(trained(lastTool, same).parts).toEqual([["three<|im_end|>", "three<|im_end|>"]]);
  });

  test("a template that refuses a conversation which ends with a call", () => {
    const strict = `{% if messages[-1].tool_calls and not add_generation_prompt %}{{ raise_exception('a result must follow') }}{% endif %}${CALLS}`;
    const messages = [user("a"), call({ n: "x" }), { role: "tool", content: "3" }, assistant("three")];
    expect(trained(strict, messages).parts).toEqual([['rain{"n": "x"}<|im_end|>', "three<|im_end|>"]]);
    expect(lost(strict, messages.slice(0, 2))).toStartWith("d.jsonl:3, message 2: chat template: the chat template refuses");
  });

  test("an end token that is marked as special or not, from the template itself", () => {
    const example = parseExample(JSON.stringify({ messages: [user("a"), assistant("b")] }), "d:1") as ChatExample;
    const [text] = trainedTexts(createChatTemplate(PLAIN), example, []);
    // No token is known to end a turn: the line break behind it is the answer's too.
    expect(text!.text.slice(...text!.ranges[0]!)).toBe("b<|im_end|>\n");
  });
});

test("a refusal names the message and what it lacks", () => {
  const messages = [
    user("hi"),
    { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: {} } }] },
    assistant("x"),
  ];
  expect(lost("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", messages)).toMatch(
    /^d\.jsonl:3, message 2: .*; the message has no "content", which the template needs$/,
  );
});

test("a prompt that loses a message is refused too, but not for the reasoning of earlier turns", () => {
  const prompt = (messages: object[], source: string) =>
    refuseLostContext(createChatTemplate(source), parseExample(JSON.stringify({ messages }), "d:1") as ChatExample);
  expect(userError(() => prompt([user("a"), { role: "tool", content: "3 mm" }], SKIPPING))).toStartWith("d:1, message 2: ");
  prompt([user("a"), assistant("<think>so</think>b"), user("c")], CUTTING);
});
