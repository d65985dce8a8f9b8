import { bytes, choice, type Expression, repeat, sequence } from "./expression.ts";
import { DIGIT, MOST_DIGITS } from "./json-text.ts";

/** The greatest integer that is written. */
export const GREATEST = 10 ** MOST_DIGITS - 1;

/** The integers from `least` to `most`, which is not less, between -GREATEST and GREATEST. */
export function integersBetween(least: number, most: number): Expression {
  const options: Expression[] = [];
  if (least < 0) options.push(sequence("-", naturals(Math.max(1, -most), -least)));
  if (most >= 0) options.push(naturals(Math.max(0, least), most));
  return choice(...options);
}

/** By the number of digits: those of one number are compared one after the other. */
function naturals(least: number, most: number): Expression {
  const options: Expression[] = [];
  for (let digits = String(least).length; digits <= String(most).length; digits++) {
    const first = digits === 1 ? 0 : 10 ** (digits - 1);
    const [from, to] = [Math.max(least, first), Math.min(most, 10 ** digits - 1)];
    options.push(sameLength(String(from), String(to)));
  }
  return choice(...options);
}

function sameLength(from: string, to: string): Expression {
  const digits = from.length;
  if (/^0*$/.test(from) && /^9*$/.test(to)) return repeat(DIGIT, digits, digits);
  if (digits === 0) return sequence();
  if (from[0] === to[0]) return sequence(from[0]!, sameLength(from.slice(1), to.slice(1)));
  const [zeros, nines] = ["0".repeat(digits - 1), "9".repeat(digits - 1)];
  const options = [sequence(from[0]!, sameLength(from.slice(1), nines)), sequence(to[0]!, sameLength(zeros, to.slice(1)))];
  const [low, high] = [from.charCodeAt(0) + 1, to.charCodeAt(0) - 1];
  if (low <= high) options.push(sequence(bytes([low, high]), sameLength(zeros, nines)));
  return choice(...options);
}
