import { expect, setDefaultTimeout, test } from "bun:test";
import { createRandom, type Random } from "../../../src/base/random.ts";
import { UserError } from "../../../src/base/errors.ts";
import { trainedTexts } from "../../../src/data/chat/chat-spans.ts";
import { createChatTemplate } from "../../../src/data/chat/chat-template.ts";
import { exampleOf, type ChatExample } from "../../../src/data/examples/formats.ts";
import { SLOW } from "../../support/slow.ts";

setDefaultTimeout(120_000);

/**
 * Conversations through templates of random habits, against what can be seen without following any words: a field is lost where other
 * words in it change nothing. Contents are of the awkward kinds: short, alike, cut by templates, like tags and tokens and roles.
 */
const CONTENTS = [
  ..."a|b|0|user|assistant|call|<th|</think>x|<b>x</b>|<|im_end|>|hello world out there|a longer answer, of several words".split(
    /\|(?!im_end|>)/,
  ),
  "",
  "  spaced  ",
  "one\ntwo\n\nthree",
  "<think>\nwhy so\n</think>\n\nbecause",
  "<think>\n\n</think>\n\nno thought",
];
const WORDS = [
  "{{ m.content }}",
  "{{ m.content | trim }}",
  "{{ m.content.strip('\\n') }}",
  "{{ m.content.split('</think>')[-1] }}",
  "{{ m.content.split('</think>')[-1].lstrip('\\n') if not loop.last else m.content }}",
  "{{ m.content[:25] }}",
  "{{ m.content | replace('\\n', ' ') }}",
  "{{ '' if 'hello' in m.content else m.content }}",
  "{{ m.content ~ ('.' if loop.last else ';') }}",
];
const CALLS = [
  "{% for c in m.tool_calls or [] %}{{ '<call>' ~ c.function.name ~ (c.function.arguments | tojson) }}{% endfor %}",
  "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}",
  "",
];
const HEADERS = ["<|im_start|>ROLE\\n", "ROLE: ", "[ROLE]"];
const ENDS = ["{{ '<|im_end|>\\n' }}", "{{ '<|im_end|>' }}", "{{ '<|im_end|>' if not loop.last else '<|end|>' }}", "{{ '\\n' }}"];
const BEGINNINGS = [
  "",
  "{{ messages | length }}",
  "{% if tools %}{{ tools | tojson }}{% endif %}",
  "{{ messages[-1].role }}",
  "<s>",
];

function templateOf(random: Random): string {
  const pick = <T>(choices: readonly T[]): T => choices[random.below(choices.length)]!;
  const words = () => (random.below(10) < 6 ? WORDS[0]! : pick(WORDS));
  const header = pick(HEADERS);
  const dropped = random.below(10) === 0 ? pick(["tool", "system"]) : "none";
  const asking =
    random.below(7) === 0
      ? ""
      : `{% if add_generation_prompt %}{{ '${header.replace("ROLE", "assistant")}${pick(["", "<think>\\n", "\\n"])}' }}{% endif %}`;
  const turn =
    `{{ '${header.replace("ROLE", "' ~ m.role ~ '")}' }}{% if m.role == 'assistant' %}${pick(WORDS)}${pick(CALLS)}` +
    `{% elif m.role == 'user' %}${words()}{% else %}${words()}{% endif %}${pick(ENDS)}`;
  return `${pick(BEGINNINGS)}{% for m in messages %}{% if m.role != '${dropped}' %}${turn}{% endif %}{% endfor %}${asking}`;
}

interface Said {
  readonly role: string;
  readonly content: string;
  readonly tool_calls?: readonly { readonly function: { readonly name: string; readonly arguments: object } }[];
}

function conversationOf(random: Random): Said[] {
  const content = () => CONTENTS[random.below(CONTENTS.length)]!;
  const messages: Said[] = random.below(3) === 0 ? [{ role: "system", content: content() }] : [];
  for (let turns = 1 + random.below(3); turns > 0; turns--) {
    messages.push({ role: "user", content: content() });
    if (random.below(3) === 0) {
      const args = [{ town: "Ulm" }, { n: 1 }, {}][random.below(3)]!;
      const call = { role: "assistant", content: content(), tool_calls: [{ function: { name: "rain", arguments: args } }] };
      messages.push(call, { role: "tool", content: content() });
    }
    messages.push({ role: "assistant", content: content() });
  }
  return messages;
}

