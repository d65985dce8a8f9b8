import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import { layerOf } from "../../models/names.ts";

/** What an adapter's configuration says of its modules, as PEFT reads it (`check_target_module_exists`, `get_pattern_key`). */
export interface ModuleRules {
  /** Names, or a regular expression; a name stands for all modules whose name ends with it. */
  readonly target_modules?: readonly string[] | string | null | undefined;
  /** Decoder blocks, by number, in which these are adapted; null or none: all. */
  readonly layers_to_transform?: readonly number[] | number | null | undefined;
  /** What stands before the number of a block: `layers`. */
  readonly layers_pattern?: readonly string[] | string | null | undefined;
}

/**
 * Names modules as PEFT's configuration does: by the ends of their names, with the blocks that they are in unless that is all of them;
 * one by one where not every block has the same.
 */
export function describeModules(
  modules: readonly string[],
  model: { readonly layers: number; readonly modulePrefix: string },
): { readonly targets: string[]; readonly layers: number[] | null } {
  const targets = [...new Set(modules.map((name) => name.split(".").at(-1)!))].sort();
  const layers = [...new Set(modules.map((name) => layerOf(name, model) ?? -1))].sort((a, b) => a - b);
  if (targets.length * layers.length !== modules.length) return { targets: [...modules].sort(), layers: null };
  return { targets, layers: layers.length === model.layers ? null : layers };
}

/** Rank or alpha by module: keys are regular expressions of the whole name, or of its end after a dot. */
export type ModulePattern = Readonly<Record<string, number>> | null | undefined;

/**
 * Whether PEFT would adapt a module. Where targets are a regular expression or are not named, the matrices in the file say it.
 * @param where names the configuration in errors
 * @throws {UserError} a `layers_pattern` that is not understood
 */
export function isAdapted(module: string, rules: ModuleRules, where: string): boolean {
  const { target_modules: targets, layers_to_transform: layers } = rules;
  if (!Array.isArray(targets) || targets.length === 0) return true;
  const names = targets as readonly string[];
  if (names.includes(module)) return true;
  if (!names.some((name) => module.endsWith(`.${name}`))) return false;
  const wanted = [layers ?? []].flat();
  if (wanted.length === 0) return true;
  const prefixes = [rules.layers_pattern ?? []].flat();
  const found = (prefixes.length === 0 ? ["[^.]*"] : prefixes)
    .map((prefix) => createPattern(String.raw`^(?:|.*?\.)${prefix}\.(\d+)\.`, prefix, where).exec(module))
    .find((match) => match !== null);
  return found !== undefined && wanted.includes(Number(found[1]));
}

/** The value of the first key that matches. @throws {UserError} a key that is not understood */
export function patternValue(patterns: ModulePattern, module: string, where: string): number | null {
  for (const [key, value] of Object.entries(patterns ?? {}))
    if (createPattern(String.raw`^(?:.*\.)?(?:${key})$`, key, where).test(module)) return value;
  return null;
}

/** What means the same in Python and here, and is over in no time on a module's name. */
const PLAIN_PATTERN = /^(?:[\w.^$|*+?,{}[\]-]|\\[.dDwW_-]|\((?:\?:)?|\)(?![*+{]))*$/;
const MOST_REPEATS = 4;

function createPattern(source: string, key: string, where: string): RegExp {
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
