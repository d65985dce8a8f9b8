import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { DEEP, ENDLESS, GROWING, LONG } from "./hostile-sources.ts";
import { outcome } from "./outcome.ts";

setDefaultTimeout(300_000);

/** What `hostile-child.ts` prints: an outcome a source, and the bytes that the process has more at the end. */
let rendered: { readonly outcomes: readonly (readonly string[])[]; readonly grown: number };

beforeAll(async () => {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "hostile-child.ts")], { stdout: "pipe", stderr: "inherit" });
  rendered = JSON.parse(await new Response(child.stdout).text());
});

test.each(GROWING.map((source, i) => [source, i] as const))("%.100s: refused for what it makes", (_, i) => {
  expect(rendered.outcomes[0]![i]).toMatch(/(grow without an end|does not come to an end).* \(line 1 of the template\)$/);
});

test.each(ENDLESS.map((source, i) => [source, i] as const))("%.100s: refused for what it takes, or done in little", (_, i) => {
  expect(rendered.outcomes[1]![i]).toMatch(/does not come to an end|grow without an end|grows beyond \d+ bits|^rendered/);
});

const RECURSIVE: readonly (readonly [string, string])[] = [
  ["{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "m calls itself without an end"],
  ["{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}\n{{ a() }}", "calls itself without an end"],
  ["{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}", "m calls itself without an end"],
  ["{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "loop calls itself without an end"],
  ["{% block a %}{{ self.a() }}{% endblock %}", "a calls itself without an end"],
];

test.each([...RECURSIVE])("%s: %s", (source, message) => {
  expect(outcome(source)).toContain(message);
});

test("macros and loops may call each other as deeply as Python lets them", () => {
  expect(outcome("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}x{% endmacro %}{{ m(240) }}")).toBe(
    "rendered 241 characters",
  );
});

test.each(DEEP.map((source, i) => [source.slice(0, 30), i] as const))("%s...: nested too deep", (_, i) => {
  expect(rendered.outcomes[2]![i]).toMatch(/nested (deeper than 200 levels|too deeply)/);
});

test.each(LONG.map((source, i) => [source.slice(0, 40), i] as const))("%s...: read or refused", (_, i) => {
  expect(rendered.outcomes[3]![i]).toMatch(/^rendered|\(line \d+ of the template\)$/);
});

test("what is refused leaves the process as it was, give or take 256 MiB", () => {
  expect(rendered.grown).toBeLessThan(256 * 2 ** 20);
});

test("a template may go over all turns at each turn of a long conversation", () => {
  const messages = Array.from({ length: 1000 }, (_, i) => ({
    role: i % 2 ? "assistant" : "user",
    content: `turn ${i} of a conversation`,
  }));
  const source =
    "{% for m in messages %}{% set ns = namespace(n=0) %}{% for other in messages %}{% if other.role == m.role %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}{{ ns.n }}{% endfor %}";
  expect(outcome(source, { messages })).toBe("rendered 3000 characters");
});

test("a long conversation is far from the bounds", () => {
  const content = "word ".repeat(2000);
  const messages = Array.from({ length: 2000 }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content }));
  const source =
    "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + '<' + m.role + '>' + m.content | trim | replace('a', 'b') + '\n' %}{% endfor %}{{ ns.t }}";
  expect(outcome(source, { messages })).toBe(`rendered ${1000 * (9999 * 2 + "<user>\n<assistant>\n".length)} characters`);
});
