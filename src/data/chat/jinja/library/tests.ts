import { type Builtin, builtin, table } from "./builtin.ts";
import { binary } from "../values/arithmetic.ts";
import { compare, type Comparison, contains, equal } from "../values/compare.ts";
import { isIterable, lengthOf } from "../values/items.ts";
import { isOfKind } from "../values/strings.ts";
import { str } from "../values/text.ts";
import { Callable, Dict, Float, intOf, numberOf, Undefined, type Value, View } from "../values/values.ts";

/** Jinja's tests: what stands behind `is`. */

const COMPARISONS: readonly (readonly [Comparison, readonly string[]])[] = [
  ["==", ["==", "eq", "equalto"]],
  ["!=", ["!=", "ne"]],
  [">", [">", "gt", "greaterthan"]],
  [">=", [">=", "ge"]],
  ["<", ["<", "lt", "lessthan"]],
  ["<=", ["<=", "le"]],
];

const simple = (name: string, holds: (value: Value) => boolean): Builtin => builtin(name, "", (value) => holds(value));

/** A text; what else can be a key is no name. @throws {TemplateError} what cannot */
function isKey(value: Value): value is string {
  new Dict().has(value);
  return typeof value === "string";
}

export function allTests(library: {
  readonly hasFilter: (name: string) => boolean;
  readonly hasTest: (name: string) => boolean;
}): ReadonlyMap<string, Builtin> {
  return table(
    ...COMPARISONS.flatMap(([operator, names]) => names.map((name) => builtin(name, "b |", (a, b) => compare(operator, a, b)))),
    simple("defined", (value) => !(value instanceof Undefined)),
    simple("undefined", (value) => value instanceof Undefined),
    simple("none", (value) => value === null),
    simple("boolean", (value) => typeof value === "boolean"),
    simple("true", (value) => value === true),
    simple("false", (value) => value === false),
    simple("integer", (value) => typeof value !== "boolean" && intOf(value) !== null),
    simple("float", (value) => value instanceof Float),
    simple("number", (value) => numberOf(value) !== null),
    simple("string", (value) => typeof value === "string"),
    simple("mapping", (value) => value instanceof Dict),
    simple("sequence", (value) => lengthOf(value) !== null && !(value instanceof View)),
    simple("iterable", isIterable),
    simple("callable", (value) => value instanceof Callable || value instanceof Undefined),
    simple("escaped", () => false),
    simple("lower", (value) => isOfKind(str(value), "islower")),
    simple("upper", (value) => isOfKind(str(value), "isupper")),
    simple("odd", (value) => equal(binary("%", value, 2), 1)),
    simple("even", (value) => equal(binary("%", value, 2), 0)),
    simple("filter", (value) => isKey(value) && library.hasFilter(value)),
    simple("test", (value) => isKey(value) && library.hasTest(value)),
    builtin("divisibleby", "num", (value, by) => equal(binary("%", value, by), 0)),
    // Equal texts and integers are one object here.
    builtin("sameas", "other", (a, b) => a === b),
    builtin("in", "seq", (value, container) => contains(container, value)),
  );
}