/** Templates, each with a conversation. */
const COUNT = SLOW ? 2000 : 500;
const TOOLS = [{ type: "function", function: { name: "rain" } }];

test(`${COUNT} random templates and conversations: what is lost is refused, what is refused is lost, answers are where their words are`, () => {
  const counts = { read: 0, refused: 0 };
  for (let i = 0; i < COUNT; i++) {
    const random = createRandom(i, "templates");
    const source = templateOf(random);
    const template = createChatTemplate(source);
    const messages = conversationOf(random);
    const tools = random.below(7) === 0 ? TOOLS : null;
    const what = JSON.stringify({ source, messages, tools: tools !== null });
    const render = (some: readonly object[], own: readonly unknown[] | null = tools) =>
      template.render({ messages: some as Record<string, unknown>[], tools: own });
    /** Whether none of these messages in the place of one changes the rendering of the first `count`. */
    const isSame = (count: number, index: number, others: readonly object[]) => {
      const first = messages.slice(0, count);
      return others.every((other) => render(first.with(index, other as Said)) === render(first));
    };
    let texts: ReturnType<typeof trainedTexts>;
    try {
      const record = { messages, ...(tools ? { tools } : {}) };
      texts = trainedTexts(template, exampleOf(record, "d:1") as ChatExample, ["<|im_end|>", "<|end|>"]);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      counts.refused++;
      const [, place, field] =
        /^d:1, message (\d+): the chat template leaves out (the reasoning|"content"|"tool_calls")/.exec(error.message) ?? [];
      if (place === undefined) {
        expect(`${error.message} ${what}`).toStartWith('d:1: the chat template leaves out "tools"');
        continue;
      }
      const index = Number(place) - 1;
      const said = messages[index]!;
      const changed = {
        "the reasoning": [{ ...said, content: said.content.replace("why so", "other thoughts") }],
        '"content"': [`${said.content}qq`, `qq${said.content}`, said.content.replace(/\w+/, "qq"), "qq"].map((content) => ({
          ...said,
          content,
        })),
        '"tool_calls"': [{ ...said, tool_calls: [{ function: { name: "rain", arguments: { town: "Bern", zz: 5 } } }] }],
      }[field!]!;
      const ends = messages.flatMap(({ role }, at) => (role === "assistant" && at >= index ? [at + 1] : []));
      expect(
        ends.some((count) => changed.some((other) => isSame(count, index, [other]))),
        `${error.message} ${what}`,
      ).toBe(true);
      continue;
    }
    counts.read++;
    for (const { conversation } of texts) {
      const count = conversation?.messages.length ?? 0;
      for (const [index, said] of messages.slice(0, count).entries()) {
        const { content, tool_calls: calls } = said;
        const others = [`${content}qq`, `qq${content}`].map((other) => ({ ...said, content: other }));
        if (content.trim() !== "" && !content.includes("think>")) expect(isSame(count, index, others), what).toBe(false);
        const call = { function: { name: "qq", arguments: { ...calls?.[0]!.function.arguments, zz: 5 } } };
        if (calls) expect(isSame(count, index, [{ ...said, tool_calls: [call] }]), what).toBe(false);
      }
      const others = [{ type: "function", function: { name: "qq" } }];
      if (tools && count > 0) expect(render(messages.slice(0, count), others), what).not.toBe(render(messages.slice(0, count)));
    }
    const parts = texts.flatMap(({ text, ranges }) => ranges.map(([from, to]) => text.slice(from, to)));
    const answers = messages.filter(({ role }) => role === "assistant");
    expect(parts.length, what).toBe(answers.length);
    const flat = (text: string) => text.replaceAll(/\s+/g, " ");
    for (const [k, part] of parts.entries()) {
      expect(flat(part), what).toContain(flat(answers[k]!.content.split("</think>").at(-1)!.trim()));
      expect(part, what).not.toMatch(/\[user\]|<\|im_start\|>user|user: /);
    }
  }
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(COUNT / 4);
});
