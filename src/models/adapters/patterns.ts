import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";

/** Numbers by module: keys are names, or regular expressions of the whole name, or of its end after a dot. */
export type Pattern = Readonly<Record<string, number>>;

/** The value of the first key that matches. @param where names the pattern in errors @throws {UserError} a key that is not understood */
export function patternValue(patterns: Pattern | null | undefined, module: string, where: string): number | null {
  for (const [key, value] of Object.entries(patterns ?? {}))
    if (createPattern(String.raw`^(?:.*\.)?(?:${key})$`, key, where).test(module)) return value;
  return null;
}

/** Tells whether a regular expression of PEFT's matches a module's whole name. @throws {UserError} one that is not understood */
export const matches = (pattern: string, module: string, where: string): boolean =>
  createPattern(`^(?:${pattern})$`, pattern, where).test(module);

/** Patterns that mean the same in Python and here, and are matched in no time on a module's name. */
const PLAIN_PATTERN = /^(?:[\w.^$|*+?,{}[\]-]|\\[.dDwW_-]|\((?:\?:)?|\)(?![*+{]))*$/;
const MOST_REPEATS = 4;

/** @param key the part of `source` that a user wrote @throws {UserError} a key that is not understood */
export function createPattern(source: string, key: string, where: string): RegExp {
  const repeats = key.match(/[*+{]/g)?.length ?? 0;
  try {
    if (PLAIN_PATTERN.test(key) && repeats <= MOST_REPEATS) return new RegExp(source);
  } catch {
    // Said below.
  }
  throw new UserError(
    `${where}: the pattern ${show(key)} is not understood; expected a module name, or a regular expression of names, dots, groups and at most ${MOST_REPEATS} repetitions`,
  );
}
