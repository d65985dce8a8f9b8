import { bytes, choice, type Expression, optional, repeat, sequence } from "./expression.ts";
import { integersBetween } from "./integers.ts";
import { DIGIT, MOST_DIGITS } from "./json-text.ts";

/** Decimal places of bounds at most. */
export const MOST_PLACES = 6;
const SCALE = 10n ** BigInt(MOST_PLACES);
/** The greatest number that is written between bounds, times the scale. */
const GREATEST = 10n ** BigInt(MOST_DIGITS) * SCALE - SCALE;

/** A bound in units of the last decimal place; null: it has more places than are supported. */
export function scaled(bound: number): bigint | null {
  if (Math.abs(bound) >= 1e15) return bound > 0 ? GREATEST + 1n : -GREATEST - 1n;
  const [, sign, whole, places = ""] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(String(bound)) ?? [];
  if (whole === undefined || places.length > MOST_PLACES) return null;
  const value = BigInt(whole) * SCALE + BigInt(places.padEnd(MOST_PLACES, "0"));
  return sign === "-" ? -value : value;
}

/**
 * The decimal numbers from `least` to `most`, both in units of the last place; null: there is none. What is written is read as the nearest
 * number of float64, and since rounding keeps the order, it does not get past a bound that is one itself.
 */
export function numbersBetween(least: bigint, most: bigint): Expression | null {
  const [low, high] = [least < -GREATEST ? -GREATEST : least, most > GREATEST ? GREATEST : most];
  if (low > high) return null;
  const options: Expression[] = [];
  // Zero has no sign.
  if (low < 0n) options.push(sequence("-", magnitudes(high < 0n ? -high : 1n, -low)));
  if (high >= 0n) options.push(magnitudes(low > 0n ? low : 0n, high));
  return choice(...options);
}

const ANY_PLACES = optional(sequence(".", repeat(DIGIT, 1, MOST_DIGITS)));

function magnitudes(least: bigint, most: bigint): Expression {
  const [low, high] = [least / SCALE, most / SCALE];
  const [from, to] = [placesOf(least), placesOf(most)];
  const whole = (value: bigint) => sequence(String(value));
  if (low === high) return sequence(whole(low), between(from, to));
  const options = [sequence(whole(low), atLeast(from)), sequence(whole(high), atMost(to))];
  if (high - low > 1n) options.push(sequence(integersBetween(Number(low + 1n), Number(high - 1n)), ANY_PLACES));
  return choice(...options);
}

/** The decimal places without zeros at their end. */
const placesOf = (value: bigint): string =>
  String(value % SCALE)
    .padStart(MOST_PLACES, "0")
    .replace(/0+$/, "");

/** Each of these is what may come behind the digits of the whole part. */
const atLeast = (places: string): Expression => (places === "" ? ANY_PLACES : sequence(".", digitsAtLeast(places)));
const atMost = (places: string): Expression =>
  places === ""
    ? optional(sequence(".", repeat(oneOf("0", "0"), 1, MOST_DIGITS)))
    : optional(sequence(".", digitsAtMost(places, false)));

function between(from: string, to: string): Expression {
  if (from === "") return atMost(to);
  const size = Math.max(from.length, to.length);
  return sequence(".", digitsBetween(from.padEnd(size, "0"), to.padEnd(size, "0")));
}

const anyDigits = (least: number): Expression => repeat(DIGIT, least, MOST_DIGITS);
const oneOf = (first: string, last: string): Expression => bytes([first.charCodeAt(0), last.charCodeAt(0)]);
const next = (digit: string, by: number): string => String(Number(digit) + by);

function digitsAtLeast(places: string): Expression {
  const rest = places.slice(1).replace(/0+$/, "");
  const [digit] = places as unknown as [string];
  const options = [sequence(digit, rest === "" ? anyDigits(0) : digitsAtLeast(rest))];
  if (digit < "9") options.push(sequence(oneOf(next(digit, 1), "9"), anyDigits(0)));
  return choice(...options);
}

/** @param mayEnd digits have been written that may stand alone */
function digitsAtMost(places: string, mayEnd: boolean): Expression {
  const zeros = repeat(oneOf("0", "0"), mayEnd ? 0 : 1, MOST_DIGITS);
  if (/^0*$/.test(places)) return zeros;
  const [digit] = places as unknown as [string];
  const options = [sequence(digit, digitsAtMost(places.slice(1), true))];
  if (digit > "0") options.push(sequence(oneOf("0", next(digit, -1)), anyDigits(0)));
  return mayEnd ? optional(choice(...options)) : choice(...options);
}

/** @param from not greater than `to`, and as long */
function digitsBetween(from: string, to: string): Expression {
  const [low, high] = [from[0]!, to[0]!];
  const rest = from.slice(1);
  if (low === high) {
    const behind = digitsBetween(rest, to.slice(1));
    // What is equal so far is at least what is only followed by zeros.
    return sequence(low, /^0*$/.test(rest) ? digitsAtMost(to.slice(1), true) : behind);
  }
  const above = /^0*$/.test(rest) ? anyDigits(0) : digitsAtLeast(rest);
  const options = [sequence(low, above), sequence(high, digitsAtMost(to.slice(1), true))];
  if (Number(high) - Number(low) > 1) options.push(sequence(oneOf(next(low, 1), next(high, -1)), anyDigits(0)));
  return choice(...options);
}
