import { type Builtin, builtin, table, variadic } from "./builtin.ts";
import { TemplateError } from "../errors.ts";
import { braceFormat } from "../values/format.ts";
import { OBJECT_BYTES, spend, step } from "../meter.ts";
import { same } from "../values/compare.ts";
import { integer, iterate } from "../values/items.ts";
import { repeat, textLength } from "../values/text.ts";
import { Dict, Float, intOf, isList, orElse, Range, Tuple, typeName, Undefined, type Value, View } from "../values/values.ts";
import {
  capitalize,
  caseFold,
  count,
  expandTabs,
  find,
  isOfKind,
  pad,
  replace,
  type Sides,
  split,
  splitFromRight,
  splitLines,
  startsOrEnds,
  strip,
  swapCase,
  TEXT_KINDS,
  titleCase,
} from "../values/strings.ts";

/** Methods of Python's values, but for those that change one: the sandbox of Transformers refuses them. */

export function methodOf(object: Value, name: string): Builtin | undefined {
  if (typeof object === "string") return STRING_METHODS.get(name);
  if (object instanceof Dict) return DICT_METHODS.get(name);
  if (isList(object)) return LIST_METHODS.get(name);
  if (typeof object === "boolean" || typeof object === "number" || typeof object === "bigint") return INT_METHODS.get(name);
  if (object instanceof Float) return FLOAT_METHODS.get(name);
  return object instanceof Tuple || object instanceof Range ? SEQUENCE_METHODS.get(name) : undefined;
}

export function textOf(value: Value | undefined, what: string): string {
  if (typeof value === "string") return value;
  if (value instanceof Undefined) value.fail();
  throw new TemplateError(`${what} must be str, not ${typeName(value!)}`);
}

function textOrNull(value: Value | undefined, what: string): string | null {
  return value === undefined || value === null ? null : textOf(value, what);
}

function intOrNull(value: Value | undefined, what: string): number | null {
  return value === undefined || value === null ? null : integer(value, what);
}

const self = (value: Value): string => value as string;

function stripping(name: string, sides: Sides): Builtin {
  return builtin(name, "/chars |", (text, chars) => strip(self(text), textOrNull(chars, `${name} arg`), sides));
}

function searching(name: string, last: boolean): Builtin[] {
  const search = (text: Value, part: Value, start?: Value, end?: Value): number =>
    find(self(text), textOf(part, name), intOrNull(start, "start"), intOrNull(end, "end"), last);
  return [
    builtin(name, "part /start /end |", search),
    builtin(name.replace("find", "index"), "part /start /end |", (text, part, start, end) => {
      const at = search(text, part, start, end);
      if (at < 0) throw new TemplateError("substring not found");
      return at;
    }),
  ];
}

function affix(name: string, ends: boolean): Builtin {
  return builtin(name, "part /start /end |", (text, part, start, end) => {
    const parts = part instanceof Tuple ? part.items : [part];
    const [from, to] = [intOrNull(start, "start"), intOrNull(end, "end")];
    return parts.some((one) => startsOrEnds(self(text), textOf(one, `${name} first arg`), ends, from, to));
  });
}

function padding(name: string, align: "left" | "right" | "center"): Builtin {
  return builtin(name, "width /fillchar |", (text, width, fill = " ") =>
    pad(self(text), integer(width, "width"), textOf(fill, "The fill character"), align),
  );
}

function mapping(name: string, map: (text: string) => string): Builtin {
  return builtin(name, "", (text) => map(self(text)));
}

function partition(name: string, last: boolean): Builtin {
  return builtin(name, "separator |", (text, separator) => {
    const [whole, part] = [self(text), textOf(separator, "separator")];
    if (part === "") throw new TemplateError("empty separator");
    const at = last ? whole.lastIndexOf(part) : whole.indexOf(part);
    if (at < 0) return new Tuple(last ? ["", "", whole] : [whole, "", ""]);
    return new Tuple([whole.slice(0, at), part, whole.slice(at + part.length)]);
  });
}

/** Joins texts. */
export function join(separator: string, items: Iterable<Value>): string {
  const texts: string[] = [];
  for (const one of items) {
    if (typeof one !== "string")
      throw new TemplateError(`sequence item ${texts.length}: expected str instance, ${typeName(one)} found`);
    step();
    spend(one.length + separator.length);
    texts.push(one);
  }
  return texts.join(separator);
}

