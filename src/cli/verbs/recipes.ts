import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join, relative, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { expectNoFile, makeFolder, writeTextAtomic } from "../../base/files/files.ts";
import { suggestion } from "../../base/names.ts";
import { recipesFolder } from "../flags/bundled.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { validateConfig } from "../flags/config-file.ts";
import { print } from "../terminal/output.ts";

const FILE = "train.yaml";

export const flags = z.strictObject({
  overwrite: z.boolean().default(false).describe("copy: replace a file that is there"),
});

export const words = ["list", "copy"] as const;

export function help(): string {
  return `The training configurations that come along; remat train NAME runs one.

Usage: remat recipes list [PART-OF-A-NAME]
       remat recipes copy NAME [FILE]

copy writes a recipe's configuration to FILE (by default NAME.yaml here), to be changed and run with remat train FILE.

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { values, words: given } = parseFlags(flags, args);
  const { overwrite } = validateConfig(flags, values);
  const [action = "list", ...rest] = given;
  switch (action) {
    case "list":
      if (rest.length > 1) throw new UserError(`recipes list takes one part of a name, got ${rest.length}`);
      return list(rest[0] ?? "");
    case "copy":
      if (rest.length < 1 || rest.length > 2) throw new UserError("recipes copy takes a recipe's name and maybe a file");
      return copy(rest[0]!, rest[1] ?? `${rest[0]}.yaml`, overwrite);
    default:
      throw new UserError(`recipes has no action ${JSON.stringify(action)}${suggestion(action, words)}`);
  }
}

function recipeNames(): string[] {
  return readdirSync(recipesFolder())
    .filter((name) => existsSync(join(recipesFolder(), name, FILE)))
    .sort();
}

function list(part: string): number {
  const names = recipeNames().filter((name) => name.includes(part));
  if (names.length === 0)
    throw new UserError(`no recipe's name contains ${JSON.stringify(part)}; there are ${recipeNames().join(", ")}`);
  const width = Math.max(...names.map((name) => name.length)) + 2;
  for (const name of names) print(`${name.padEnd(width)}${titleOf(name)}`.trimEnd());
  return 0;
}

/** The heading of a recipe's README. */
function titleOf(name: string): string {
  const path = join(recipesFolder(), name, "README.md");
  return existsSync(path) ? (/^#\s+(.*)$/m.exec(readFileSync(path, "utf8"))?.[1] ?? "") : "";
}

function copy(name: string, target: string, overwrite: boolean): number {
  if (!recipeNames().includes(name)) throw new UserError(`no recipe ${JSON.stringify(name)}${suggestion(name, recipeNames())}`);
  expectNoFile(target, overwrite);
  const folder = dirname(resolve(target));
  const text = readFileSync(join(recipesFolder(), name, FILE), "utf8");
  // Paths in a configuration are relative to its file.
  const moved = text.replaceAll(/^(model|data|valid):\s*(\S+)\s*$/gm, (line, key: string, path: string) => {
    const absolute = join(recipesFolder(), name, path);
    return isAbsolute(path) || !existsSync(absolute) ? line : `${key}: ${relative(folder, absolute)}`;
  });
  makeFolder(folder);
  writeTextAtomic(target, moved);
  print(`${target}: run it with remat train ${target}`);
  return 0;
}
