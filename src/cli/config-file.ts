import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, extname, isAbsolute, join, resolve } from "node:path";
import { parse as parseYaml } from "yaml";
import { z } from "zod";
import { parseHeldOut } from "../data/held-out.ts";
import { messageOf, UserError } from "../errors.ts";
import { camelCase, flagName, suggestion } from "./flags.ts";

const EXTENSIONS = [".ts", ".yaml", ".yml", ".json"];
/** Keys whose value is a path: in a file they are relative to that file, as flags to the working directory. */
const PATH_KEYS = ["model", "data", "valid"];

/** Finds a configuration: a file, a folder with `train.yaml` (or .ts, .json), or the name of a recipe. */
export function findConfig(word: string, recipes: string): string {
  for (const base of [resolve(word), join(recipes, word)]) {
    const candidates = [
      base,
      ...EXTENSIONS.map((extension) => base + extension),
      ...EXTENSIONS.map((extension) => join(base, `train${extension}`)),
    ];
    const found = candidates.find((path) => existsSync(path) && statSync(path).isFile());
    if (found) return found;
  }
  throw new UserError(
    `no configuration ${JSON.stringify(word)}: expected a .ts, .yaml or .json file, a folder with train.yaml, or a recipe's name`,
  );
}

/** Reads a configuration file. Keys may be written in camel, kebab or snake case. */
export async function readConfigFile(file: string): Promise<Record<string, unknown>> {
  let value: unknown;
  try {
    if (extname(file) === ".ts") value = ((await import(file)) as { default?: unknown }).default;
    else value = parseYaml(readFileSync(file, "utf8"));
  } catch (error) {
    throw new UserError(`${file}: cannot be read: ${messageOf(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(`${file}: expected keys and values${extname(file) === ".ts" ? " as the default export" : ""}`);
  }
  const config = Object.fromEntries(Object.entries(value).map(([key, entry]) => [camelCase(key), entry]));
  for (const key of PATH_KEYS) {
    const path = config[key];
    if (typeof path !== "string" || isAbsolute(path) || (key === "valid" && parseHeldOut(path))) continue;
    const beside = join(dirname(file), path);
    // A model that is no folder beside the file may be one of the hub.
    if (key !== "model" || path.startsWith(".") || existsSync(beside)) config[key] = beside;
  }
  return config;
}

/** Checks values against a schema; one error that names every wrong key, as a flag and, if given, with its file. */
export function validateConfig<S extends z.ZodObject>(schema: S, values: Record<string, unknown>, file?: string): z.output<S> {
  const result = schema.safeParse(values);
  if (result.success) return result.data;
  const known = Object.keys(schema.shape);
  const problems = result.error.issues.flatMap((issue) => {
    if (issue.code === "unrecognized_keys")
      return issue.keys.map((key) => `unknown key ${JSON.stringify(key)}${suggestion(key, known)}`);
    const key = String(issue.path[0]);
    const got = values[key] === undefined ? "it is missing" : `got ${JSON.stringify(values[key])}`;
    return [`${flagName(key)}: ${issue.message}; ${got}`];
  });
  throw new UserError(`${file ? `${file}: ` : ""}${problems.join("\n")}`);
}