const STRING_METHODS = table(
  stripping("strip", "both"),
  stripping("lstrip", "left"),
  stripping("rstrip", "right"),
  builtin("split", "/sep /maxsplit", (text, separator, most = -1) =>
    split(self(text), textOrNull(separator, "sep"), integer(most, "maxsplit")),
  ),
  builtin("rsplit", "/sep /maxsplit", (text, separator, most = -1) =>
    splitFromRight(self(text), textOrNull(separator, "sep"), integer(most, "maxsplit")),
  ),
  builtin("splitlines", "/keepends", (text, keep = false) => splitLines(self(text), keep !== false && keep !== 0)),
  builtin("replace", "old new /count |", (text, old, by, most = -1) =>
    replace(self(text), textOf(old, "replace() argument 1"), textOf(by, "replace() argument 2"), integer(most, "count")),
  ),
  builtin("join", "items |", (text, items) => join(self(text), iterate(items))),
  ...searching("find", false),
  ...searching("rfind", true),
  builtin("count", "part /start /end |", (text, part, start, end) =>
    count(self(text), textOf(part, "count"), intOrNull(start, "start"), intOrNull(end, "end")),
  ),
  affix("startswith", false),
  affix("endswith", true),
  partition("partition", false),
  partition("rpartition", true),
  builtin("removeprefix", "prefix |", (text, prefix) => {
    const part = textOf(prefix, "removeprefix() argument");
    return self(text).startsWith(part) ? self(text).slice(part.length) : text;
  }),
  builtin("removesuffix", "suffix |", (text, suffix) => {
    const part = textOf(suffix, "removesuffix() argument");
    return part !== "" && self(text).endsWith(part) ? self(text).slice(0, -part.length) : text;
  }),
  padding("ljust", "left"),
  padding("rjust", "right"),
  padding("center", "center"),
  builtin("zfill", "width |", (text, width) => {
    const missing = integer(width, "width") - textLength(self(text));
    const sign = /^[-+]/.exec(self(text))?.[0] ?? "";
    return missing <= 0 ? text : sign + repeat("0", missing) + self(text).slice(sign.length);
  }),
  builtin("expandtabs", "/tabsize", (text, size = 8) => expandTabs(self(text), integer(size, "tabsize"))),
  mapping("upper", (text) => text.toUpperCase()),
  mapping("lower", (text) => text.toLowerCase()),
  mapping("capitalize", capitalize),
  mapping("title", titleCase),
  mapping("swapcase", swapCase),
  mapping("casefold", caseFold),
  ...TEXT_KINDS.map((kind) => builtin(kind, "", (text) => isOfKind(self(text), kind))),
  variadic("format", (text, positional, named) => braceFormat(self(text), positional, named)),
  builtin("format_map", "mapping |", (text, values) => {
    if (!(values instanceof Dict)) throw new TemplateError("format_map() needs a dict");
    const named = new Map(values.entries().flatMap(([key, value]) => (typeof key === "string" ? [[key, value]] : [])));
    return braceFormat(self(text), [], named);
  }),
);

function itemsOf(value: Value): readonly Value[] {
  return isList(value) ? value : Array.from(iterate(value));
}

const SEQUENCE_METHODS = table(
  builtin("count", "value |", (items, value) => itemsOf(items).filter((other) => same(value, other)).length),
  builtin("index", "value /start /stop |", (items, value, start = 0, stop) => {
    const all = itemsOf(items);
    const bound = (index: number): number => (index < 0 ? Math.max(0, index + all.length) : index);
    const [from, to] = [bound(integer(start, "start")), stop === undefined ? all.length : bound(integer(stop, "stop"))];
    const at = all.findIndex((other, i) => i >= from && i < to && same(value, other));
    if (at < 0) throw new TemplateError(`${typeName(value) === "str" ? `'${String(value)}'` : "the value"} is not in list`);
    return at;
  }),
);

const LIST_METHODS = new Map([...SEQUENCE_METHODS, ...table(builtin("copy", "", (items) => [...(items as readonly Value[])]))]);

const INT_METHODS = table(
  builtin("bit_length", "", (value) => {
    const bits = BigInt(intOf(value)!).toString(2).replace("-", "");
    return bits === "0" ? 0 : bits.length;
  }),
);

const FLOAT_METHODS = table(builtin("is_integer", "", (value) => Number.isInteger((value as Float).value)));

const DICT_METHODS = table(
  builtin("get", "key /default |", (dict, key, otherwise = null) => orElse((dict as Dict).get(key), otherwise)),
  builtin("keys", "", (dict) => new View("keys", dict as Dict)),
  builtin("values", "", (dict) => new View("values", dict as Dict)),
  builtin("items", "", (dict) => new View("items", dict as Dict)),
  builtin("copy", "", (dict) => Dict.of((dict as Dict).entries())),
  builtin("fromkeys", "keys /value |", (_, keys, value = null) => dictFromKeys(keys, value)),
);

export function dictFromKeys(keys: Value, value: Value): Dict {
  const dict = new Dict();
  for (const key of iterate(keys)) {
    step();
    spend(OBJECT_BYTES);
    dict.set(key, value);
  }
  return dict;
}
