import { TemplateError } from "../errors.ts";
import { itemOf, plainAttribute } from "./items.ts";
import { spend } from "../meter.ts";
import { aligned, floatFormat, grouped } from "./number-format.ts";
import { floatText, repr, str, textLength, textSlice } from "./text.ts";
import {
  Dict,
  Float,
  intOf,
  isList,
  type Named,
  numberOf,
  orElse,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

/** Python's two ways to put values into a text: `text % values` and `text.format(...)`. */

const PERCENT = /%(?:\(([^()]*)\))?([-#0 +]*)(\*|\d+)?(?:\.(\*|\d*))?[hlL]?([^]|$)/gu;

/** Widths and digits are read up to here; a text of that width would be refused anyhow. */
const MAX_WIDTH = 1 << 28;

/** `text % values`. */
export function percentFormat(text: string, values: Value): string {
  const items = values instanceof Tuple ? values.items : [values];
  let used = 0;
  const next = (): Value => {
    if (used >= items.length) throw new TemplateError("not enough arguments for format string");
    return items[used++]!;
  };
  const number = (written: string | undefined): number | null => {
    if (written === undefined) return null;
    if (written !== "*") return Math.min(MAX_WIDTH, Number(written));
    const value = intOf(next());
    if (value === null) throw new TemplateError("* wants int");
    return Number(value);
  };
  const result = text.replace(
    PERCENT,
    (_, key: string | undefined, flags: string, wide?: string, exact?: string, type?: string) => {
      if (type === "%") return "%";
      if (!type) throw new TemplateError("incomplete format");
      if (key !== undefined && !(values instanceof Dict)) throw new TemplateError("format requires a mapping");
      const width = number(wide) ?? 0;
      const precision = number(exact);
      let value: Value;
      if (key === undefined) value = next();
      else {
        const found = (values as Dict).get(key);
        if (found === undefined) throw new TemplateError(`the format needs the key '${key}'`);
        value = found;
        used = 1;
      }
      const written = percentValue(value, type, precision, flags);
      const isNumber = !"sra c".includes(type);
      const left = flags.includes("-") || width < 0;
      const zeros = isNumber && flags.includes("0") && !left;
      return aligned(written, textLength(written), Math.abs(width), left ? "<" : zeros ? "=" : ">", zeros ? "0" : " ");
    },
  );
  const isMapping = isList(values) || values instanceof Dict || values instanceof Range || values instanceof Undefined;
  if (used < items.length && !isMapping) throw new TemplateError("not all arguments converted during string formatting");
  spend(result.length);
  return result;
}

function percentValue(value: Value, type: string, precision: number | null, flags: string): string {
  const plus = flags.includes("+") ? "+" : flags.includes(" ") ? " " : "";
  if (type === "s" || type === "r" || type === "a") {
    const text = type === "s" ? str(value) : type === "r" ? repr(value) : ascii(repr(value));
    return precision === null ? text : textSlice(text, 0, precision);
  }
  if (type === "c") {
    if (typeof value === "string" && textLength(value) === 1) return value;
    return character(value);
  }
  const number = numberOf(value);
  if (number === null) throw new TemplateError(`%${type} format: a real number is required, not ${typeName(value)}`);
  if ("diuoxX".includes(type)) {
    const whole = value instanceof Float ? ("diu".includes(type) ? wholeOf(value.value) : null) : BigInt(number);
    if (whole === null) throw new TemplateError(`%${type} format: an integer is required, not float`);
    return sign(whole < 0n, plus) + wholeText(whole, "diu".includes(type) ? "d" : type, flags.includes("#"), precision ?? 0);
  }
  if (!"eEfFgG".includes(type)) throw new TemplateError(`unsupported format character '${type}'`);
  const float = Number(number);
  const text = floatFormat(float, {
    type: type.toLowerCase() as "e" | "f" | "g",
    digits: precision ?? 6,
    alternate: flags.includes("#"),
  });
  return sign(float < 0 || Object.is(float, -0), plus) + (type < "a" ? text.toUpperCase() : text);
}

function sign(negative: boolean, plus: string): string {
  return negative ? "-" : plus;
}

function wholeOf(value: number): bigint {
  if (!Number.isFinite(value)) throw new TemplateError("cannot convert float infinity or NaN to integer");
  return BigInt(Math.trunc(value));
}

/** Digits of an integer without a sign. */
function wholeText(value: bigint, type: string, prefixed: boolean, digits = 0): string {
  const radix = { d: 10, n: 10, x: 16, X: 16, o: 8, b: 2 }[type];
  if (radix === undefined) throw new TemplateError(`Unknown format code '${type}' for object of type 'int'`);
  spend(digits);
  const text = (value < 0n ? -value : value).toString(radix).padStart(digits, "0");
  const prefix = prefixed && radix !== 10 ? `0${type}` : "";
  return prefix + (type === "X" ? text.toUpperCase() : text);
}

function character(value: Value): string {
  const code = intOf(value);
  if (code === null || code < 0 || code > 0x10ffff) throw new TemplateError("%c requires int or char");
  return String.fromCodePoint(Number(code));
}

export function ascii(text: string): string {
  return text.replace(/[^\0-\x7f]/gu, (other) => {
    const code = other.codePointAt(0)!.toString(16);
    return code.length <= 2 ? `\\x${code}` : code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
  });
}

/** Replacement fields within the format of a field. */
const MAX_NESTING = 2;

/** `text.format(...)`. */
export function braceFormat(
  text: string,
  positional: readonly Value[],
  named: Named,
  level = MAX_NESTING,
  counter = { next: 0 },
): string {
  if (level < 0) throw new TemplateError("Max string recursion exceeded");
  let result = "";
  for (let at = 0; at < text.length;) {
    const brace = text.slice(at).search(/[{}]/);
    if (brace < 0) return result + text.slice(at);
    result += text.slice(at, at + brace);
    at += brace;
    if (text[at] === text[at + 1]) {
      result += text[at]!;
      at += 2;
      continue;
    }
    if (text[at] === "}") throw new TemplateError("Single '}' encountered in format string");
    let depth = 0;
    let end = at;
    for (; end < text.length; end++) {
      if (text[end] === "{") depth++;
      else if (text[end] === "}" && --depth === 0) break;
    }
    if (end >= text.length) throw new TemplateError("expected '}' before end of string");
    const field = /^((?:[^[:!\]]|\[[^\]]*\])*)(?:!([^:]*))?(?::([^]*))?$/.exec(text.slice(at + 1, end));
    if (!field) throw new TemplateError("a replacement field of the format cannot be read");
    const [, name, conversion, spec = ""] = field;
    let value = fieldValue(name!, positional, named, counter);
    if (conversion === "s") value = str(value);
    else if (conversion === "r") value = repr(value);
    else if (conversion === "a") value = ascii(repr(value));
    else if (conversion !== undefined) throw new TemplateError(`Unknown conversion specifier '${conversion}'`);
    const part = formatValue(value, braceFormat(spec, positional, named, level - 1, counter));
    spend(part.length);
    result += part;
    at = end + 1;
  }
  return result;
}

/** @param counter of fields without a name; -1 once fields have numbers */
function fieldValue(field: string, positional: readonly Value[], named: Named, counter: { next: number }): Value {
  const [, first, rest] = /^([^.[]*)([^]*)$/.exec(field)! as unknown as [string, string, string];
  let value: Value | undefined;
  if (first === "" || /^\d+$/.test(first)) {
    if (first === "" ? counter.next < 0 : counter.next > 0)
      throw new TemplateError("cannot switch between automatic and manual field numbering");
    const index = first === "" ? counter.next++ : Number(first);
    if (first !== "") counter.next = -1;
    value = positional[index];
    if (value === undefined) throw new TemplateError(`Replacement index ${index} out of range for positional args tuple`);
  } else {
    value = named.get(first);
    if (value === undefined) throw new TemplateError(`the format needs the argument '${first}'`);
  }
  const parts = /\.([^.[]+)|\[([^\]]+)\]|([^])/g;
  for (const [, name, key, wrong] of rest.matchAll(parts)) {
    if (wrong !== undefined) throw new TemplateError("a replacement field of the format cannot be read");
    const step: Value = name ?? (/^\d+$/.test(key!) ? Number(key) : key!);
    if (value instanceof Undefined) value.fail();
    let found: Value | undefined = name === undefined ? undefined : plainAttribute(value, name);
    if (found === undefined) found = itemOf(value, step);
    value = orElse(found, new Undefined(step, value));
  }
  return value;
}

const SPEC = /^(?:([^])?([<>=^]))?([-+ ])?(z)?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/u;

/** Python's `format(value, spec)`. */
export function formatValue(value: Value, spec: string): string {
  if (spec === "") return str(value);
  const parts = SPEC.exec(spec);
  if (!parts) throw new TemplateError(`Invalid format specifier '${spec}'`);
  const [, fill, align, plus = "", , hash, zero, wide, group, exact, type] = parts;
  const width = Math.min(MAX_WIDTH, Number(wide ?? 0));
  const precision = exact === undefined ? null : Math.min(MAX_WIDTH, Number(exact));
  const number = numberOf(value);
  if (number === null || (typeof value === "boolean" && type === "s")) {
    if (typeof value !== "string") throw new TemplateError(`unsupported format string passed to ${typeName(value)}.__format__`);
    if ((type !== undefined && type !== "s") || plus !== "" || hash || group || align === "=")
      throw new TemplateError(`Invalid format specifier '${spec}' for object of type 'str'`);
    const text = precision === null ? value : textSlice(value, 0, precision);
    return aligned(text, textLength(text), width, align ?? "<", fill ?? (zero ? "0" : " "));
  }
  const isFloat = value instanceof Float || "eEfFgG%".includes(type ?? "?");
  const text = isFloat
    ? floatSpec(Number(number), precision, type, hash !== undefined)
    : intSpec(BigInt(number), precision, type, hash !== undefined);
  const negative = number < 0 || Object.is(number, -0);
  const size = "xXob".includes(type ?? "?") ? 4 : 3;
  const before = sign(negative, plus === "-" ? "" : plus);
  const isFilled = (fill ?? (zero ? "0" : " ")) === "0" && (align ?? (zero ? "=" : ">")) === "=";
  if (group !== undefined && !(group === "_" ? "deEfFgG%xXob" : "deEfFgG%").includes(type ?? "d"))
    throw new TemplateError(`Cannot specify '${group}' with '${type}'.`);
  const body = group === undefined ? text : grouped(text, group, size, isFilled ? width - before.length : 0);
  const signed = before + body;
  return aligned(signed, textLength(signed), width, align ?? (zero ? "=" : ">"), fill ?? (zero ? "0" : " "));
}

function intSpec(value: bigint, precision: number | null, type: string | undefined, prefixed: boolean): string {
  if (precision !== null) throw new TemplateError("Precision not allowed in integer format specifier");
  return type === "c" ? character(value) : wholeText(value, type ?? "d", prefixed);
}

function floatSpec(value: number, precision: number | null, type: string | undefined, alternate: boolean): string {
  if (type === undefined && precision === null) return floatText(Math.abs(value));
  const kind = (type ?? "g").toLowerCase();
  if (!"efgn%".includes(kind)) throw new TemplateError(`Unknown format code '${type}' for object of type 'float'`);
  const text = floatFormat(value, {
    type: (kind === "n" ? "g" : kind) as "e" | "f" | "g" | "%",
    digits: precision ?? 6,
    alternate,
    pointed: type === undefined,
  });
  return type !== undefined && type < "a" && type !== "%" ? text.toUpperCase() : text;
}
