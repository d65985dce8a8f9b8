import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { flagsOf, type Flag } from "./flags/flags.ts";
import { flagName } from "../base/names.ts";
import { VERBS } from "./verbs.ts";

/**
 * docs/configuration.md: every flag of every verb, made from the schemas that read them. A test compares the page with
 * what this makes.
 *
 *     bun src/cli/reference.ts
 */
export const REFERENCE = join(import.meta.dir, "../../docs/configuration.md");

export async function reference(): Promise<string> {
  const { flags } = await VERBS["train"]!.load();
  const sections = [
    `# Configuration

Every key and flag, made by \`bun src/cli/reference.ts\` from the schemas that check them. A configuration file for
\`remat train\` (\`.yaml\`, \`.json\`, or \`.ts\` with \`export default\`) has the keys of the first table, which may be written with hyphens
too; flags override it. A key that is not in the table, or a value out of range, is an error before anything starts. In flags, a list is
written with commas, and \`--flag\` alone means true.

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

if (import.meta.main) writeFileSync(REFERENCE, await reference());
