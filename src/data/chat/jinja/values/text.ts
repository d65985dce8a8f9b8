import { TemplateError } from "../errors.ts";
import { ITEM_BYTES, spend, step } from "../meter.ts";
import { Callable, Dict, Float, isList, Iter, Namespace, Range, Tuple, typeName, Undefined, type Value, View } from "./values.ts";

/** The texts that values print as: Python's `str`, `repr` and `json.dumps`. */

const SURROGATE = /[\ud800-\udfff]/;

/** A text's code points where they differ from its units; null: they do not. */
export function codePoints(text: string): readonly string[] | null {
  return SURROGATE.test(text) ? characters(text) : null;
}

/** A list of a text's code points, which is counted. */
export function characters(text: string): readonly string[] {
  step(text.length);
  spend(ITEM_BYTES * text.length);
  return Array.from(text);
}

/** Python's `len` of a text. */
export function textLength(text: string): number {
  if (!SURROGATE.test(text)) return text.length;
  let pairs = 0;
  for (let i = 1; i < text.length; i++) if (text.codePointAt(i - 1)! > 0xffff) pairs++;
  return text.length - pairs;
}

/** `text[start:stop]` in code points, neither negative. */
export function textSlice(text: string, start: number, stop?: number): string {
  return codePoints(text)?.slice(start, stop).join("") ?? text.slice(start, stop);
}

/** `text * count`. */
export function repeat(text: string, count: number): string {
  if (count <= 0) return "";
  spend(text.length * count);
  return text.repeat(count);
}

/** `~`: both sides as texts. */
export function concatenate(texts: readonly string[]): string {
  const length = texts.reduce((sum, text) => sum + text.length, 0);
  spend(length - Math.max(0, ...texts.map((text) => text.length)) + ITEM_BYTES);
  return texts.join("");
}

export function str(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof Undefined) return "";
  return repr(value);
}

export function repr(value: Value): string {
  const pieces: string[] = [];
  writeRepr(value, pieces, 0);
  return pieces.join("");
}

/** Levels of lists in lists; Python ends at about the same. */
const MAX_DEPTH = 500;

/** Steps of a piece of a list's text. */
const PIECE_STEPS = 4;

function put(pieces: string[], piece: string): void {
  step(PIECE_STEPS);
  spend(piece.length);
  pieces.push(piece);
}

function writeRepr(value: Value, pieces: string[], depth: number): void {
  if (depth > MAX_DEPTH) throw new TemplateError(`a value is nested deeper than ${MAX_DEPTH} levels`);
  const all = (open: string, items: readonly Value[], close: string): void => {
    put(pieces, open);
    for (const [i, item] of items.entries()) {
      if (i > 0) put(pieces, ", ");
      writeRepr(item, pieces, depth + 1);
    }
    put(pieces, close);
  };
  if (isList(value)) all("[", value, "]");
  else if (value instanceof Tuple) {
    all("(", value.items, value.items.length === 1 ? ",)" : ")");
  } else if (value instanceof Dict) writeDict(value, pieces, depth);
  else if (value instanceof View) all(`dict_${value.kind}([`, value.items(), "])");
  else if (value instanceof Namespace) {
    put(pieces, "<Namespace ");
    writeDict(value.attributes, pieces, depth);
    put(pieces, ">");
  } else put(pieces, plainRepr(value));
}

function writeDict(dict: Dict, pieces: string[], depth: number): void {
  let before = "{";
  for (const [key, item] of dict.entries()) {
    put(pieces, before);
    before = ", ";
    writeRepr(key, pieces, depth + 1);
    put(pieces, ": ");
    writeRepr(item, pieces, depth + 1);
  }
  put(pieces, dict.size === 0 ? "{}" : "}");
}

function plainRepr(value: Value): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return textRepr(value);
  if (typeof value === "number") return String(value);
  if (typeof value === "bigint") return bigText(value);
  if (value instanceof Float) return floatText(value.value);
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Range) {
    const { start, stop, stride } = value;
    return `range(${start}, ${stop}${stride === 1 ? "" : `, ${stride}`})`;
  }
  if (value instanceof Callable) return value.text();
  if (value instanceof Iter) return `<${value.type} object>`;
  throw new TemplateError(`${typeName(value)} has no text`);
}

