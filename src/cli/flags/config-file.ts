import { existsSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, extname, isAbsolute, join, relative, resolve } from "node:path";
import { z } from "zod";
import { isRecord } from "../../base/json.ts";
import { splitSources } from "../../data/examples/sources.ts";
import { parseHeldOut } from "../../data/samples/held-out.ts";
import { messageOf, UserError } from "../../base/errors.ts";
import { validateOptions } from "../../library/options.ts";
import { needlessKeys, trainConfigSchema } from "../../train/config.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { elsewhere } from "./elsewhere.ts";
import { type Flag, flagsOf } from "./flags.ts";
import { importConfig } from "./config-module.ts";
import { camelCase, flagName, suggestion } from "../../base/names.ts";

const EXTENSIONS = [".ts", ".yaml", ".yml", ".json"];
/** Keys whose value is a path. In a file they start from its folder (but in a run's own), as flags do from the working directory. */
const PATH_KEYS = ["model", "adapter", "data", "valid", "output", "offload", "chatTemplate"] as const;

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

/** A configuration of `train` that was read from a file. */
export interface ConfigFile {
  readonly values: Readonly<Record<string, unknown>>;
  /** Sentences that a user should read. */
  readonly notes: readonly string[];
}

/**
 * Reads a configuration of `train`, or one of another system. Keys may be written in camel, kebab or snake case; those that nobody
 * knows stay as they are.
 * @param outputFolder where relative paths of `output` start from (default: the file's folder, as those of all others do)
 * @throws {UserError}
 */
export async function readConfigFile(file: string, outputFolder = dirname(file)): Promise<ConfigFile> {
  const value = await readValues(file);
  const flags = flagsOf(trainConfigSchema);
  const kinds = new Map(flags.map(({ key, kind }) => [key, kind]));
  const isOurs = Object.keys(value).every((key) => kinds.has(camelCase(key)));
  const translated = isOurs ? null : elsewhere().translate(file, value, new Set(kinds.keys()));
  const values: Record<string, unknown> = {};
  for (const [key, entry] of Object.entries(translated?.config ?? value)) {
    const kind = kinds.get(camelCase(key));
    // A key without a value is as good as absent.
    if (kind === undefined) values[key] = entry;
    else if (entry !== null) values[camelCase(key)] = readEntry(kind, entry);
  }
  const notes = translated?.notes ?? [];
  // What a run has written down are the flags that it was given; wherever the folder lies by now, it is the run.
  if (basename(file) === RUN_FILES.config) {
    // Runs of old wrote down the defaults of all keys.
    for (const key of needlessKeys(values)) delete values[key];
    return { values: { ...values, output: relative(process.cwd(), dirname(file)) || "." }, notes };
  }
  for (const key of PATH_KEYS) {
    const path = values[key];
    if (typeof path === "string") values[key] = pathFrom(key === "output" ? outputFolder : dirname(file), key, path);
  }
  return { values, notes };
}

/** A file's configuration with flags over it. Where the flags choose another method, what it does not have goes away with a note. */
export function withFlags({ values, notes }: ConfigFile, flags: Readonly<Record<string, unknown>>): ConfigFile {
  const method = flags["method"];
  const needless = method === undefined || method === values["method"] ? [] : needlessKeys({ ...values, method });
  const kept = Object.entries(values).filter(([key]) => !(needless as readonly string[]).includes(key));
  const note = `${needless.map((key) => flagName(key).slice(2)).join(", ")} of the file: left out, since --method ${String(method)} has no such setting`;
  return { values: { ...Object.fromEntries(kept), ...flags }, notes: needless.length === 0 ? notes : [...notes, note] };
}

async function readValues(file: string): Promise<Readonly<Record<string, unknown>>> {
  let value: unknown;
  try {
    if (extname(file) === ".ts") value = await importConfig(file);
    else {
      const text = readFileSync(file, "utf8");
      if (extname(file) === ".py") throw elsewhere().pythonConfig(file, text);
      // A run that has flags alone, and every other verb, does without YAML's parser.
      const { parse } = await import("yaml");
      value = parse(text);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${file}: cannot be read: ${messageOf(error)}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new UserError(`${file}: expected keys and values${extname(file) === ".ts" ? " as the default export" : ""}`);
  }
  return value as Readonly<Record<string, unknown>>;
}

/** A path of a file from its folder on; names of the hub, amounts and words that are no paths stay as they are. */
function pathFrom(folder: string, key: (typeof PATH_KEYS)[number], path: string): string {
  const beside = (part: string) =>
    part === "~" || part.startsWith("~/") ? join(homedir(), part.slice(1)) : isAbsolute(part) ? part : join(folder, part);
  switch (key) {
    case "model":
      // What is no folder beside the file may be a model of the hub.
      return /^[.~/]/.test(path) || existsSync(beside(path)) || !isHubName(path) ? beside(path) : path;
    case "valid":
      if (parseHeldOut(path)) return path;
      break;
    case "offload":
      return ["off", "auto"].includes(path) ? path : beside(path);
    case "output":
    case "adapter":
    case "chatTemplate":
      return beside(path);
  }
  return existsSync(beside(path)) ? beside(path) : splitSources(path).map(beside).join();
}

const isHubName = (name: string): boolean => /^[\w.-]+\/[\w.-]+(?:@[\w./-]+)?$/.test(name) || !name.includes("/");

/** An entry as its flag might have it: a list as text with commas, pairs as an object, a number in quotes, YAML 1.1's words for true and false. */
function readEntry(kind: Flag["kind"], entry: unknown): unknown {
  if (kind === "list" && isRecord(entry)) return Object.entries(entry).map(([name, value]) => `${name}=${String(value)}`);
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
  const { counterpartOf, explain } = elsewhere();
  const found = counterpartOf(key, known.map(flagName));
  if (!found) return suggestion(camelCase(key), known);
  return explain(found, "key", (text) => {
    const [flag, value] = text.split(" ") as [string, string?];
    if (flag.startsWith("--no-")) return `${camelCase(flag.slice(5))}: false`;
    return `${camelCase(flag.slice(2))}${value === undefined ? "" : `: ${value}`}`;
  });
}
