import { strip } from "./strings.ts";

/** Numbers in texts, as Python's `int` and `float` read them. */

const DIGITS = "\\d+(?:_\\d+)*";
const FLOAT = new RegExp(`^[-+]?(?:${DIGITS}(?:\\.(?:${DIGITS})?)?|\\.${DIGITS})(?:e[-+]?${DIGITS})?$`, "i");
const WORDS = /^([-+]?)(inf|infinity|nan)$/i;

/** null: the text is no float. */
export function parseFloatText(text: string): number | null {
  const trimmed = strip(text, null, "both");
  const word = WORDS.exec(trimmed);
  if (word) return word[2]!.toLowerCase() === "nan" ? NaN : word[1] === "-" ? -Infinity : Infinity;
  return FLOAT.test(trimmed) ? Number(trimmed.replaceAll("_", "")) : null;
}

const PREFIXES: Readonly<Record<string, number>> = { b: 2, o: 8, x: 16 };

/** null: the text is no integer in this base (0: the base that its prefix names). */
export function parseIntText(text: string, base: number): bigint | null {
  const [, sign, prefix, body] = /^([-+]?)(?:0([box])_?)?([^]*)$/i.exec(strip(text, null, "both"))! as unknown as string[];
  const named = prefix === undefined ? undefined : PREFIXES[prefix.toLowerCase()];
  let digits = body!;
  let radix = base;
  if (named !== undefined && (base === 0 || base === named)) radix = named;
  // In base 16, `0b1` is a number without a prefix.
  else if (prefix !== undefined) digits = `0${prefix}${digits}`;
  if (radix === 0) {
    if (/^0+[1-9]/.test(digits.replaceAll("_", ""))) return null;
    radix = 10;
  }
  if (radix < 2 || radix > 36 || !/^[0-9a-z]+(?:_[0-9a-z]+)*$/i.test(digits)) return null;
  let value = 0n;
  digits = digits.replaceAll("_", "").toLowerCase();
  if (digits.length > 4300) return null;
  if (radix === 10) {
    if (!/^\d+$/.test(digits)) return null;
    value = BigInt(digits);
  } else
    for (const digit of digits) {
      const number = parseInt(digit, 36);
      if (number >= radix) return null;
      value = value * BigInt(radix) + BigInt(number);
    }
  return sign === "-" ? -value : value;
}
