import { UserError } from "../../base/errors.ts";
import { createPattern, matches } from "../../models/adapters/patterns.ts";
import type { ModelConfig } from "../../models/config.ts";
import { isExpertParameter } from "../../models/adapters/expert-parameters.ts";
import { blockName, layerOf } from "../../models/names.ts";

/** Describes what an adapter's configuration says of its modules, as PEFT reads it (`check_target_module_exists`, `get_pattern_key`). */
export interface ModuleRules {
  /** Names, or a regular expression; a name stands for all modules whose name ends with it. */
  readonly target_modules?: readonly string[] | string | null | undefined;
  /** Names of parameters of experts; a name stands for all whose name ends with it. */
  readonly target_parameters?: readonly string[] | null | undefined;
  /** Decoder blocks, by number, in which these are adapted; null or none: all. */
  readonly layers_to_transform?: readonly number[] | number | null | undefined;
  /** The part of a name before the number of a block: `layers`. */
  readonly layers_pattern?: readonly string[] | string | null | undefined;
  /** Names, or a regular expression, of modules that are not adapted. */
  readonly exclude_modules?: readonly string[] | string | null | undefined;
  /** Ends of the names of modules that are trained whole, and not adapted. */
  readonly modules_to_save?: readonly string[] | null | undefined;
}

/**
 * Names modules as PEFT's configuration does: by the ends of their names, with the blocks that they are in unless that is all of them;
 * one by one where not every block has the same. Modules outside the blocks have their whole names, which hold whatever the blocks.
 */
export function describeModules(
  modules: readonly string[],
  model: Pick<ModelConfig, "layers" | "modulePrefix" | "experts">,
): { readonly targets: string[]; readonly layers: number[] | null; readonly parameters: string[] } {
  const parameters = describeParameters(modules.filter(isExpertParameter), model);
  const outside = modules.filter((name) => layerOf(name, model) === null);
  const inside = modules.filter((name) => layerOf(name, model) !== null && !isExpertParameter(name));
  const targets = [...new Set(inside.map((name) => name.split(".").at(-1)!))];
  const layers = [...new Set(inside.map((name) => layerOf(name, model)!))].sort((a, b) => a - b);
  if (targets.length * layers.length !== inside.length)
    return { targets: [...outside, ...inside].sort(), layers: null, parameters };
  const isAll = inside.length === 0 || layers.length === model.layers;
  return { targets: [...targets, ...outside].sort(), layers: isAll ? null : layers, parameters };
}

/** Names parameters of experts by the ends of their names where all blocks with experts have them, else one by one. */
function describeParameters(parameters: readonly string[], model: Pick<ModelConfig, "modulePrefix" | "experts">): string[] {
  const blocks = model.experts?.layers.filter((has) => has).length ?? 0;
  const ends = Map.groupBy(parameters, (name) => name.slice(blockName(model, layerOf(name, model)!).length + 1));
  return [...ends].flatMap(([end, names]) => (names.length === blocks ? [end] : names));
}

/** Tells whether a name is a module's, or its end after a dot. */
const endsWithName = (module: string, name: string): boolean => module === name || module.endsWith(`.${name}`);

/** Tells whether PEFT trains a module whole for a name: the module's name ends with it, at a dot or not (`_set_trainable`). */
export function isSaved(parameter: string, names: readonly string[]): boolean {
  const parts = parameter.split(".").slice(0, -1);
  return parts.some((_, i) => {
    const module = parts.slice(0, i + 1).join(".");
    return names.some((name) => module.endsWith(name));
  });
}

/** Tells whether a module is, or lies in, one that is trained whole: it gets no adapter then. */
export function isSavedModule(module: string, names: readonly string[]): boolean {
  const parts = module.split(".");
  return parts.some((_, i) => names.some((name) => endsWithName(parts.slice(0, i + 1).join("."), name)));
}

/**
 * Tells whether a configuration certainly asks for an adapter of a module: where its patterns are not understood, it does not.
 * @param where names the configuration in errors
 */
export function isNamed(module: string, rules: ModuleRules, where: string): boolean {
  const { target_modules: targets, exclude_modules: excluded } = rules;
  try {
    if (typeof excluded === "string" && matches(excluded, module, where)) return false;
    if (typeof targets === "string") {
      if (!matches(targets, module, where)) return false;
    } else if (!targets || targets.length === 0) return false;
    return isAdapted(module, rules, where);
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

/**
 * Tells whether PEFT would adapt a module. Where targets are a regular expression or are not named, the matrices in the file say it.
 * @param where names the configuration in errors
 * @throws {UserError} a `layers_pattern` that is not understood
 */
export function isAdapted(module: string, rules: ModuleRules, where: string): boolean {
  const { target_modules: targets, layers_to_transform: layers, exclude_modules: excluded } = rules;
  if (Array.isArray(excluded) && (excluded as readonly string[]).some((name) => endsWithName(module, name))) return false;
  if (isSavedModule(module, rules.modules_to_save ?? [])) return false;
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
