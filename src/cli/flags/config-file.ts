import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, extname, isAbsolute, join, resolve } from "node:path";
import { parse as parseYaml } from "yaml";
import { z } from "zod";
import { parseHeldOut } from "../../data/samples/held-out.ts";
import { messageOf, UserError } from "../../base/errors.ts";
import { validateOptions } from "../../library/options.ts";
import { trainConfigSchema } from "../../train/config.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { importConfig } from "./config-module.ts";
import { counterpartOf } from "./other-systems.ts";
import { type Flag, flagsOf } from "./flags.ts";
import { camelCase, flagName, suggestion } from "../../base/names.ts";

const EXTENSIONS = [".ts", ".yaml", ".yml", ".json"];
/** Keys whose value is a path: in a file they are relative to that file (but in a run's own), as flags to the working directory. */
const PATH_KEYS = ["model", "adapter", "data", "valid"];

/** Finds a configuration: a file, a folder with `train.yaml` (or .ts, .json), a run folder, or the name of a recipe. */
export function findConfig(word: string, recipes: () => string): string {
  for (const baseOf of [() => resolve(word), () => join(recipes(), word)]) {
    const base = baseOf();
    const candidates = [
      base,
      ...EXTENSIONS.map((extension) => base + extension),
      ...EXTENSIONS.map((extension) => join(base, `train${extension}`)),
      join(base, RUN_FILES.config),
    ];
    const found = candidates.find((path) => existsSync(path) && statSync(path).isFile());
    if (found) return found;
  }
  throw new UserError(
    `no configuration ${JSON.stringify(word)}: expected a .ts, .yaml or .json file, a folder with train.yaml, a run folder, or a recipe's name`,
  );
}

/** Reads a configuration of `train`. Its keys may be written in camel, kebab or snake case; others stay as they are. */
export async function readConfigFile(file: string): Promise<Record<string, unknown>> {
  let value: unknown;
  try {
    if (extname(file) === ".ts") value = await importConfig(file);
    else value = parseYaml(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(`${file}: cannot be read: ${messageOf(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(`${file}: expected keys and values${extname(file) === ".ts" ? " as the default export" : ""}`);
  }
  const kinds = new Map(flagsOf(trainConfigSchema).map(({ key, kind }) => [key, kind]));
  const config: Record<string, unknown> = {};
  for (const [key, entry] of Object.entries(value)) {
    const kind = kinds.get(camelCase(key));
    // A key without a value is as good as absent.
    if (kind === undefined) config[key] = entry;
    else if (entry !== null) config[camelCase(key)] = readEntry(kind, entry);
  }
  // What a run has written down are the flags that it was given.
  if (basename(file) === RUN_FILES.config) return config;
  const beside = (path: string) => (isAbsolute(path) ? path : join(dirname(file), path));
  for (const key of PATH_KEYS) {
    const path = config[key];
    if (typeof path !== "string" || (key === "valid" && parseHeldOut(path))) continue;
    // A model that is no folder beside the file may be one of the hub.
    if (key === "model") config[key] = path.startsWith(".") || existsSync(beside(path)) ? beside(path) : path;
    else config[key] = existsSync(beside(path)) ? beside(path) : eachPart(path, beside);
  }
  return config;
}

/** Several sources have commas between them. */
const eachPart = (text: string, change: (part: string) => string): string =>
  text
    .split(",")
    .map((part) => change(part.trim()))
    .join();

/** An entry as its flag might have it: a list as text with commas, a number in quotes, YAML 1.1's words for true and false. */
function readEntry(kind: Flag["kind"], entry: unknown): unknown {
  if (kind === "text" && Array.isArray(entry) && entry.every((part) => typeof part === "string")) return entry.join();
  if (typeof entry !== "string") return entry;
  if (kind === "list") return entry.split(",").map((part) => part.trim());
  if (kind === "number") return entry.trim() === "" || Number.isNaN(Number(entry)) ? entry : Number(entry);
  if (kind === "boolean" && /^(yes|on|true)$/i.test(entry)) return true;
  if (kind === "boolean" && /^(no|off|false)$/i.test(entry)) return false;
  return entry;
}

/** As `validateOptions`; a key of another system is answered with what it is here. @throws {UserError} */
export function validateConfig<S extends z.ZodObject>(schema: S, values: Record<string, unknown>, file?: string): z.output<S> {
  return validateOptions(schema, values, file, keyHint);
}

/** As `suggestion`, and what a key of another system is here. */
function keyHint(key: string, known: readonly string[]): string {
  const found = counterpartOf(key, known.map(flagName));
  if (!found) return suggestion(camelCase(key), known);
  if ("why" in found) return `; there is no such key: ${found.why}`;
  const [flag, value] = found.flag.split(" ");
  if (flag!.startsWith("--no-")) return `; it is ${camelCase(flag!.slice(5))}: false here`;
  return `; it is ${camelCase(flag!.slice(2))}${value === undefined ? "" : `: ${value}`} here`;
}
