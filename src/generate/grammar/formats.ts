import { bytes, choice, type Expression, oneOf, optional, repeat, sequence } from "./expression.ts";
import { DIGIT } from "./json-text.ts";

const HEX = bytes([0x30, 0x39], [0x61, 0x66]);
const hex = (count: number) => repeat(HEX, count, count);

const upTo = (tens: string, units: Expression = DIGIT) => sequence(oneOf(tens), units);
const MINUTE = upTo("012345");
const HOUR = choice(upTo("01"), upTo("2", oneOf("0123")));

/** The days that every year has. */
const DAY_OF_MONTH = choice(
  sequence(choice(sequence("0", oneOf("13578")), sequence("1", oneOf("02"))), "-", choice(day30(), sequence("31"))),
  sequence(choice(sequence("0", oneOf("469")), sequence("11")), "-", day30()),
  sequence("02-", choice(sequence("0", oneOf("123456789")), upTo("1"), upTo("2", oneOf("012345678")))),
);

function day30(): Expression {
  return choice(sequence("0", oneOf("123456789")), upTo("12"), sequence("30"));
}

/** https://www.rfc-editor.org/rfc/rfc3339#section-5.6 */
const DATE = sequence(oneOf("12"), repeat(DIGIT, 3, 3), "-", DAY_OF_MONTH);
const TIME = sequence(
  HOUR,
  ":",
  MINUTE,
  ":",
  MINUTE,
  optional(sequence(".", repeat(DIGIT, 1, 9))),
  choice(sequence("Z"), sequence(oneOf("+-"), HOUR, ":", MINUTE)),
);

/** With a version and the variant of https://www.rfc-editor.org/rfc/rfc9562. */
const UUID = sequence(hex(8), "-", hex(4), "-", oneOf("12345678"), hex(3), "-", oneOf("89ab"), hex(3), "-", hex(12));

const quoted = (content: Expression) => sequence('"', content, '"');

/** Strings of a form, by the name that JSON schema has for it. */
export const FORMATS: Readonly<Record<string, Expression>> = {
  date: quoted(DATE),
  time: quoted(TIME),
  "date-time": quoted(sequence(DATE, "T", TIME)),
  uuid: quoted(UUID),
};
