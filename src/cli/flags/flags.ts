import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { flagName, suggestion } from "../../base/names.ts";
import { elsewhere } from "./elsewhere.ts";

/** Describes what a command line says: flags by camel-case key, and the words that are not flags. */
export interface ParsedFlags {
  readonly values: Readonly<Record<string, unknown>>;
  readonly words: readonly string[];
}

type ObjectSchema = z.ZodObject;

/** A flag of a verb, and what its help says of it. */
export interface Flag {
  readonly key: string;
  readonly kind: "boolean" | "number" | "list" | "text";
  readonly choices: readonly string[];
  readonly description: string;
  /** The effect of switching off a boolean that is on. */
  readonly off?: string | undefined;
  readonly fallback: string;
  readonly required: boolean;
}

/** The flags of a schema: one per key, its kind taken from the key's type. */
export function flagsOf(schema: ObjectSchema): Flag[] {
  return Object.entries(schema.shape).map(([key, field]) => {
    const type = field as z.ZodType;
    const inner = unwrap(type);
    const element = inner.def.type === "array" ? unwrap((inner as z.ZodArray).element as z.ZodType) : inner;
    const choices = element.def.type === "enum" ? Object.values((element as z.ZodEnum).enum).map(String) : [];
    const kinds: Record<string, Flag["kind"]> = { boolean: "boolean", number: "number", array: "list" };
    const missing = type.safeParse(undefined);
    const fallback = missing.success && missing.data !== undefined ? formatDefault(missing.data) : "";
    return {
      key,
      kind: kinds[inner.def.type] ?? "text",
      choices,
      description: type.description ?? "",
      off: type.meta()?.["off"] as string | undefined,
      fallback,
      required: !missing.success,
    };
  });
}

function unwrap(type: z.ZodType): z.ZodType {
  const { def } = type;
  if (def.type === "default" || def.type === "optional")
    return unwrap((type as z.ZodDefault | z.ZodOptional).unwrap() as z.ZodType);
  return type;
}

function formatDefault(value: unknown): string {
  return Array.isArray(value) ? value.join(",") : String(value);
}

/**
 * Parses `--flag value`, `--flag=value`, `--boolean`, `--boolean true` and `--no-boolean` against a schema's keys. Words of a flag may
 * be joined by underscores, as in Python.
 */
export function parseFlags(schema: ObjectSchema, args: readonly string[]): ParsedFlags {
  const flags = new Map(flagsOf(schema).map((flag) => [flagName(flag.key), flag]));
  const values: Record<string, unknown> = {};
  const words: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (!/^-./.test(arg)) {
      words.push(arg);
      continue;
    }
    const equals = arg.indexOf("=");
    const given = (equals < 0 ? arg : arg.slice(0, equals)).replaceAll("_", "-");
    const inline = equals < 0 ? null : arg.slice(equals + 1);
    const negated = given.startsWith("--no-") && flags.get(`--${given.slice(5)}`)?.kind === "boolean";
    const flag = flags.get(negated ? `--${given.slice(5)}` : given);
    if (!flag) {
      const follows = args[i + 1]?.startsWith("-") === false ? args[i + 1] : undefined;
      throw new UserError(`unknown flag ${given}${flagHint(given, [...flags.keys()], inline ?? follows)}`);
    }
    if (flag.kind === "boolean") {
      const follows = inline === null && !negated && /^(true|false|auto)$/i.test(args[i + 1] ?? "");
      values[flag.key] = negated ? false : parseBoolean(given, follows ? args[++i]! : (inline ?? "true"));
      continue;
    }
    const text = inline ?? args[++i];
    if (text === undefined || (inline === null && text.startsWith("--"))) {
      throw new UserError(`${given} needs a value${flag.choices.length > 0 ? `: one of ${flag.choices.join(", ")}` : ""}`);
    }
    values[flag.key] = parseValue(given, flag, text);
  }
  return { values, words };
}

