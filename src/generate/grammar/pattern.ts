import { bytes, choice, type Expression, measure, repeat, sequence } from "./expression.ts";

/** A pattern that says more than can be followed. */
export class PatternError extends Error {}

/** Characters of ASCII that may stand in a string, escaped or not. */
const PRINTABLE = Array.from({ length: 0x5f }, (_, i) => 0x20 + i);
const WHITE = [0x09, 0x0a, 0x0d, 0x20];
const DIGITS = rangeOf(0x30, 0x39);
const WORD = [...DIGITS, ...rangeOf(0x41, 0x5a), 0x5f, ...rangeOf(0x61, 0x7a)];

/** Characters of two and three bytes, without those that are white space or surrogates in some engine. */
const BEYOND_ASCII = choice(
  sequence(bytes([0xc3, 0xdf]), bytes([0x80, 0xbf])),
  sequence(bytes([0xe4, 0xe9]), bytes([0x80, 0xbf]), bytes([0x80, 0xbf])),
);

/** The most that a pattern may come to when its repetitions are written out, and the deepest nesting. */
const MOST_SIZE = 5000;
const MOST_DEPTH = 50;

function rangeOf(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/**
 * The contents of JSON strings that a regular expression (https://262.ecma-international.org/#sec-patterns) matches from their first character to
 * their last. Of what a class without an end lets through, such as `.` or `[^a]`, it has the characters that all engines agree on.
 * @throws {PatternError} assertions within the pattern, references to groups, classes of Unicode
 */
export function patternOf(source: string): Expression {
  return createParser(source)();
}

/** A place in a pattern. */
interface Cursor {
  readonly source: string;
  at: number;
  /** Goes on behind a text, if it comes next. */
  takes(text: string): boolean;
  /** @throws {PatternError} */
  fail(what: string): never;
}

function createCursor(source: string): Cursor {
  const cursor: Cursor = {
    source,
    at: 0,
    takes(text) {
      if (!source.startsWith(text, cursor.at)) return false;
      cursor.at += text.length;
      return true;
    },
    fail(what) {
      throw new PatternError(`${what} at character ${cursor.at + 1} cannot be followed`);
    },
  };
  return cursor;
}

function createParser(source: string): () => Expression {
  const cursor = createCursor(source);
  const { takes, fail } = cursor;
  let depth = 0;
  const alternatives = (isOuter: boolean): Expression => {
    const options: Expression[] = [];
    do options.push(alternative(isOuter));
    while (takes("|"));
    return choice(...options);
  };
  const alternative = (isOuter: boolean): Expression => {
    // The whole string is matched in any case.
    if (isOuter) takes("^");
    const items: Expression[] = [];
    while (cursor.at < source.length && source[cursor.at] !== "|" && source[cursor.at] !== ")") {
      if (isOuter && source[cursor.at] === "$" && (cursor.at + 1 === source.length || source[cursor.at + 1] === "|")) cursor.at++;
      else items.push(quantified(atom()));
    }
    return sequence(...items);
  };
  const atom = (): Expression => {
    if (takes("(")) return group();
    if (takes("[")) return readClass(cursor);
    if (takes(".")) return anyBut([]);
    const character = source[cursor.at]!;
    if ("^$*+?{".includes(character)) fail(`"${character}"`);
    if (takes("\\")) {
      const escaped = readEscape(cursor, false);
      return Array.isArray(escaped) ? oneOf(escaped) : fail(`"\\${source[cursor.at - 1]}"`);
    }
    return written(readCharacter(cursor));
  };
  const group = (): Expression => {
    if (++depth > MOST_DEPTH) fail("a group so deep");
    if (!takes("?:") && source[cursor.at] === "?") fail(`"(${source.slice(cursor.at, cursor.at + 2)}"`);
    const inside = alternatives(false);
    if (!takes(")")) fail("a group without an end");
    depth--;
    return inside;
  };
  const quantified = (item: Expression): Expression => {
    const [match, least, comma, most] = /^\{(\d{1,9})(,?)(\d{0,9})\}/.exec(source.slice(cursor.at, cursor.at + 24)) ?? [];
    let times: readonly [number, number] | null = null;
    if (takes("*")) times = [0, Infinity];
    else if (takes("+")) times = [1, Infinity];
    else if (takes("?")) times = [0, 1];
    else if (match !== undefined) {
      cursor.at += match.length;
      times = [Number(least), comma === "" ? Number(least) : most === "" ? Infinity : Number(most)];
    }
    if (times === null) return item;
    // Whether as little or as much as possible is matched does not change what is.
    takes("?");
    const [fewest, greatest] = times;
    if (fewest > greatest) fail("a repetition from more to fewer times");
    if (measure(item)(item) === 0) fail("a repetition of what may be empty");
    const repeated = repeat(item, fewest, greatest);
    // As many places within a pattern there may be at a time.
    if (sizeOf(repeated) > MOST_SIZE) fail("a repetition of so many");
    return repeated;
  };

  return () => {
    const pattern = alternatives(true);
    return cursor.at < source.length ? fail(`"${source[cursor.at]}"`) : pattern;
  };
}

function readClass(cursor: Cursor): Expression {
  const { source, takes, fail } = cursor;
  const isNegated = takes("^");
  const members = new Set<number>();
  const beyond = new Set<string>();
  let isPlain = true;
  while (!takes("]")) {
    if (cursor.at >= source.length) fail("a class without an end");
    const first = readMember(cursor);
    if (Array.isArray(first) && first.length !== 1) {
      first.forEach((code) => members.add(code));
      isPlain = false;
      continue;
    }
    const code = Array.isArray(first) ? first[0]! : first.codePointAt(0)!;
    let last = code;
    if (source[cursor.at] === "-" && source[cursor.at + 1] !== "]" && cursor.at + 1 < source.length) {
      cursor.at++;
      const end = readMember(cursor);
      last = Array.isArray(end) ? (end.length === 1 ? end[0]! : fail("a range to a class")) : end.codePointAt(0)!;
      if (last < code || (last > 0x7f && last !== code)) fail("a range beyond ASCII");
    }
    if (code > 0x7f) beyond.add(String.fromCodePoint(code));
    else for (const each of rangeOf(code, last)) members.add(each);
  }
  if (!isNegated) {
    if (members.size + beyond.size === 0) fail("an empty class");
    return choice(...(members.size > 0 ? [oneOf([...members])] : []), ...[...beyond].map(written));
  }
  if (isPlain && beyond.size === 0) return anyBut([...members]);
  return oneOf(PRINTABLE.filter((code) => !members.has(code)));
}

/** A member of a class: the codes of ASCII that it means, or a character beyond it. */
function readMember(cursor: Cursor): number[] | string {
  if (cursor.takes("\\")) return readEscape(cursor, true);
  const character = readCharacter(cursor);
  return character > "\x7f" ? character : [character.charCodeAt(0)];
}

function readCharacter(cursor: Cursor): string {
  const character = String.fromCodePoint(cursor.source.codePointAt(cursor.at)!);
  if (!character.isWellFormed()) cursor.fail("half a character");
  cursor.at += character.length;
  return character;
}

function readEscape(cursor: Cursor, isInClass: boolean): number[] | string {
  const { source, fail } = cursor;
  const character = source[cursor.at++] ?? fail("an escape without a character");
  const known: Readonly<Record<string, number[]>> = {
    d: DIGITS,
    w: WORD,
    s: WHITE,
    D: PRINTABLE.filter((code) => !DIGITS.includes(code)),
    W: PRINTABLE.filter((code) => !WORD.includes(code)),
    S: PRINTABLE.filter((code) => code !== 0x20),
    n: [0x0a],
    r: [0x0d],
    t: [0x09],
  };
  const codes = Object.hasOwn(known, character) ? known[character]! : null;
  if (codes) return codes;
  const [, hex] =
    /^(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))/.exec(source.slice(cursor.at - 1))?.filter((part) => part !== undefined) ?? [];
  if (hex !== undefined) {
    cursor.at += hex.length;
    const code = Number.parseInt(hex, 16);
    if (code >= 0x20 && code < 0x7f) return [code];
    fail(`the character U+${hex.toUpperCase()}`);
  }
  if (/[A-Za-z0-9]/.test(character) || (isInClass && character > "\x7f")) fail(`"\\${character}"`);
  return [character.charCodeAt(0)];
}