/** Python refuses to write longer integers. */
const MAX_DIGITS = 4300;

function bigText(value: bigint): string {
  const text = value.toString();
  if (text.length > MAX_DIGITS + 1) throw new TemplateError(`an integer of more than ${MAX_DIGITS} digits cannot be written`);
  return text;
}

/** The shortest digits that read back as the number, as JavaScript has them, in Python's notation. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [, sign, first, rest = "", exponent] = /^(-?)(\d)(?:\.(\d+))?e(.+)$/.exec(value.toExponential())! as unknown as string[];
  const power = Number(exponent);
  if (power < -4 || power >= 16)
    return `${sign}${first}${rest && `.${rest}`}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** The characters that Python escapes in a text's `repr`: all but letters, marks, numbers, punctuation, symbols and the blank. */
// oxlint-disable-next-line no-control-regex
const UNPRINTABLE = /[\\'\p{C}\p{Z}]/u;

function textRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  if (!UNPRINTABLE.test(text)) return quote + text + quote;
  const body = text.replace(/[\\'\p{C}\p{Z}]/gu, (character) => {
    if (character === " ") return character;
    if (character === "'") return quote === "'" ? "\\'" : "'";
    const name = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" }[character];
    if (name !== undefined) return name;
    const code = character.codePointAt(0)!.toString(16);
    if (code.length <= 2) return `\\x${code.padStart(2, "0")}`;
    return code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
  });
  return quote + body + quote;
}

export interface JsonLayout {
  readonly ascii: boolean;
  /** The text that moves in a level; null: everything stands in one line. */
  readonly indent: string | null;
  readonly itemSeparator: string;
  readonly keySeparator: string;
  /** Puts a dict's entries in the order of their keys, if so asked. */
  readonly ordered: (entries: readonly (readonly [Value, Value])[]) => readonly (readonly [Value, Value])[];
}

/** Python's `json.dumps`. @throws {TemplateError} a value that JSON has no form for */
export function jsonText(value: Value, layout: JsonLayout): string {
  const pieces: string[] = [];
  writeJson(value, layout, pieces, 0);
  return pieces.join("");
}

function writeJson(value: Value, layout: JsonLayout, pieces: string[], depth: number): void {
  if (depth > MAX_DEPTH) throw new TemplateError(`a value is nested deeper than ${MAX_DEPTH} levels`);
  const line = (level: number): void => {
    if (layout.indent === null) return;
    spend(layout.indent.length * level);
    put(pieces, `\n${layout.indent.repeat(level)}`);
  };
  const all = <Item>(open: string, items: readonly Item[], close: string, write: (item: Item) => void): void => {
    put(pieces, open);
    for (const [i, item] of items.entries()) {
      if (i > 0) put(pieces, layout.itemSeparator);
      line(depth + 1);
      write(item);
    }
    if (items.length > 0) line(depth);
    put(pieces, close);
  };
  if (isList(value) || value instanceof Tuple)
    all("[", isList(value) ? value : value.items, "]", (item) => writeJson(item, layout, pieces, depth + 1));
  else if (value instanceof Dict)
    all("{", layout.ordered(value.entries()), "}", ([key, item]) => {
      put(pieces, jsonString(keyText(key), layout.ascii) + layout.keySeparator);
      writeJson(item, layout, pieces, depth + 1);
    });
  else if (typeof value === "string") put(pieces, jsonString(value, layout.ascii));
  else put(pieces, jsonScalar(value));
}

function keyText(key: Value): string {
  if (typeof key === "string") return key;
  if (key instanceof Tuple) throw new TemplateError("keys must be str, int, float, bool or None, not tuple");
  return jsonScalar(key);
}

function jsonScalar(value: Value): string {
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  if (typeof value === "number" || typeof value === "bigint") return plainRepr(value);
  if (!(value instanceof Float)) throw new TemplateError(`Object of type ${typeName(value)} is not JSON serializable`);
  if (Number.isFinite(value.value)) return floatText(value.value);
  return Number.isNaN(value.value) ? "NaN" : value.value > 0 ? "Infinity" : "-Infinity";
}

function jsonString(text: string, ascii: boolean): string {
  const json = JSON.stringify(text);
  if (!ascii) return json;
  return json.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
