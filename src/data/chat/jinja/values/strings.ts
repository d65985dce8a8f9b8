import { TemplateError } from "../errors.ts";
import { ITEM_BYTES, scan, search, spend, step } from "../meter.ts";
import { characters, repeat, textLength, textSlice } from "./text.ts";

/** Python's `str` where JavaScript's differs. */

/** Python's white space (`str.isspace`), as a class of a regular expression. */
export const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";

const LEADING_SPACE = new RegExp(`^${SPACE}+`);
const SPACES = new RegExp(`${SPACE}+`, "g");
const ONE_SPACE = new RegExp(SPACE);

export type Sides = "both" | "left" | "right";

/** @param characters the ones that are taken away; null: white space */
export function strip(text: string, characters: string | null, sides: Sides): string {
  const set = characters === null ? null : new Set(characters);
  const isIn = (character: string): boolean => (set ? set.has(character) : ONE_SPACE.test(character));
  let [from, to] = [0, text.length];
  if (sides !== "right") {
    while (from < to) {
      const character = String.fromCodePoint(text.codePointAt(from)!);
      if (!isIn(character)) break;
      from += character.length;
    }
  }
  if (sides !== "left") {
    while (to > from) {
      const isPair = to - from >= 2 && text.codePointAt(to - 2)! > 0xffff;
      if (!isIn(text.slice(isPair ? to - 2 : to - 1, to))) break;
      to -= isPair ? 2 : 1;
    }
  }
  return text.slice(from, to);
}

/** @param most splits; negative: no limit */
export function split(text: string, separator: string | null, most: number): string[] {
  if (separator === null) return splitWords(text, most);
  if (separator === "") throw new TemplateError("empty separator");
  search(text, separator);
  const parts: string[] = [];
  let at = 0;
  for (
    let found = text.indexOf(separator);
    found >= 0 && (most < 0 || parts.length < most);
    found = text.indexOf(separator, at)
  ) {
    addPart(parts, text.slice(at, found));
    at = found + separator.length;
  }
  addPart(parts, text.slice(at));
  return parts;
}

export function splitFromRight(text: string, separator: string | null, most: number): string[] {
  if (most < 0) return split(text, separator, most);
  if (separator === "") throw new TemplateError("empty separator");
  const parts: string[] = [];
  let end = text.length;
  if (separator !== null) {
    search(text, separator);
    for (let found = text.lastIndexOf(separator); found >= 0 && parts.length < most;) {
      addPart(parts, text.slice(found + separator.length, end));
      end = found;
      found = end >= separator.length ? text.lastIndexOf(separator, end - separator.length) : -1;
    }
    addPart(parts, text.slice(0, end));
    return parts.reverse();
  }
  let rest = strip(text, null, "right");
  while (parts.length < most && rest !== "") {
    let begin = rest.length;
    while (begin > 0 && !ONE_SPACE.test(rest[begin - 1]!)) begin--;
    if (begin === 0) break;
    addPart(parts, rest.slice(begin));
    rest = strip(rest.slice(0, begin), null, "right");
  }
  if (rest !== "") addPart(parts, rest);
  return parts.reverse();
}

function addPart(parts: string[], part: string): void {
  step();
  spend(ITEM_BYTES);
  parts.push(part);
}

function splitWords(text: string, most: number): string[] {
  const parts: string[] = [];
  let rest = text.replace(LEADING_SPACE, "");
  if (most < 0) {
    for (const word of rest.split(SPACES)) if (word !== "") addPart(parts, word);
    return parts;
  }
  while (rest !== "" && parts.length < most) {
    const end = rest.search(ONE_SPACE);
    if (end < 0) break;
    addPart(parts, rest.slice(0, end));
    rest = rest.slice(end).replace(LEADING_SPACE, "");
  }
  if (rest !== "") addPart(parts, rest);
  return parts;
}

// oxlint-disable-next-line no-control-regex
const LINE_END = /\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]/g;

export function splitLines(text: string, keepEnds = false): string[] {
  const lines: string[] = [];
  let at = 0;
  for (const match of text.matchAll(LINE_END)) {
    const end = match.index + match[0].length;
    addPart(lines, text.slice(at, keepEnds ? end : match.index));
    at = end;
  }
  if (at < text.length) addPart(lines, text.slice(at));
  return lines;
}

/** @param most replacements; negative: all */
export function replace(text: string, old: string, by: string, most = -1): string {
  if (most === 0) return text;
  let count = 0;
  if (old === "") {
    const points = characters(text);
    const places = most < 0 ? points.length + 1 : Math.min(most, points.length + 1);
    spend(text.length + places * by.length);
    return points.map((point, i) => (i < places ? by + point : point)).join("") + (places > points.length ? by : "");
  }
  search(text, old);
  if (!text.includes(old)) return text;
  for (let at = text.indexOf(old); at >= 0 && (most < 0 || count < most); at = text.indexOf(old, at + old.length)) count++;
  step(4 * count);
  spend(text.length + count * Math.max(0, by.length - old.length));
  if (most < 0) return text.replaceAll(old, () => by);
  const parts = split(text, old, most);
  return parts.join(by);
}

/** The part of a text from one index to another in Python's counting, and where it begins; null: behind the end. */
function window(text: string, start: number | null, end: number | null): { readonly part: string; readonly from: number } | null {
  if (start === null && end === null) return { part: text, from: 0 };
  const length = textLength(text);
  const bound = (value: number): number => Math.min(length, value < 0 ? Math.max(0, value + length) : value);
  const [from, to] = [start === null ? 0 : start < 0 ? bound(start) : start, end === null ? length : bound(end)];
  return from > length || from > to ? null : { part: textSlice(text, from, to), from };
}