function sizeOf(expression: Expression): number {
  switch (expression.kind) {
    case "sequence":
      return expression.items.reduce((sum, item) => sum + sizeOf(item), 1);
    case "choice":
      return expression.options.reduce((sum, option) => sum + sizeOf(option), 1);
    case "repeat": {
      const { item, least, most } = expression;
      return sizeOf(item) * Math.max(1, most === Infinity ? least + 1 : most);
    }
    default:
      return 1;
  }
}

/** A character as JSON writes it in a string. */
const written = (character: string): Expression => sequence(JSON.stringify(character).slice(1, -1));

function oneOf(codes: readonly number[]): Expression {
  const plain = codes.filter((code) => code >= 0x20 && code < 0x7f && code !== 0x22 && code !== 0x5c);
  const escaped = [0x22, 0x5c, 0x09, 0x0a, 0x0d].filter((code) => codes.includes(code));
  if (plain.length + escaped.length === 0)
    throw new PatternError("a character that is neither printable nor white space cannot be followed");
  return choice(
    ...(plain.length > 0 ? [bytes(...plain.map((code) => [code, code] as const))] : []),
    ...escaped.map((code) => written(String.fromCharCode(code))),
  );
}

const anyBut = (codes: readonly number[]): Expression =>
  choice(oneOf(PRINTABLE.filter((code) => !codes.includes(code))), BEYOND_ASCII);
