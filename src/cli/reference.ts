import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { flagsOf, type Flag } from "./flags/flags.ts";
import { flagName } from "../base/names.ts";
import { VERBS } from "./verbs.ts";
import { SYSTEMS } from "./flags/other-systems.ts";
import type { Table } from "./flags/systems/counterpart.ts";

/**
 * docs/configuration.md: every flag of every verb, made from the schemas that read them. In docs/coming-from.md, the keys of
 * other systems between `<!-- keys of NAME -->` and `<!-- end -->`, made from the tables that answer them. A test compares the
 * pages with what this makes.
 *
 *     bun src/cli/reference.ts
 */
export const REFERENCE = join(import.meta.dir, "../../docs/configuration.md");
export const COMING_FROM = join(import.meta.dir, "../../docs/coming-from.md");

/** The page about other systems with the tables of their keys as they are now. @throws {Error} a system without a place for its table */
export function comingFrom(page: string): string {
  return SYSTEMS.reduce((text, { name, table }) => {
    const [begin, end] = [`<!-- keys of ${name} -->`, "<!-- end -->"];
    const from = text.indexOf(begin);
    if (from < 0) throw new Error(`${COMING_FROM} has no place for the keys of ${name}: ${begin}`);
    const to = text.indexOf(end, from);
    return `${text.slice(0, from)}${begin}\n\n${keysTable(table)}\n\n${text.slice(to)}`;
  }, page);
}

/** A row for all names that are the same here. */
function keysTable(table: Table): string {
  const names = new Map<string, string[]>();
  for (const [name, { flag, why, isMissing }] of Object.entries(table)) {
    const here = flag === null ? `${isMissing ? "none" : "not needed"}: ${why}` : `\`${flag}\``;
    names.set(here, [...(names.get(here) ?? []), `\`${name}\``]);
  }
  const rank = (here: string) => ["`", "not", "none"].findIndex((begin) => here.startsWith(begin));
  const rows = [...names].sort(([a], [b]) => rank(a) - rank(b)).map(([here, keys]) => [keys.join(", "), here]);
  const widths = [0, 1].map((column) => Math.max(5, ...rows.map((cells) => cells[column]!.length)));
  const line = (cells: readonly string[]) => `| ${cells.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  return [line(["there", "here"]), line(widths.map((width) => "-".repeat(width))), ...rows.map(line)].join("\n");
}

export async function reference(): Promise<string> {
  const { flags } = await VERBS["train"]!.load();
  const sections = [
    `# Configuration

Every key and flag, made by \`bun src/cli/reference.ts\` from the schemas that check them. A configuration file for
\`remat train\` (\`.yaml\`, \`.json\`, or \`.ts\` with \`export default\`) has the keys of the first table, which may be written with hyphens
too; flags override it. A key that is not in the table, or a value out of range, is an error before anything starts. In flags, a list is
written with commas, and \`--flag\` alone means true. Files of [other systems](coming-from.md) are read too.

Relative paths follow one rule: in a file they start from the file's folder (\`model\`, \`adapter\`, \`data\`, \`valid\`, \`output\`, \`offload\`, \`chatTemplate\`; \`~\` is your home),
in flags from the working directory. A \`model\` that is no folder there is a name on the hub. A bundled recipe's run goes to the working directory, and
the configuration in a run folder has its paths as the flags were given.

## train

${table(flags, true)}`,
  ];
  for (const [name, verb] of Object.entries(VERBS)) {
    const module = await verb.load();
    if (name === "train" || Object.keys(module.flags.shape).length === 0) continue;
    sections.push(`## ${name}\n\n${capital(verb.summary)}.\n\n${table(module.flags, false)}`);
  }
  return `${sections.join("\n\n")}\n`;
}

/** A row per flag; with the keys of a configuration file in front if it may have them. */
function table(schema: z.ZodObject, keys: boolean): string {
  const rows = flagsOf(schema).map((flag) => [
    ...(keys ? [`\`${flag.key}\``] : []),
    `\`${flagName(flag.key)}\`${flag.fallback === "true" ? `, \`${flagName(flag.key).replace("--", "--no-")}\`` : ""}`,
    valuesOf(flag, schema.shape[flag.key] as z.ZodType),
    flag.required ? "required" : flag.fallback === "" ? "" : `\`${flag.fallback}\``,
    flag.description.replaceAll("|", "\\|"),
  ]);
  const titles = [...(keys ? ["key"] : []), "flag", "values", "default", "what it does"];
  return [titles, titles.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function valuesOf({ kind, choices }: Flag, type: z.ZodType): string {
  if (choices.length > 0) return `${kind === "list" ? "several of " : ""}${choices.map((choice) => `\`${choice}\``).join(", ")}`;
  return { boolean: "`true`, `false`", number: rangeOf(type), list: "list of texts", text: "text" }[kind];
}

/** The numbers that a key takes: "whole number from 1 to 64". */
function rangeOf(type: z.ZodType): string {
  const schema = z.toJSONSchema(type, { io: "input", unrepresentable: "any" });
  const { minimum, exclusiveMinimum, maximum, exclusiveMaximum } = schema;
  return [
    schema.type === "integer" ? "whole number" : "number",
    ...(exclusiveMinimum === undefined ? [] : [`above ${exclusiveMinimum}`]),
    ...(minimum === undefined ? [] : [`from ${minimum}`]),
    ...(exclusiveMaximum === undefined ? [] : [`below ${exclusiveMaximum}`]),
    // zod's whole numbers are those that a double holds exactly.
    ...(maximum === undefined || maximum === Number.MAX_SAFE_INTEGER ? [] : [`to ${maximum}`]),
  ].join(" ");
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

if (import.meta.main) {
  writeFileSync(REFERENCE, await reference());
  writeFileSync(COMING_FROM, comingFrom(readFileSync(COMING_FROM, "utf8")));
}