/** Returns what the flags of a verb say that takes no words. @throws {UserError} */
export function parseOnlyFlags(verb: string, schema: ObjectSchema, args: readonly string[]): ParsedFlags["values"] {
  const { values, words } = parseFlags(schema, args);
  const [word] = words;
  if (word === undefined) return values;
  const has = (key: string) => Object.hasOwn(schema.shape, key);
  const flag = !existsSync(word)
    ? null
    : has("adapter") && existsSync(join(word, "adapter_config.json"))
      ? "--adapter"
      : statSync(word).isDirectory()
        ? has("model") && "--model"
        : has("data") && "--data";
  throw new UserError(`${verb} takes flags only, got ${JSON.stringify(word)}${flag ? `; did you mean ${flag} ${word}?` : ""}`);
}

function parseBoolean(name: string, text: string): boolean {
  // XTuner's --resume auto.
  if (["true", "auto"].includes(text.toLowerCase())) return true;
  if (text.toLowerCase() === "false") return false;
  throw new UserError(`${name} takes true or false, got ${JSON.stringify(text)}`);
}

function parseValue(name: string, flag: Flag, text: string): unknown {
  if (flag.kind === "list") return text.split(",").map((part) => part.trim());
  if (flag.kind === "text") return text;
  const number = Number(text);
  if (text.trim() === "" || Number.isNaN(number)) throw new UserError(`${name} takes a number, got ${JSON.stringify(text)}`);
  return number;
}

/** As `suggestion`, and what a flag of another system is here. */
function flagHint(written: string, known: readonly string[], value?: string): string {
  const given = written.replace(/^-(?!-)/, "--");
  const { counterpartOf, explain } = elsewhere();
  const found = counterpartOf(given, known, value);
  return found ? explain(found, "flag", (flag) => flag) : suggestion(given, known);
}

/** Flags that share a line of help. */
export interface FlagGroup {
  readonly keys: readonly string[];
  readonly description: string;
}

/** Wider first columns stand on their own, so that they do not push all descriptions to the right. */
const WIDEST = 46;

/** One line per flag or group: name, kind or choices, description, default. */
export function describeFlags(schema: ObjectSchema, groups: readonly FlagGroup[] = []): string {
  const flags = flagsOf(schema);
  // Of a group that a verb has a part of, each flag has its own line.
  const whole = groups.filter(({ keys }) => keys.every((key) => flags.some((flag) => flag.key === key)));
  const grouped = (flag: Flag) => whole.find(({ keys }) => keys.includes(flag.key));
  const rows = flags.flatMap((flag): [string, string][] => {
    const group = grouped(flag);
    if (!group) return [[`  ${usage(flag)}`, textOf(flag) + noteOf(flag)]];
    if (group.keys[0] !== flag.key) return [];
    const members = group.keys.map((key) => flags.find((other) => other.key === key)!);
    return [[`  ${members.map(usage).join(", ")}`, group.description]];
  });
  const width = Math.max(...rows.map(([left]) => left.length).filter((length) => length <= WIDEST)) + 2;
  return rows.map(([left, right]) => (left.length > WIDEST ? `${left}  ${right}` : left.padEnd(width) + right)).join("\n");
}

/** The name that a flag is shown by: for a boolean that is on, the one that switches it off. */
export const shownName = (flag: Flag): string => (isOn(flag) ? flagName(flag.key).replace("--", "--no-") : flagName(flag.key));

/** `--flag N`. */
function usage(flag: Flag): string {
  const kind = { boolean: "", number: "N", list: "A,B", text: "TEXT" }[flag.kind];
  const argument = flag.choices.length > 0 && flag.kind !== "list" ? flag.choices.join("|") : kind;
  return `${shownName(flag)} ${argument}`.trimEnd();
}

const isOn = (flag: Flag): boolean => flag.kind === "boolean" && flag.fallback === "true";

/** Returns what a flag does; of one that switches something off, that. */
export const textOf = (flag: Flag): string => (isOn(flag) ? (flag.off ?? `not: ${flag.description}`) : flag.description);

function noteOf(flag: Flag): string {
  if (flag.required) return " (required)";
  if (flag.kind === "boolean") return "";
  return flag.fallback ? ` (${flag.fallback})` : "";
}
