import { SLOW } from "../../../support/slow.ts";

const times = (count: number, body: string): string =>
  `{% set ns = namespace(s='ab', l=[1, 2]) %}{% for i in range(${count}) %}${body}{% endfor %}`;
/** A text of a million characters. */
const BIG = "{% set big = 'ab' * 500000 %}";

/** Templates whose text or values grow without an end. */
export const GROWING: readonly string[] = [
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

/** Templates that take steps without an end, or nearly so. */
export const ENDLESS: readonly string[] = [
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

/** Sources of two million characters at most. */
export const DEEP: readonly string[] = [
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

/** Parts of a long source. */
const MANY = SLOW ? 100_000 : 30_000;

/** Long, but flat: each is read in a time that grows with its length. */
export const LONG: readonly string[] = [
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
