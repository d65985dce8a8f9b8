import { TemplateError } from "../errors.ts";
import { spend } from "../meter.ts";

/** Decimal digits of floats, rounded as Python does: the exact value, halves to even. */

/** Digits that JavaScript gives exactly. */
const MAX_DIGITS = 100;

function checked(digits: number): number {
  if (digits > MAX_DIGITS) throw new TemplateError(`a number is written with at most ${MAX_DIGITS} digits, not ${digits}`);
  return digits;
}

/** `%.3f` without a sign. */
export function fixed(value: number, digits: number): string {
  const size = Math.abs(value);
  if (size >= 1e21) return BigInt(size).toString() + (checked(digits) > 0 ? `.${"0".repeat(digits)}` : "");
  const text = size.toFixed(checked(digits));
  // JavaScript rounds halves up; a half has exactly one digit more.
  const exact = size.toFixed(MAX_DIGITS);
  const point = exact.indexOf(".") + 1;
  const isHalf = digits < MAX_DIGITS && exact[point + digits] === "5" && /^0*$/.test(exact.slice(point + digits + 1));
  if (!isHalf || Number(text.at(-1)) % 2 === 0) return text;
  return digits === 0 ? exact.slice(0, point - 1) : exact.slice(0, point + digits);
}

/** `%.3e` without a sign: digits with a point, and the power of ten. */
export function exponential(value: number, digits: number): [string, number] {
  const size = Math.abs(value);
  const [text, power] = size.toExponential(checked(digits)).split("e") as [string, string];
  const [exact, exactPower] = size.toExponential(MAX_DIGITS).split("e") as [string, string];
  const isHalf = digits < MAX_DIGITS && exact[2 + digits] === "5" && /^0*$/.test(exact.slice(3 + digits));
  if (!isHalf || Number(text.at(-1)) % 2 === 0) return [text, Number(power)];
  return [digits === 0 ? exact[0]! : exact.slice(0, 2 + digits), Number(exactPower)];
}

export function powerText(power: number): string {
  return `e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

export interface FloatFormat {
  readonly type: "e" | "f" | "g" | "%";
  readonly digits: number;
  /** `#`: keeps the point and the zeros behind it. */
  readonly alternate: boolean;
  /** At least one digit behind the point, as floats have it where no type is asked for. */
  readonly pointed?: boolean;
}

/** A float's text without a sign. */
export function floatFormat(value: number, { type, digits, alternate, pointed = false }: FloatFormat): string {
  if (!Number.isFinite(value)) return (Number.isNaN(value) ? "nan" : "inf") + (type === "%" ? "%" : "");
  const withPoint = (text: string): string => (alternate && !text.includes(".") ? `${text}.` : text);
  if (type === "f") return withPoint(fixed(value, digits));
  if (type === "%") return `${withPoint(fixed(value * 100, digits))}%`;
  if (type === "e") {
    const [text, power] = exponential(value, digits);
    return withPoint(text) + powerText(power);
  }
  const precision = Math.max(1, digits);
  const [text, power] = exponential(value, precision - 1);
  const trimmed = (number: string): string => {
    if (alternate) return withPoint(number);
    return number.includes(".") ? number.replace(/\.?0+$/, "") : number;
  };
  if (power < -4 || power >= precision || (pointed && power >= precision - 1 && power > 0))
    return trimmed(text) + powerText(power);
  const plain = trimmed(fixed(value, precision - 1 - power));
  return pointed && !plain.includes(".") ? `${plain}.0` : withPoint(plain);
}

/** Python's `round` of a float. */
export function roundFloat(value: number, digits: number): number {
  if (!Number.isFinite(value) || digits > 300) return value;
  if (digits >= 0)
    return digits > MAX_DIGITS
      ? value
      : Math.sign(value) < 0 || Object.is(value, -0)
        ? -Number(fixed(value, digits))
        : Number(fixed(value, digits));
  if (digits < -310) return value < 0 ? -0 : 0;
  const [unit, whole] = [10n ** BigInt(-digits), BigInt(Math.trunc(Math.abs(value)))];
  const [quotient, twice] = [whole / unit, 2n * (whole % unit)];
  const isUp = twice > unit || (twice === unit && (!Number.isInteger(value) || quotient % 2n !== 0n));
  const rounded = Number((quotient + (isUp ? 1n : 0n)) * unit);
  return value < 0 ? -rounded : rounded;
}

/**
 * A number without a sign with a comma or the like between groups of digits of its whole part.
 * @param width least length; zeros fill it, in groups too
 */
export function grouped(text: string, separator: string, size: number, width: number): string {
  const [, prefix = "", whole = "", rest = ""] = /^(0[xXob])?([0-9a-fA-F]*)(.*)$/s.exec(text)!;
  const room = width - prefix.length - rest.length;
  let digits = Math.max(whole.length, Math.floor((room * size) / (size + 1)) - 1);
  while (digits + Math.floor((digits - 1) / size) < room) digits++;
  spend(2 * digits);
  const filled = whole.padStart(digits, "0");
  const first = filled.length % size || size;
  let result = prefix + filled.slice(0, first);
  for (let at = first; at < filled.length; at += size) result += separator + filled.slice(at, at + size);
  return result + rest;
}

/** Fills a text up to a width. @param align `<`, `>`, `^`, or `=`: behind the sign */
export function aligned(text: string, length: number, width: number, align: string, fill: string): string {
  const missing = width - length;
  if (missing <= 0) return text;
  spend(width);
  if (align === "<") return text + fill.repeat(missing);
  if (align === "^") return fill.repeat(Math.floor(missing / 2)) + text + fill.repeat(Math.ceil(missing / 2));
  if (align === "=") {
    const sign = /^[-+ ]?(?:0[xXob])?/.exec(text)![0];
    return sign + fill.repeat(missing) + text.slice(sign.length);
  }
  return fill.repeat(missing) + text;
}
