import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { TemplateError } from "../../../../src/data/chat/jinja/errors.ts";
import { readExactly } from "../../../../src/base/exact-json.ts";
import { parseTemplate, runTemplate } from "../../../../src/data/chat/jinja/template.ts";

const folder = join(import.meta.dir, "../../../golden/jinja");

/** Written by conformance.py with Jinja2 and Transformers; null: an error there. */
const golden = JSON.parse(readFileSync(join(folder, "conformance.json"), "utf8")) as {
  readonly now: string;
  readonly variables: string;
  readonly cases: readonly (readonly [template: string, text: string | null])[];
  readonly chats: Readonly<Record<string, readonly (string | null)[]>>;
};
const now = new Date(golden.now);

/** null: refused. */
function render(source: string, variables: Readonly<Record<string, unknown>>): string | null {
  try {
    return runTemplate(parseTemplate(source), variables, now);
  } catch (error) {
    if (error instanceof TemplateError) return null;
    throw error;
  }
}

test(`${golden.cases.length} expressions and templates give Python's text, or are errors in both`, () => {
  const variables = readExactly(golden.variables) as Record<string, unknown>;
  const differ = golden.cases
    .map(([template, text]) => ({ template, python: text, here: render(template, variables) }))
    .filter(({ python, here }) => python !== here);
  expect(differ).toEqual([]);
  expect(golden.cases.length).toBeGreaterThan(300);
});

test("templates of the shapes of popular models, and of the tokenizers among the fixtures, give Python's text on each conversation", () => {
  const chats = readExactly(readFileSync(join(folder, "chats.json"), "utf8")) as Record<string, unknown>[];
  const common = { tools: null, documents: null, bos_token: "<s>", eos_token: "</s>" };
  const names = Object.keys(golden.chats);
  for (const name of names) {
    const source = chatTemplate(name);
    expect([name, ...chats.map((chat) => render(source, { ...common, ...chat }))]).toEqual([name, ...golden.chats[name]!]);
  }
  expect(names.length).toBeGreaterThan(15);
});

/** A look-alike, or the template beside a tokenizer of the repository. */
function chatTemplate(name: string): string {
  if (!name.includes("/")) return readFileSync(join(folder, "chats", `${name}.jinja`), "utf8");
  const model = join(import.meta.dir, "../../../..", name);
  const file = join(model, "chat_template.jinja");
  if (existsSync(file)) return readFileSync(file, "utf8");
  return (JSON.parse(readFileSync(join(model, "tokenizer_config.json"), "utf8")) as { chat_template: string }).chat_template;
}
