import { type Expression, sequence } from "./expression.ts";
import { patternOf } from "./pattern.ts";

const DATE =
  "[12]\\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))";
const HOUR = "(?:[01]\\d|2[0-3])";
const TIME = `${HOUR}:[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-]${HOUR}:[0-5]\\d)`;
const LABEL = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?";
const HOST = `${LABEL}(?:\\.${LABEL}){0,4}\\.[a-z]{2,10}`;
const BYTE = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";

/**
 * Strings of a form, by the name that JSON schema has for it: https://json-schema.org/draft/2020-12/json-schema-validation#section-7.3. Not all of
 * a form is written: days that every year has, names of hosts with a domain, and so on.
 */
const PATTERNS = {
  date: DATE,
  time: TIME,
  "date-time": `${DATE}T${TIME}`,
  duration: "P(?:\\d{1,3}W|\\d{1,3}D(?:T\\d{1,3}H)?|T\\d{1,3}[HMS])",
  email: `[a-z0-9]{1,20}(?:[._-][a-z0-9]{1,20}){0,3}@${HOST}`,
  hostname: HOST,
  ipv4: `${BYTE}(?:\\.${BYTE}){3}`,
  ipv6: "[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}",
  uri: `https?://${HOST}(?:/[A-Za-z0-9._~-]{1,40}){0,8}/?`,
  uuid: "[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
} as const;

export const FORMAT_NAMES = Object.keys(PATTERNS);

/** The strings of a form; null: it is not known. */
export function formatOf(name: unknown): Expression | null {
  return typeof name === "string" && Object.hasOwn(PATTERNS, name) ? quoted(PATTERNS[name as keyof typeof PATTERNS]) : null;
}

export const quoted = (pattern: string): Expression => sequence('"', patternOf(pattern), '"');
