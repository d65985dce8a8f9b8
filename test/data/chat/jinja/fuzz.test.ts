import { expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Random } from "../../../../src/base/random.ts";
import { createChatTemplate } from "../../../../src/data/chat/chat-template.ts";
import { fuzz, INPUTS } from "../../../support/fuzz.ts";

setDefaultTimeout(300_000);

const folder = join(import.meta.dir, "../../../golden/jinja");
const chats = readdirSync(join(folder, "chats")).map((name) => readFileSync(join(folder, "chats", name), "utf8"));
const expressions = readFileSync(join(folder, "expressions.txt"), "utf8")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));
const SEEDS = [...chats, ...expressions];

/** Parts of templates, some of which ask for much. */
const PIECES = (
  "{{|}}|{%|%}|{#|#}|{%-|-%}|{{-|-}}|{% raw %}|{% endraw %}|{% endfor %}|{% endif %}|{% if true %}|{% else %}|{% for x in messages %}|" +
  "{% for i in range(99999) %}|{% macro m() %}|{% endmacro %}|{{ m() }}|{% set ns = namespace(s='a', l=[1]) %}|{% set ns.s = ns.s ~ ns.s %}|" +
  "{% set ns.l = [ns.l, ns.l] %}|{{ ns.l }}|{% break %}|{% continue %}|{% call m() %}|{% endcall %}|{% with a = 1 %}|{% endwith %}| recursive|{{ loop(messages) }}|" +
  "(|)|[|]|{|}|'|\"|\\|,|.|:|=|~|*|**|//|%|<|==| in | not | is | if | else | and |'a' * 99999999|10 ** 9999|[1] * 9999999|range(0, 99999)|-1|1e999|" +
  " | tojson(indent=9999999)| | center(99999999)| | replace('', 'aaaaaaaaaa')| | indent('aaaa')| | list| | join(messages)| | map('string')| | sort| | format(1)|" +
  "'%99999999d' % 1|'{:99999999}'.format(1)|.__class__|.items()|[::-1]|[0]|messages|loop.index|none|\u0000|\u{1f600}|\ud83d|\r\n|\u2028"
).split("|");

/** Suffixes of any expression. */
const SUFFIXES: readonly string[] = [
  " | list",
  " | string",
  " | length",
  " | tojson(indent=9)",
  " | upper",
  " | sort",
  " | first",
  " | map('string') | list",
  " | join(messages)",
  " | replace('', 'abc')",
  " | indent('aaaa', true)",
  " | default('x')",
  " * 9",
  " + 1",
  " ~ messages",
  " == 1",
  " in messages",
  " is string",
  " or 'x'",
  " and 2",
  " if false",
  " if 1 else 2",
  "[::-1]",
  "[0]",
  ".items",
  ", 1",
  " | center(300)",
  " | batch(2) | list",
  " | unique | list",
  " | int",
  " | float",
  " | round(1)",
  " // 2",
  " % 3",
  " ** 2",
  " * 99999999",
  " | safe",
];

function mutate(random: Random): string {
  const pick = <Item>(items: readonly Item[]): Item => items[random.below(items.length)]!;
  let source = pick(SEEDS);
  if (random.below(2) === 0) {
    const ends = [...source.matchAll(/ [-+]?[}%]\}/g)].map(({ index }) => index);
    for (let left = 1 + random.below(3); left > 0 && ends.length > 0; left--) {
      const at = pick(ends);
      if (at <= source.length) source = source.slice(0, at) + pick(SUFFIXES) + source.slice(at);
    }
    return source;
  }
  for (let left = 1 + random.below(4); left > 0; left--) {
    const at = random.below(source.length + 1);
    const cut = random.below(3) === 0 ? random.below(30) : 0;
    const other = pick(SEEDS);
    const from = random.below(other.length);
    const insert = random.below(3) === 0 ? other.slice(from, from + random.below(60)) : pick(PIECES);
    source = source.slice(0, at) + insert + source.slice(at + cut);
  }
  return source;
}

const call = { type: "function", function: { name: "f", arguments: { a: 1, b: [true, null, "x"] } } };
const messages = [
  { role: "system", content: "s" },
  { role: "user", content: "q <b>é😀" },
  { role: "assistant", content: "", tool_calls: [call] },
  { role: "tool", content: "r" },
  { role: "assistant", content: "<think>\nt\n</think>\n\na" },
];
const tools = [
  { type: "function", function: { name: "f", parameters: { type: "object", properties: { a: { type: "integer" } } } } },
];

const golden = JSON.parse(readFileSync(join(folder, "conformance.json"), "utf8")) as { readonly variables: string };
const variables = { bos_token: "<s>", eos_token: "</s>", ...(JSON.parse(golden.variables) as object) };

test(`${INPUTS} mutated chat templates: rendered, or refused with the line of the fault`, async () => {
  const counts = await fuzz("templates", mutate, (source) => {
    try {
      createChatTemplate(source, variables, new Date(0)).render({ messages, tools });
    } catch (error) {
      if (!/\(line \d+ of the template\)$|\.\.\.$/.test((error as Error).message)) throw new Error("no line", { cause: error });
      throw error;
    }
  });
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.1 * INPUTS);
});
