import { type Builtin, builtin, table, variadic } from "./builtin.ts";
import { TemplateError } from "../errors.ts";
import { percentFormat } from "../values/format.ts";
import { SPACE } from "../values/strings.ts";
import { textOf } from "./methods.ts";
import { floatFormat } from "../values/number-format.ts";
import { parseFloatText } from "../values/parse-number.ts";
import { order } from "../values/compare.ts";
import { integer, isIterable, iterate, lengthOf } from "../values/items.ts";
import { spend } from "../meter.ts";
import { type JsonLayout, jsonText, repeat, repr, str, textLength, textSlice } from "../values/text.ts";
import { capitalize, pad, replace, split, splitFromRight, splitLines, strip } from "../values/strings.ts";
import { Dict, numberOf, truth, Tuple, type Value } from "../values/values.ts";
import { wrapText } from "../values/wrap.ts";

/** Jinja's filters that give a text, and Transformers' `tojson`. */

const mapping = (name: string, map: (text: string) => string): Builtin => builtin(name, "", (value) => map(str(value)));

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", ">": "&gt;", "<": "&lt;", "'": "&#39;", '"': "&#34;" };

export function escape(text: string): string {
  return text.replace(/[&><'"]/g, (character) => ENTITIES[character]!);
}

/** A text without what stands between these two, which go with it. */
function without(text: string, open: string, close: string): string {
  let result = "";
  let at = 0;
  for (;;) {
    const begin = text.indexOf(open, at);
    const end = begin < 0 ? -1 : text.indexOf(close, begin);
    if (end < 0) return result + text.slice(at);
    result += text.slice(at, begin);
    at = end + close.length;
  }
}

const WORD_BEGIN = new RegExp(`([-(\\{[<]|${SPACE})+`, "g");

/** Every part behind white space, a dash or a bracket begins with a large letter. */
function title(text: string): string {
  let result = "";
  let at = 0;
  const add = (part: string): void => {
    const first = part === "" ? "" : String.fromCodePoint(part.codePointAt(0)!);
    result += first.toUpperCase() + part.slice(first.length).toLowerCase();
  };
  for (const match of text.matchAll(WORD_BEGIN)) {
    add(text.slice(at, match.index));
    result += match[0];
    at = match.index + match[0].length;
  }
  add(text.slice(at));
  return result;
}

function indent(text: string, width: Value, first: boolean, blank: boolean): string {
  const by = typeof width === "string" ? width : repeat(" ", integer(width, "width"));
  const lines = splitLines(`${text}\n`);
  const result: string[] = [];
  for (const [i, line] of lines.entries()) {
    const isMoved = i === 0 ? first : blank || line !== "";
    spend(line.length + 1 + (isMoved ? by.length : 0));
    result.push(isMoved ? by + line : line);
  }
  return result.join("\n");
}

function truncate(value: Value, length: number, cut: boolean, end: string, leeway: number): Value {
  const endLength = textLength(end);
  if (length < endLength) throw new TemplateError(`expected length >= ${endLength}, got ${length}`);
  if (leeway < 0) throw new TemplateError(`expected leeway >= 0, got ${leeway}`);
  if ((lengthOf(value) ?? Infinity) <= length + leeway) return value;
  const text = textOf(value, "truncate()'s value");
  const begin = textSlice(text, 0, length - endLength);
  return (cut ? begin : splitFromRight(begin, " ", 1)[0]!) + end;
}

/** Percent-encoding of a part of an address; in a query, blanks become `+` and slashes are encoded. */
function quote(value: Value, inQuery: boolean): string {
  const encoded = encodeURIComponent(str(value).toWellFormed()).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return inQuery ? encoded.replaceAll("%20", "+") : encoded.replaceAll("%2F", "/");
}

function urlEncode(value: Value): string {
  if (typeof value === "string" || !isIterable(value)) return quote(value, false);
  const pairs = value instanceof Dict ? value.entries() : Array.from(iterate(value), (pair) => pairOf(pair));
  return pairs.map(([key, item]) => `${quote(key, true)}=${quote(item, true)}`).join("&");
}

export function pairOf(value: Value): readonly [Value, Value] {
  const items = Array.from(iterate(value));
  if (items.length !== 2) throw new TemplateError(`expected pairs, got ${items.length} values`);
  return items as unknown as readonly [Value, Value];
}

function fileSize(value: Value, binary: boolean): string {
  const number = typeof value === "string" ? parseFloatText(value) : numberOf(value);
  if (number === null || !Number.isFinite(Number(number)))
    throw new TemplateError(`filesizeformat() needs a number, got ${repr(value)}`);
  const bytes = Number(number);
  const base = binary ? 1024 : 1000;
  if (bytes === 1) return "1 Byte";
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const prefixes = Array.from("kMGTPEZY", (prefix) => (binary ? `${prefix.toUpperCase()}iB` : `${prefix}B`));
  const at = prefixes.findIndex((_, i) => bytes < base ** (i + 2));
  const power = at < 0 ? prefixes.length - 1 : at;
  const scaled = (base * bytes) / base ** (power + 2);
  return `${scaled < 0 ? "-" : ""}${floatFormat(scaled, { type: "f", digits: 1, alternate: false })} ${prefixes[power]!}`;
}

function attributes(dict: Value, spaced: boolean): string {
  if (!(dict instanceof Dict)) throw new TemplateError("xmlattr() needs a dict");
  let text = "";
  for (const [key, value] of dict.entries()) {
    if (value === null || (str(value) === "" && typeof value !== "string")) continue;
    const name = textOf(key, "the name of an attribute");
    if (/[\s/>=]/.test(name)) throw new TemplateError(`Invalid character in attribute name: ${repr(name)}`);
    text += `${text === "" ? "" : " "}${escape(name)}="${escape(str(value))}"`;
  }
  return spaced && text !== "" ? ` ${text}` : text;
}

/** Transformers' `tojson`: `json.dumps` with four of its arguments. */
function toJson(value: Value, ascii: Value, indentBy: Value, separators: Value, sort: Value): string {
  let by: string | null = null;
  if (typeof indentBy === "string") by = indentBy;
  else if (indentBy !== null) by = repeat(" ", integer(indentBy, "indent"));
  let [itemSeparator, keySeparator] = [by === null ? ", " : ",", ": "];
  if (separators !== null) {
    const [item, key] = pairOf(separators);
    [itemSeparator, keySeparator] = [textOf(item, "a separator"), textOf(key, "a separator")];
  }
  const layout: JsonLayout = {
    ascii: truth(ascii),
    indent: by,
    itemSeparator,
    keySeparator,
    ordered: (entries) => (truth(sort) ? entries.toSorted(([a], [b]) => order(a, b)) : entries),
  };
  return jsonText(value, layout);
}

export const TEXT_FILTERS = table(
  mapping("upper", (text) => text.toUpperCase()),
  mapping("lower", (text) => text.toLowerCase()),
  mapping("capitalize", capitalize),
  mapping("title", title),
  mapping("string", (text) => text),
  // Nothing is escaped where nobody asks for it.
  mapping("safe", (text) => text),
  mapping("e", escape),
  mapping("escape", escape),
  mapping("forceescape", escape),
  mapping("striptags", (text) => split(without(without(text, "<!--", "-->"), "<", ">"), null, -1).join(" ")),
  builtin("wordcount", "", (value) => str(value).match(/[\p{L}\p{M}\p{N}\p{Pc}]+/gu)?.length ?? 0),
  builtin("trim", "/chars", (value, chars = null) =>
    strip(str(value), chars === null ? null : textOf(chars, "strip arg"), "both"),
  ),
  builtin("center", "/width", (value, width = 80) => pad(str(value), integer(width, "width"), " ", "center")),
  builtin("replace", "old new /count", (value, old, by, most = null) =>
    replace(str(value), str(old), str(by), most === null ? -1 : integer(most, "count")),
  ),
  builtin("indent", "/width /first /blank", (value, width = 4, first = false, blank = false) =>
    indent(textOf(value, "indent()'s value"), width, truth(first), truth(blank)),
  ),
  builtin("truncate", "/length /killwords /end /leeway", (value, length = 255, cut = false, end = "...", leeway = null) =>
    truncate(value, integer(length, "length"), truth(cut), textOf(end, "end"), leeway === null ? 5 : integer(leeway, "leeway")),
  ),
  builtin(
    "wordwrap",
    "/width /break_long_words /wrapstring /break_on_hyphens",
    (value, width = 79, long = true, by = null, hyphens = true) => {
      const end = by === null ? "\n" : textOf(by, "wrapstring");
      const options = { width: integer(width, "width"), long: truth(long), hyphens: truth(hyphens) };
      const lines = splitLines(textOf(value, "wordwrap()'s value")).map((line) => wrapText(line, options).join(end));
      spend(lines.length * end.length);
      return lines.join(end);
    },
  ),
  variadic("format", (value, positional, named) => {
    if (positional.length > 0 && named.size > 0)
      throw new TemplateError("format() takes positional or named arguments, not both");
    return percentFormat(str(value), named.size > 0 ? Dict.of(named) : new Tuple(positional));
  }),
  builtin("urlencode", "", urlEncode),
  builtin("filesizeformat", "/binary", (value, binary = false) => fileSize(value, truth(binary))),
  builtin("xmlattr", "/autospace", (value, spaced = true) => attributes(value, truth(spaced))),
  builtin(
    "tojson",
    "/ensure_ascii /indent /separators /sort_keys",
    (value, ascii = false, by = null, separators = null, sort = false) => toJson(value, ascii, by, separators, sort),
  ),
);
