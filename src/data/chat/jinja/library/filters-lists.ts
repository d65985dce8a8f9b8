import { item, ownAttribute } from "./access.ts";
import { type Builtin, builtin, table, variadic } from "./builtin.ts";
import { TemplateError } from "../errors.ts";
import { join, textOf } from "./methods.ts";
import { roundFloat } from "../values/number-format.ts";
import { binary } from "../values/arithmetic.ts";
import { equal, order } from "../values/compare.ts";
import { integer, iterate, lengthOf, listOf, reserve } from "../values/items.ts";
import { OBJECT_BYTES, scan, spend, step } from "../meter.ts";
import { parseFloatText, parseIntText } from "../values/parse-number.ts";
import { codePoints, str } from "../values/text.ts";
import {
  Dict,
  Float,
  int,
  isList,
  Iter,
  type Named,
  numberOf,
  orElse,
  Range,
  truth,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from "../values/values.ts";

/** Jinja's filters that give numbers, items and lists. */

type Key = (value: Value) => Value;

const ignoreCase: Key = (value) => {
  if (typeof value !== "string") return value;
  scan(value);
  spend(value.length);
  return value.toLowerCase();
};

/** Reads `a.b.0` of a value. */
function attributeGetter(path: Value | undefined, fold: boolean, otherwise: Value = null): Key {
  const parts = pathOf(path ?? null);
  return (value) => {
    let found = value;
    for (const part of parts) {
      found = item(found, part);
      if (otherwise !== null && found instanceof Undefined) found = otherwise;
    }
    return fold ? ignoreCase(found) : found;
  };
}

function pathOf(path: Value): readonly Value[] {
  if (path === null) return [];
  if (typeof path !== "string") return [path];
  return path.split(".").map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}

/** A stable sort; equal values stay in their order when it is reversed too. */
function sorted(values: readonly Value[], key: Key, reverse: boolean): readonly Value[] {
  reserve(values.length);
  const keyed = values.map((value) => [key(value), value] as const);
  const sign = reverse ? -1 : 1;
  keyed.sort(([a], [b]) => {
    step();
    return sign * (order(a, b) || 0);
  });
  return keyed.map(([, value]) => value);
}

function sort(value: Value, reverse: boolean, sensitive: boolean, attribute: Value): readonly Value[] {
  const paths: readonly Value[] = typeof attribute === "string" ? attribute.split(",") : [attribute];
  const getters = paths.map((path) => attributeGetter(path, !sensitive));
  return sorted(listOf(value), (one) => getters.map((get) => get(one)), reverse);
}

function dictSort(value: Value, sensitive: boolean, by: string, reverse: boolean): readonly Value[] {
  if (!(value instanceof Dict)) {
    if (value instanceof Undefined) value.fail();
    throw new TemplateError(`dictsort() needs a dict, got ${typeName(value)}`);
  }
  if (by !== "key" && by !== "value") throw new TemplateError('You can only sort by either "key" or "value"');
  const at = by === "key" ? 0 : 1;
  const pairs = value.entries().map((entry) => new Tuple(entry));
  const key: Key = (pair) => (sensitive ? (pair as Tuple).items[at]! : ignoreCase((pair as Tuple).items[at]!));
  return sorted(pairs, key, reverse);
}

function groupBy(value: Value, attribute: Value, otherwise: Value, sensitive: boolean): readonly Value[] {
  const key = attributeGetter(attribute, !sensitive, otherwise);
  const shown = attributeGetter(attribute, false, otherwise);
  const groups: [Value, Value[]][] = [];
  for (const one of sorted(listOf(value), key, false)) {
    const grouper = key(one);
    const last = groups.at(-1);
    if (last && equal(last[0], grouper)) last[1].push(one);
    else groups.push([grouper, [one]]);
  }
  return groups.map(([grouper, items]) => new Tuple([sensitive ? grouper : shown(items[0]!), items], ["grouper", "list"]));
}

function extreme(value: Value, largest: boolean, sensitive: boolean, attribute: Value): Value {
  const key = attributeGetter(attribute, !sensitive);
  let best: Value | undefined;
  for (const one of iterate(value)) {
    step();
    if (best === undefined || (largest ? order(key(one), key(best), ">") > 0 : order(key(one), key(best)) < 0)) best = one;
  }
  return orElse(best, new Undefined(null, undefined, "No aggregated item, sequence was empty."));
}

function* unique(value: Value, sensitive: boolean, attribute: Value): Generator<Value> {
  const key = attributeGetter(attribute, !sensitive);
  const seen = new Dict();
  for (const one of iterate(value)) {
    step();
    const found = key(one);
    if (seen.has(found)) continue;
    seen.set(found, null);
    yield one;
  }
}

function* batch(value: Value, size: number, fill: Value): Generator<Value> {
  let items: Value[] = [];
  for (const one of iterate(value)) {
    if (items.length === size) {
      yield items;
      items = [];
    }
    step();
    items.push(one);
  }
  if (items.length === 0) return;
  if (fill === null || items.length >= size) yield items;
  else {
    reserve(size);
    yield [...items, ...Array.from({ length: size - items.length }, () => fill)];
  }
}

function* slices(value: Value, count: number, fill: Value): Generator<Value> {
  const items = listOf(value);
  if (count === 0) throw new TemplateError("integer division or modulo by zero");
  const size = Math.floor(items.length / count);
  const longer = items.length % count;
  for (let i = 0, at = 0; i < count; i++) {
    step();
    spend(OBJECT_BYTES);
    const part = items.slice(at, at + size + (i < longer ? 1 : 0));
    at += part.length;
    yield fill !== null && i >= longer ? [...part, fill] : part;
  }
}

function reverse(value: Value): Value {
  if (typeof value === "string") return listOf(value).toReversed().join("");
  if (isList(value) || value instanceof Tuple || value instanceof Range || value instanceof Dict || value instanceof View) {
    const type = isList(value) ? "list_reverseiterator" : `reverse of ${typeName(value)}`;
    return new Iter(listOf(value).toReversed().values(), type);
  }
  return listOf(value).toReversed();
}

function lastOf(value: Value): Value {
  if (value instanceof Iter) throw new TemplateError(`'${value.type}' object is not reversible`);
  const items = typeof value === "string" ? (codePoints(value) ?? value) : Array.from(iterate(value));
  const last = items.at(-1);
  return last === undefined || last === "" ? new Undefined(null, undefined, "No last item, sequence was empty.") : last;
}

function round(value: Value, precision: number, method: string): Value {
  if (!["common", "ceil", "floor"].includes(method)) throw new TemplateError("method must be common, ceil or floor");
  const number = numberOf(value);
  if (number === null) throw new TemplateError(`type ${typeName(value)} has no rounding`);
  if (method === "common") {
    if (value instanceof Float) return new Float(roundFloat(value.value, precision));
    if (precision >= 0) return int(number);
    const unit = 10n ** BigInt(Math.min(400, -precision));
    const [whole, rest] = [BigInt(number) / unit, BigInt(number) % unit];
    const twice = 2n * (rest < 0n ? -rest : rest);
    const isUp = twice > unit || (twice === unit && whole % 2n !== 0n);
    return int((whole + (isUp ? (BigInt(number) < 0n ? -1n : 1n) : 0n)) * unit);
  }
  const unit = precision >= 0 ? 10 ** precision : 1 / 10 ** -precision;
  const scaled = Number(number) * unit;
  return new Float(((method === "ceil" ? Math.ceil(scaled) : Math.floor(scaled)) + 0) / unit);
}

function toInt(value: Value, otherwise: Value, base: number): Value {
  if (value instanceof Undefined) value.fail();
  if (typeof value === "string") {
    const whole = parseIntText(value, base);
    if (whole !== null) return int(whole);
  }
  const number = typeof value === "string" ? parseFloatText(value) : numberOf(value);
  if (number === null || (typeof number === "number" && !Number.isFinite(number))) {
    if (value instanceof Float && !Number.isNaN(value.value)) throw new TemplateError("cannot convert float infinity to integer");
    return otherwise;
  }
  return int(
    typeof number === "number" && !Number.isInteger(number)
      ? Math.trunc(number)
      : typeof number === "bigint"
        ? number
        : BigInt(number),
  );
}

function toFloat(value: Value, otherwise: Value): Value {
  if (value instanceof Undefined) value.fail();
  const number = typeof value === "string" ? parseFloatText(value) : numberOf(value);
  return number === null ? otherwise : new Float(Number(number));
}

function sum(value: Value, attribute: Value, start: Value): Value {
  const key = attributeGetter(attribute, false);
  if (typeof start === "string") throw new TemplateError("sum() can't sum strings [use ''.join(seq) instead]");
  let total: Value = start;
  for (const one of iterate(value)) {
    step();
    total = binary("+", total, key(one));
  }
  return total;
}

/** Describes what calls filters and tests by their names. */
export interface Library {
  filter(name: string): Builtin;
  test(name: string): Builtin;
}

/** `map`, `select` and the like, which call other filters and tests. */
function choosing(library: Library): Builtin[] {
  const choose = (name: string, keeps: boolean, byAttribute: boolean): Builtin =>
    variadic(name, (value, positional, named) => {
      return new Iter(chosen(value, positional, named, keeps, byAttribute));
    });
  function* chosen(
    value: Value,
    positional: readonly Value[],
    named: Named,
    keeps: boolean,
    byAttribute: boolean,
  ): Generator<Value> {
    if (!truth(value)) return;
    if (byAttribute && positional.length === 0) throw new TemplateError("Missing parameter for attribute name");
    const key = byAttribute ? attributeGetter(positional[0], false) : (one: Value) => one;
    const [name, ...args] = byAttribute ? positional.slice(1) : positional;
    const test = name === undefined ? null : library.test(textOf(name, "the name of a test"));
    for (const one of iterate(value)) {
      step();
      const found = key(one);
      if (truth(test ? test.invoke(found, args, named) : found) === keeps) yield one;
    }
  }
  function* mapped(value: Value, positional: readonly Value[], named: Named): Generator<Value> {
    if (!truth(value)) return;
    let map: Key;
    if (positional.length === 0 && named.has("attribute")) {
      const wrong = [...named.keys()].find((name) => name !== "attribute" && name !== "default");
      if (wrong !== undefined) throw new TemplateError(`Unexpected keyword argument '${wrong}'`);
      map = attributeGetter(named.get("attribute"), false, named.get("default"));
    } else {
      const [name, ...args] = positional;
      if (name === undefined) throw new TemplateError("map requires a filter argument");
      const filter = library.filter(textOf(name, "the name of a filter"));
      map = (one) => filter.invoke(one, args, named);
    }
    for (const one of iterate(value)) {
      step();
      yield map(one);
    }
  }
  return [
    choose("select", true, false),
    choose("reject", false, false),
    choose("selectattr", true, true),
    choose("rejectattr", false, true),
    variadic("map", (value, positional, named) => new Iter(mapped(value, positional, named))),
  ];
}

const length = (name: string): Builtin =>
  builtin(name, "", (value) => {
    const size = lengthOf(value);
    if (size === null) throw new TemplateError(`object of type '${typeName(value)}' has no len()`);
    return size;
  });

const withDefault = (name: string): Builtin =>
  builtin(name, "/default_value /boolean", (value, otherwise = "", all = false) =>
    value instanceof Undefined || (truth(all) && !truth(value)) ? otherwise : value,
  );

const largest = (name: string, isLargest: boolean): Builtin =>
  builtin(name, "/case_sensitive /attribute", (value, sensitive = false, attribute = null) =>
    extreme(value, isLargest, truth(sensitive), attribute),
  );

export function listFilters(library: Library): ReadonlyMap<string, Builtin> {
  return table(
    ...choosing(library),
    length("length"),
    length("count"),
    withDefault("default"),
    withDefault("d"),
    largest("min", false),
    largest("max", true),
    builtin("abs", "", (value) => {
      const number = numberOf(value);
      if (number === null) throw new TemplateError(`bad operand type for abs(): '${typeName(value)}'`);
      if (value instanceof Float) return new Float(Math.abs(value.value));
      return int(number < 0 ? -number : number);
    }),
    builtin("attr", "name", (value, name) => {
      if (value instanceof Undefined) value.fail();
      return orElse(ownAttribute(value, textOf(name, "the name of an attribute")), new Undefined(name, value));
    }),
    builtin(
      "batch",
      "linecount /fill_with",
      (value, size, fill = null) => new Iter(batch(value, integer(size, "linecount"), fill)),
    ),
    builtin("slice", "slices /fill_with", (value, count, fill = null) => new Iter(slices(value, integer(count, "slices"), fill))),
    builtin("dictsort", "/case_sensitive /by /reverse", (value, sensitive = false, by = "key", backwards = false) =>
      dictSort(value, truth(sensitive), textOf(by, "by"), truth(backwards)),
    ),
    builtin("first", "", (value) => {
      for (const one of iterate(value)) return one;
      return new Undefined(null, undefined, "No first item, sequence was empty.");
    }),
    builtin("last", "", lastOf),
    builtin("float", "/default", (value, otherwise = new Float(0)) => toFloat(value, otherwise)),
    builtin("int", "/default /base", (value, otherwise = 0, base = 10) => toInt(value, otherwise, integer(base, "base"))),
    builtin("groupby", "attribute /default /case_sensitive", (value, attribute, otherwise = null, sensitive = false) =>
      groupBy(value, attribute, otherwise, truth(sensitive)),
    ),
    builtin("items", "", (value) => {
      if (value instanceof Undefined) return new Iter([].values());
      if (value instanceof Dict) return new Iter(new View("items", value).items().values());
      throw new TemplateError("Can only get item pairs from a mapping.");
    }),
    builtin("join", "/d /attribute", (value, separator = "", attribute = null) => {
      const key = attributeGetter(attribute, false);
      return join(
        str(separator),
        Array.from(iterate(value), (one) => str(key(one))),
      );
    }),
    builtin("list", "", listOf),
    builtin("reverse", "", reverse),
    builtin("round", "/precision /method", (value, precision = 0, method = "common") =>
      round(value, integer(precision, "precision"), textOf(method, "method")),
    ),
    builtin("sort", "/reverse /case_sensitive /attribute", (value, backwards = false, sensitive = false, attribute = null) =>
      sort(value, truth(backwards), truth(sensitive), attribute),
    ),
    builtin("sum", "/attribute /start", (value, attribute = null, start = 0) => sum(value, attribute, start)),
    builtin(
      "unique",
      "/case_sensitive /attribute",
      (value, sensitive = false, attribute = null) => new Iter(unique(value, truth(sensitive), attribute)),
    ),
  );
}
