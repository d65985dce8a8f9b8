import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { TemplateError } from "../../../../src/data/chat/jinja/errors.ts";
import { parseTemplate, runTemplate } from "../../../../src/data/chat/jinja/template.ts";
import { SLOW } from "../../../support/slow.ts";

setDefaultTimeout(120_000);

/** Returns what a template that is refused says; a text where it is not. */
function outcome(source: string, variables: Readonly<Record<string, unknown>> = {}): string {
  try {
    return `rendered ${runTemplate(parseTemplate(source), { messages: [{ role: "user", content: "hi" }], ...variables }, new Date(0)).length} characters`;
  } catch (error) {
    if (error instanceof TemplateError) return error.message;
    throw error;
  }
}

const times = (count: number, body: string): string =>
  `{% set ns = namespace(s='ab', l=[1, 2]) %}{% for i in range(${count}) %}${body}{% endfor %}`;
/** A text of a million characters. */
const BIG = "{% set big = 'ab' * 500000 %}";

const GROWING: readonly string[] = [
  times(40, "{% set ns.l = ns.l + ns.l %}"),
  times(40, "{% set ns.s = ns.s + ns.s %}"),
  times(40, "{% set ns.s = ns.s ~ ns.s %}"),
  times(40, "{% set ns.s = ns.s | replace('a', 'ab') | replace('b', 'ba') %}"),
  times(40, "{% set ns.s = ns.s.replace('', 'abc') %}"),
  times(40, "{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
  times(40, "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}",
  times(40, "{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | tojson }}",
  times(40, "{% set ns.l = {'a': ns.l, 'b': ns.l} %}") + "{{ ns.l | string | length }}",
  times(40, "{% set ns.s = '%s%s' % (ns.s, ns.s) %}"),
  times(40, "{% set ns.s = '{0}{0}'.format(ns.s) %}"),
  times(40, "{% set ns.s = ('\\n' ~ ns.s) | indent(1000000) %}"),
  times(40, "{% set ns.l = ns.l * 2 %}"),
  times(40, "{% set ns.l = ns.l | list + ns.l | list %}"),
  times(99_999, "{% set ns.s = ns.s ~ 'x' * 1000 %}{% set ns.t = ns.s | upper %}"),
  "{{ messages | tojson(indent=2000000000) }}",
  "{{ [[[[[[1]]]]]] | tojson(indent='a' * 10000000) }}",
  "{{ 'a' * 10000000000 }}",
  "{{ 'a' * 10 ** 300 }}",
  "{{ [0] * 10000000000 }}",
  "{{ ((0,) * 10000000000) | length }}",
  "{{ 'a' | center(10000000000) }}",
  "{{ 'a'.center(10000000000) }}",
  "{{ 'a'.ljust(10000000000) }}",
  "{{ 'a'.rjust(10 ** 18) }}",
  "{{ 'a'.zfill(10000000000) }}",
  "{{ 'a\\tb'.expandtabs(10000000000) }}",
  "{{ 'a\\nb' | indent(10000000000) }}",
  "{{ '%1000000000d' % 1 }}",
  "{{ '%.1000000000d' % 1 }}",
  "{{ '%*d' % (10 ** 12, 1) }}",
  "{{ '{:1000000000}'.format(1) }}",
  "{{ '{:>{}}'.format('a', 1000000000) }}",
  "{{ [1] | batch(10000000000, 'x') | list }}",
  `${BIG}{{ ([big] * 100000) | join | length }}`,
  `${BIG}{{ ([big] * 100000) | join(big) | length }}`,
  `${BIG}{{ big.join(big) }}`,
  `${BIG}{{ big.replace('a', big) }}`,
  `${BIG}{{ big | replace('', big) }}`,
  `${BIG}{{ ([big] * 100000) | string | length }}`,
  `${BIG}{{ ([big] * 100000) | map('upper') | list | length }}`,
  `${BIG}{% for i in range(1000) %}{{ big }}{% endfor %}`,
  "{% macro m(n) %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m(1) %}".repeat(40) + "x" + "{% endcall %}".repeat(40),
];

/** Resident bytes of the process without its garbage. */
function resident(): number {
  Bun.gc(true);
  return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"))![1]);
}

let before = 0;
beforeAll(() => void (before = resident()));

test.each([...GROWING])("%.100s: refused for what it makes", (source) => {
  expect(outcome(source)).toMatch(/(grow without an end|does not come to an end).* \(line 1 of the template\)$/);
});

const ENDLESS: readonly string[] = [
  "{% for i in range(100000) %}{% for i in range(100000) %}{% endfor %}{% endfor %}",
  "{% for i in range(100000) %}{% for i in range(100000) if false %}{% endfor %}{% endfor %}",
  "{% for i in range(100000) %}{{ range(100000) | sum }}{% endfor %}",
  "{% for i in range(100000) %}{{ 99999 in range(100000) | list }}{% endfor %}",
  "{% for i in range(100000) %}{{ range(100000) | select('odd') | first }}{{ range(100000) | max }}{% endfor %}",
  `${BIG}{% for i in range(100000) %}{{ big.find('zz') }}{% endfor %}`,
  `${BIG}{% for i in range(100000) %}{{ 'zz' in big }}{% endfor %}`,
  `${BIG}{% for i in range(100000) %}{{ big is lower }}{% endfor %}`,
  `${BIG}{{ (big + 'ba' + big).find(big + 'bb' + big) }}{{ (big * 2).count(big + 'ba') }}{{ big.replace(big[2:] + 'bb', '') | length }}`,
  `${BIG}{% set l = [big ~ 1, big ~ 2] * 50000 %}{{ l | sort | length }}`,
  times(25, "{% set ns.l = [ns.l, ns.l] %}{% set ns.k = [ns.k, ns.k] %}") + "{{ ns.l == ns.k }}",
  "{{ 7 ** 7 ** 7 ** 7 }}",
  "{{ 10 ** 1000000000 }}",
  "{% set ns = namespace(n=3) %}{% for i in range(100) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n % 2 }}",
  "{{ [1] | slice(10000000000) | list | length }}",
];

test.each([...ENDLESS])("%.100s: refused for what it takes, or done in little", (source) => {
  expect(outcome(source)).toMatch(/does not come to an end|grow without an end|grows beyond \d+ bits|^rendered/);
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

/** Sources of two million characters at most. */
const DEEP: readonly string[] = [
  `{{ ${"(".repeat(100_000)}1${")".repeat(100_000)} }}`,
  `{{ ${"[".repeat(100_000)}1${"]".repeat(100_000)} }}`,
  `{{ ${"{1:".repeat(100_000)}1${"}".repeat(100_000)} }}`,
  `{{ ${"not ".repeat(100_000)}1 }}`,
  `{{ ${"-".repeat(100_000)}1 }}`,
  `{{ ${"a(".repeat(100_000)}${")".repeat(100_000)} }}`,
  `{{ ${"a[".repeat(100_000)}1${"]".repeat(100_000)} }}`,
  `{{ ${"1 if 1 else ".repeat(100_000)}1 }}`,
  `${"{% if 1 %}".repeat(100_000)}x${"{% endif %}".repeat(100_000)}`,
  `${"{% for a in b %}".repeat(50_000)}`,
  `{% set ${"(".repeat(100_000)}a${")".repeat(100_000)} = 1 %}`,
];

test.each(DEEP.map((source) => [source.slice(0, 30), source] as const))("%s...: nested too deep", (_, source) => {
  expect(outcome(source)).toMatch(/nested (deeper than 200 levels|too deeply)/);
});

/** Parts of a long source. */
const MANY = SLOW ? 100_000 : 30_000;

/** Long, but flat: each is read in a time that grows with its length. */
const LONG: readonly string[] = [
  `{{ 1${" + 1".repeat(MANY)} }}`,
  `{{ 'a'${" ~ 'a'".repeat(MANY)} }}`,
  `{{ 'a'${" | upper".repeat(MANY)} }}`,
  `{{ a${".b".repeat(MANY)} }}`,
  `{{ 1${" < 2".repeat(MANY)} }}`,
  `{{ 1${" and 1".repeat(MANY)} }}`,
  `{{ [${"1, ".repeat(MANY)}] }}`,
  `{{ {${"1: 2, ".repeat(MANY)}} }}`,
  "{{ 1 }}".repeat(MANY),
  "{# c #}".repeat(MANY),
  "{{ 'a\\n' }} \n".repeat(50_000),
  " ".repeat(1_000_000) + "x{%- set a = 1 %}" + "{ % ".repeat(MANY),
  `{{ '${"\\x41".repeat(200_000)}' }}`,
  `{{ ${"1_".repeat(500_000)}1 }}`,
  `{{ '${"1".repeat(500_000)}x' | float }}{{ '${"1_".repeat(500_000)}x' | int }}`,
  `{{ '${"<!--".repeat(200_000)}' | striptags }}{{ '${"<".repeat(500_000)}' | striptags }}`,
  `{{ '${" ".repeat(500_000)}x${" ".repeat(500_000)}y'.strip().split() }}{{ '${"a-".repeat(50_000)}' | wordwrap(5) }}`,
  `{{ '${"%(".repeat(200_000)}' % {'a': 1} }}`,
  `{{ '${"{".repeat(200_001)}'.format() }}`,
  "{% if 1 %}",
  "{{ '",
];

test.each(LONG.map((source) => [source.slice(0, 40), source] as const))("%s...: read or refused", (_, source) => {
  expect(outcome(source)).toMatch(/^rendered|\(line \d+ of the template\)$/);
});

test("what is refused leaves the process as it was, give or take 256 MiB", () => {
  expect(resident() - before).toBeLessThan(256 * 2 ** 20);
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
