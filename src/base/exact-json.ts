/**
 * JSON as Python reads it, for what chat templates print: `1.0` is not `1`, integers have any size, and the keys of an object
 * stand in the order of the text.
 *
 * A number that JavaScript reads as the same integer stays a number; any other is a `JsonNumber`. An object whose keys
 * JavaScript would put in another order (those that are whole numbers come first there) has them under `KEY_ORDER`, which
 * survives `{ ...object }`. Everything else is what `JSON.parse` gives, so whoever reads texts and objects need not know.
 */

/** A number that JavaScript has no exact value or no own spelling for, as it is written. */
export class JsonNumber {
  constructor(readonly source: string) {}

  /** Tells whether Python reads a float, and not an int. */
  get isFloat(): boolean {
    return /[.eE]/.test(this.source);
  }

  valueOf(): number {
    return Number(this.source);
  }

  toJSON(): unknown {
    return (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON(this.source);
  }
}

/** Under this symbol, an object's keys in the order of its text. */
export const KEY_ORDER = Symbol("order of keys");

type Ordered = Record<string, unknown> & { [KEY_ORDER]?: readonly string[] };

/** An object's keys in the order of its text; those that were added later come last. */
export function keysInOrder(object: Readonly<Record<string, unknown>>): readonly string[] {
  const keys = Object.keys(object);
  const written = (object as Ordered)[KEY_ORDER];
  if (!written) return keys;
  const known = new Set(written);
  return [...written.filter((key) => Object.hasOwn(object, key)), ...keys.filter((key) => !known.has(key))];
}

/** An object with other values under the same keys, in the same order. */
export function mapValues(
  object: Readonly<Record<string, unknown>>,
  valueOf: (value: unknown) => unknown,
): Record<string, unknown> {
  const copy: Ordered = Object.fromEntries(Object.entries(object).map(([key, value]) => [key, valueOf(value)]));
  const order = (object as Ordered)[KEY_ORDER];
  if (order) copy[KEY_ORDER] = order;
  return copy;
}

/** Tells whether a value that `JSON.parse` gave holds a number or a key that may be written otherwise in its text. */
export function needsExact(value: unknown): boolean {
  if (typeof value !== "object") return typeof value === "number";
  if (value === null) return false;
  if (Array.isArray(value)) return value.some(needsExact);
  for (const key in value) {
    if (isDigit(key.charCodeAt(0)) || needsExact((value as Record<string, unknown>)[key])) return true;
  }
  return false;
}

/** Reads JSON exactly. @param text JSON that `JSON.parse` has read without an error */
export function readExactly(text: string): unknown {
  return new Reader(text).value();
}

const isDigit = (code: number): boolean => code >= 48 && code <= 57;
const NUMBER = /[-+.\deE]*/y;
const [SPACE, QUOTE, COMMA, COLON] = [0x20, 0x22, 0x2c, 0x3a];

/** Reads a text that is known to be JSON. */
class Reader {
  private at = 0;

  constructor(private readonly text: string) {}

  value(): unknown {
    this.skipSpace();
    switch (this.text[this.at]) {
      case "{":
        return this.object();
      case "[":
        return this.array();
      case '"':
        return this.string();
      case "t":
        this.at += 4;
        return true;
      case "f":
        this.at += 5;
        return false;
      case "n":
        this.at += 4;
        return null;
      default:
        return this.number();
    }
  }

  /** Moves over white space and the separators, which stand where they should. */
  private skipSpace(): void {
    for (;;) {
      const code = this.text.charCodeAt(this.at);
      if (code > SPACE && code !== COMMA && code !== COLON) return;
      this.at++;
    }
  }

  private object(): unknown {
    const object: Ordered = {};
    const keys: string[] = [];
    let isReordered = false;
    this.at++;
    for (this.skipSpace(); this.text.charCodeAt(this.at) === QUOTE; this.skipSpace()) {
      const key = this.string();
      if (!Object.hasOwn(object, key)) keys.push(key);
      isReordered ||= isDigit(key.charCodeAt(0));
      const value = this.value();
      if (key === "__proto__")
        Object.defineProperty(object, key, { value, configurable: true, enumerable: true, writable: true });
      else object[key] = value;
    }
    this.at++;
    if (isReordered) object[KEY_ORDER] = keys;
    return object;
  }

  private array(): unknown[] {
    const items: unknown[] = [];
    this.at++;
    for (this.skipSpace(); this.text[this.at] !== "]"; this.skipSpace()) items.push(this.value());
    this.at++;
    return items;
  }

  private string(): string {
    const { text } = this;
    const begin = this.at + 1;
    let end = text.indexOf('"', begin);
    const plain = text.slice(begin, end);
    const escape = plain.indexOf("\\");
    if (escape < 0) {
      this.at = end + 1;
      return plain;
    }
    for (end = begin + escape; text.charCodeAt(end) !== QUOTE; end++) if (text[end] === "\\") end++;
    this.at = end + 1;
    return JSON.parse(text.slice(begin - 1, end + 1)) as string;
  }

  private number(): number | JsonNumber {
    NUMBER.lastIndex = this.at;
    const source = NUMBER.exec(this.text)![0];
    this.at += source.length;
    const value = Number(source);
    // -0 is the integer 0 in Python.
    if (Number.isSafeInteger(value) && !/[.eE]/.test(source)) return value === 0 ? 0 : value;
    return new JsonNumber(source);
  }
}