/** Python's `find` and `rfind`; -1: not there. */
export function find(text: string, part: string, start: number | null, end: number | null, last = false): number {
  const where = window(text, start, end);
  if (!where) return -1;
  search(where.part, part);
  const at = last ? where.part.lastIndexOf(part) : where.part.indexOf(part);
  return at < 0 ? -1 : where.from + textLength(where.part.slice(0, at));
}

export function count(text: string, part: string, start: number | null, end: number | null): number {
  const where = window(text, start, end);
  if (!where) return 0;
  search(where.part, part);
  if (part === "") return textLength(where.part) + 1;
  let found = 0;
  for (let at = where.part.indexOf(part); at >= 0; at = where.part.indexOf(part, at + part.length)) found++;
  return found;
}

export function startsOrEnds(text: string, part: string, ends: boolean, start: number | null, end: number | null): boolean {
  const where = window(text, start, end);
  return where !== null && (ends ? where.part.endsWith(part) : where.part.startsWith(part));
}

/** Fills a text up to a width. */
export function pad(text: string, width: number, fill: string, align: "left" | "right" | "center"): string {
  if (textLength(fill) !== 1) throw new TemplateError("The fill character must be exactly one character long");
  const missing = width - textLength(text);
  if (missing <= 0) return text;
  if (align === "left") return text + repeat(fill, missing);
  if (align === "right") return repeat(fill, missing) + text;
  const left = Math.floor(missing / 2) + (missing & width & 1);
  return repeat(fill, left) + text + repeat(fill, missing - left);
}

const isCased = (character: string): boolean => /[\p{Lu}\p{Ll}\p{Lt}]/u.test(character);

/** The first letter of every run of letters large, the others small. */
export function titleCase(text: string): string {
  return text.replace(/[\p{Lu}\p{Ll}\p{Lt}]+/gu, capitalize);
}

/** One character as the first of a word: of a ligature its first letter only. */
function upperFirst(character: string): string {
  const upper = character.toUpperCase();
  const [first = "", ...rest] = TITLE_LETTERS[upper] ?? upper;
  return isCased(first) ? first + rest.join("").toLowerCase() : upper;
}

/** Letters that are two, of which the first alone is large. */
const TITLE_LETTERS: Readonly<Record<string, string>> = { Ǆ: "ǅ", Ǉ: "ǈ", Ǌ: "ǋ", Ǳ: "ǲ" };

export function capitalize(text: string): string {
  if (text === "") return "";
  const first = String.fromCodePoint(text.codePointAt(0)!);
  // All of the text is made small, since a letter at the end may have another small form.
  return upperFirst(first) + text.toLowerCase().slice(first.toLowerCase().length);
}

export function swapCase(text: string): string {
  return Array.from(text, (character) =>
    character === character.toLowerCase() ? character.toUpperCase() : character.toLowerCase(),
  ).join("");
}

const FOLDED: Readonly<Record<string, string>> = { ß: "ss", ẞ: "ss", ς: "σ", ſ: "s", ŉ: "ʼn" };

export function caseFold(text: string): string {
  return text.replace(/[ßẞςſŉ]/g, (character) => FOLDED[character]!).toLowerCase();
}

/** Digits that are no decimal ones, and ideographs that are numbers. */
const OTHER_DIGITS =
  "\u00b2\u00b3\u00b9\u1369-\u1371\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490\u24ea";
const NUMBER_IDEOGRAPHS = "〇一二三四五六七八九十百千万億兆";

const KINDS: Readonly<Record<string, RegExp>> = {
  isalnum: new RegExp(`^[\\p{L}\\p{N}${NUMBER_IDEOGRAPHS}]+$`, "u"),
  isalpha: /^\p{L}+$/u,
  // oxlint-disable-next-line no-control-regex
  isascii: /^[\0-\x7f]*$/,
  isdecimal: /^\p{Nd}+$/u,
  isdigit: new RegExp(`^[\\p{Nd}${OTHER_DIGITS}]+$`, "u"),
  isidentifier: /^[\p{XID_Start}_]\p{XID_Continue}*$/u,
  isnumeric: new RegExp(`^[\\p{N}${NUMBER_IDEOGRAPHS}]+$`, "u"),
  isprintable: /^(?: |[^\p{C}\p{Z}])*$/u,
  isspace: new RegExp(`^${SPACE}+$`),
  islower: /^(?=.*\p{Lowercase})[^\p{Lu}\p{Lt}]*$/su,
  isupper: /^(?=.*\p{Uppercase})[^\p{Ll}\p{Lt}]*$/su,
};

/** Names of the methods that tell what a text is made of. */
export const TEXT_KINDS = [...Object.keys(KINDS), "istitle"];

export function isOfKind(text: string, kind: string): boolean {
  scan(text);
  if (kind !== "istitle") return KINDS[kind]!.test(text);
  let [inWord, hasWord] = [false, false];
  for (const character of text) {
    if (isCased(character)) {
      hasWord = true;
      if (inWord === /[\p{Lu}\p{Lt}]/u.test(character)) return false;
    }
    inWord = isCased(character);
  }
  return hasWord;
}

export function expandTabs(text: string, size: number): string {
  let column = 0;
  let result = "";
  for (const character of text) {
    if (character === "\t") {
      const width = size > 0 ? size - (column % size) : 0;
      result += repeat(" ", width);
      column += width;
    } else {
      result += character;
      column = character === "\n" || character === "\r" ? 0 : column + 1;
    }
  }
  return result;
}
