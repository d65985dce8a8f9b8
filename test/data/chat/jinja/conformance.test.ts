import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { TemplateError } from "../../../../src/data/chat/jinja/errors.ts";
import { readExactly } from "../../../../src/base/exact-json.ts";
import { parseTemplate, runTemplate } from "../../../../src/data/chat/jinja.ts";

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
