import { bytes, choice, type Expression, oneOf, optional, type Reference, repeat, sequence } from "./expression.ts";

/** Digits of a number's whole part, its fraction and its exponent at most: any such number is one of float64, and a whole one exact. */
export const MOST_DIGITS = 15;
const EXPONENT_DIGITS = 2;
/** Characters at the beginning of a line at most. */
const MOST_INDENT = 32;

/** White space between parts: a blank, or a new line with what it is indented by. More of it a model could write for ever. */
export const SPACE = optional(choice(oneOf(" "), sequence("\n", repeat(oneOf(" \t"), 0, MOST_INDENT))));

export const DIGIT = bytes([0x30, 0x39]);
const HEX = bytes([0x30, 0x39], [0x41, 0x46], [0x61, 0x66]);
const CONTINUATION = bytes([0x80, 0xbf]);

/** The four hexadecimal digits of a UTF-16 unit that is no surrogate, and of a pair of surrogates. */
const UNIT = choice(
  sequence(bytes([0x30, 0x39], [0x41, 0x43], [0x45, 0x46], [0x61, 0x63], [0x65, 0x66]), HEX, HEX, HEX),
  sequence(oneOf("dD"), bytes([0x30, 0x37]), HEX, HEX),
);
const PAIR = sequence(oneOf("dD"), oneOf("89aAbB"), HEX, HEX, "\\u", oneOf("dD"), oneOf("cCdDeEfF"), HEX, HEX);

/** A character of a string: itself in UTF-8 (https://www.unicode.org/versions/Unicode16.0.0/core-spec/chapter-3/#G27506), or escaped. */
export const CHARACTER: Expression = choice(
  bytes([0x20, 0x21], [0x23, 0x5b], [0x5d, 0x7f]),
  sequence("\\", choice(oneOf('"\\/bfnrt'), sequence("u", choice(UNIT, PAIR)))),
  sequence(bytes([0xc2, 0xdf]), CONTINUATION),
  sequence(bytes([0xe0, 0xe0]), bytes([0xa0, 0xbf]), CONTINUATION),
  sequence(bytes([0xe1, 0xec], [0xee, 0xef]), CONTINUATION, CONTINUATION),
  sequence(bytes([0xed, 0xed]), bytes([0x80, 0x9f]), CONTINUATION),
  sequence(bytes([0xf0, 0xf0]), bytes([0x90, 0xbf]), CONTINUATION, CONTINUATION),
  sequence(bytes([0xf1, 0xf3]), CONTINUATION, CONTINUATION, CONTINUATION),
  sequence(bytes([0xf4, 0xf4]), bytes([0x80, 0x8f]), CONTINUATION, CONTINUATION),
);

/** @param least characters, and `most` */
export const stringOf = (least = 0, most = Infinity): Expression => sequence('"', repeat(CHARACTER, least, most), '"');

export const STRING = stringOf();
export const BOOLEAN = choice(sequence("true"), sequence("false"));
export const NULL = sequence("null");

const WHOLE = choice(sequence("0"), sequence(bytes([0x31, 0x39]), repeat(DIGIT, 0, MOST_DIGITS - 1)));
const FRACTION = sequence(".", repeat(DIGIT, 1, MOST_DIGITS));
const EXPONENT = sequence(oneOf("eE"), optional(oneOf("+-")), repeat(DIGIT, 1, EXPONENT_DIGITS));

export const NUMBER = sequence(optional(sequence("-")), WHOLE, optional(FRACTION), optional(EXPONENT));
export const INTEGER = sequence(optional(sequence("-")), WHOLE);

/** @param least of the items, and `most` */
export function arrayOf(item: Expression, least = 0, most = Infinity): Expression {
  const further = repeat(sequence(",", SPACE, item), Math.max(0, least - 1), Math.max(0, most - 1));
  const filled = sequence("[", SPACE, item, further, SPACE, "]");
  const empty = sequence("[", SPACE, "]");
  return choice(...(least === 0 ? [empty] : []), ...(most > 0 ? [filled] : []));
}

export interface Member {
  readonly name: string;
  readonly value: Expression;
  readonly isRequired: boolean;
}

/** An object with these members in this order; those that are not required may be left out. */
export function objectOf(members: readonly Member[]): Expression {
  const close = sequence(SPACE, "}");
  // What may come behind each member, and at the beginning, where no comma is written; from the last member on.
  let [behind, first]: [Expression, Expression] = [close, close];
  for (const { name, value, isRequired } of members.toReversed()) {
    const member = sequence(JSON.stringify(name), ":", SPACE, value, behind);
    const [later, earlier] = [sequence(",", SPACE, member), sequence(SPACE, member)];
    behind = isRequired ? later : choice(later, behind);
    first = isRequired ? earlier : choice(earlier, first);
  }
  return sequence("{", first);
}

/** An object with any members. */
export function anyObjectOf(value: Expression): Expression {
  const member = sequence(STRING, ":", SPACE, value);
  const filled = sequence("{", SPACE, member, repeat(sequence(",", SPACE, member), 0), SPACE, "}");
  return choice(sequence("{", SPACE, "}"), filled);
}

const value: Reference = { kind: "reference", target: null };
export const ANY_OBJECT = anyObjectOf(value);
export const ANY_ARRAY = arrayOf(value);
value.target = choice(ANY_OBJECT, ANY_ARRAY, STRING, NUMBER, BOOLEAN, NULL);
export const ANY_VALUE: Expression = value;
