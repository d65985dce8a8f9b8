import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { flagName, flagsOf, type Flag } from "./flags.ts";
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
\`remat train\` (\`.yaml\`, \`.json\`, or \`.ts\` with \`export default\`) has the keys of the first table; the flag of a key is
the same word with hyphens, and overrides the file. Keys may be written either way in a file.

## train

${table(flags, "key")}`,
  ];
  for (const [name, verb] of Object.entries(VERBS)) {
    const module = await verb.load();
    if (name === "train" || Object.keys(module.flags.shape).length === 0) continue;
    sections.push(`## ${name}\n\n${capital(verb.summary)}.\n\n${table(module.flags, "flag")}`);
  }
  return `${sections.join("\n\n")}\n`;
}

function table(schema: z.ZodObject, first: "key" | "flag"): string {
  const rows = flagsOf(schema).map((flag) => [
    `\`${first === "key" ? flag.key : flagName(flag.key)}\``,
    valuesOf(flag),
    flag.required ? "required" : flag.fallback === "" ? "" : `\`${flag.fallback}\``,
    flag.description.replaceAll("|", "\\|"),
  ]);
  return [[first, "values", "default", "what it does"], ["---", "---", "---", "---"], ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");
}

function valuesOf({ kind, choices }: Flag): string {
  if (choices.length > 0) return `${kind === "list" ? "several of " : ""}${choices.map((choice) => `\`${choice}\``).join(", ")}`;
  return { boolean: "`true`, `false`", number: "number", list: "list of texts", text: "text" }[kind];
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

if (import.meta.main) writeFileSync(REFERENCE, await reference());
