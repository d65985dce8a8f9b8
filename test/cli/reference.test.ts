import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { flagsOf, parseFlags } from "../../src/cli/flags/flags.ts";
import { flagName } from "../../src/base/names.ts";
import { COMING_FROM, comingFrom, REFERENCE, reference } from "../../src/cli/reference.ts";
import { ALIASES } from "../../src/cli/flags/verb.ts";
import { VERBS } from "../../src/cli/verbs.ts";

const root = join(import.meta.dir, "../..");

test("docs/configuration.md is what the schemas say (bun src/cli/reference.ts writes it)", async () => {
  expect(readFileSync(REFERENCE, "utf8")).toBe(await reference());
});

test("docs/coming-from.md has the keys of other systems as their tables have them (bun src/cli/reference.ts writes them)", () => {
  const page = readFileSync(COMING_FROM, "utf8");
  // The formatter fills cells up.
  const plain = (text: string) => text.replaceAll(/ +/g, " ").replaceAll(/-{3,}/g, "---");
  expect(plain(page)).toBe(plain(comingFrom(page)));
});

test("every verb has a section in docs/verbs.md, and every alias is named", () => {
  const page = readFileSync(join(root, "docs/verbs.md"), "utf8");
  const sections = [...page.matchAll(/^## (\S+)$/gm)].map(([, name]) => name!);
  expect(sections.sort()).toEqual(Object.keys(VERBS).sort());
  for (const alias of Object.keys(ALIASES)) expect(page).toContain(`\`${alias}\``);
});

/** Command lines of the product in a page: what follows `remat`, or `bun run train`, up to the end of line, pipe or comment. */
function commandsOf(page: string): string[] {
  const blocks = [...page.matchAll(/^(?:```(?:sh|bash)\n([^]*?)^```|((?: {4}.*\n)+))/gm)].map(
    ([, fenced, indented]) => fenced ?? indented!,
  );
  const lines = blocks.flatMap((block) => block.replaceAll("\\\n", " ").split("\n"));
  return lines.flatMap((line) => {
    const train = /\bbun(?:@\S+)? run train\b([^|#;&]*)/.exec(line);
    if (train) return [`train ${train[1]}`];
    const verb = /\b(?:bun run |bunx )?remat ([a-z][^|#;&]*)/.exec(line);
    return verb ? [verb[1]!] : [];
  });
}

const pages = [join(root, "README.md"), ...readdirSync(join(root, "docs")).map((name) => join(root, "docs", name))].filter(
  (path) => path.endsWith(".md"),
);

test("every command in the documentation is one that the command line takes", async () => {
  let count = 0;
  for (const page of pages) {
    for (const command of commandsOf(readFileSync(page, "utf8"))) {
      count++;
      const [first = "", ...rest] = command.trim().split(/\s+/);
      const [verb, ...args] = [...(ALIASES[first] ?? [first]), ...rest];
      const described = `${page}: ${command}`;
      expect(Object.keys(VERBS), described).toContain(verb!);
      const { flags } = await VERBS[verb!]!.load();
      const plain = args.map((arg) => arg.replace(/^(["'])(.*)\1$/, "$2"));
      expect(
        () =>
          parseFlags(
            flags,
            plain.filter((arg) => arg !== "--help"),
          ),
        described,
      ).not.toThrow();
    }
  }
  expect(count).toBeGreaterThan(8);
});

test("every flag that the documentation names exists", async () => {
  const known = new Set(["--help", "--version"]);
  for (const verb of Object.values(VERBS)) {
    for (const flag of flagsOf((await verb.load()).flags)) {
      known.add(flagName(flag.key));
      if (flag.kind === "boolean") known.add(flagName(flag.key).replace("--", "--no-"));
    }
  }
  // Scripts that are no verbs have flags of their own.
  const scripts = readdirSync(join(root, "bench")).filter((file) => file.endsWith(".ts"));
  for (const path of ["src/cli/executable.ts", ...scripts.map((name) => `bench/${name}`)]) {
    const options = readFileSync(join(root, path), "utf8").matchAll(/^ {4,6}"?([a-z-]+)"?: \{ type: "/gm);
    for (const [, option] of options) known.add(`--${option}`);
  }
  // "--flag" stands for any; the others are Bun's and npm's, in the commands that start the product.
  for (const other of ["--flag", "--yes", "--global"]) known.add(other);
  for (const page of pages) {
    const text = readFileSync(page, "utf8");
    // In a table of other systems' names, the last column holds ours.
    const ours = /^\| there +\| here +\|$/m.test(text) ? text.replaceAll(/^\|.*\|(.*)\|$/gm, "$1") : text;
    const named = [...ours.matchAll(/(?<![\w-])--[a-z][a-z0-9-]*/g)].map(([flag]) => flag);
    const unknown = named.filter((flag) => !known.has(flag));
    expect(unknown, page).toEqual([]);
  }
});

test("every verb that the documentation names exists", () => {
  for (const page of pages) {
    // "remat VERB" stands for any.
    const named = [...readFileSync(page, "utf8").matchAll(/`remat ([a-z][\w-]*)/g)].map(([, verb]) => verb!);
    expect(
      named.filter((verb) => !Object.hasOwn(VERBS, verb) && !Object.hasOwn(ALIASES, verb)),
      page,
    ).toEqual([]);
  }
});

/** The anchor of a heading, as GitHub and most others make it. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}\s-]/gu, "")
    .trim()
    .replaceAll(" ", "-");

test("every link between the pages leads somewhere, and the README leads to every page", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  for (const page of pages.slice(1)) expect(readme).toContain(`(docs/${basename(page)})`);
  for (const page of pages) {
    for (const [, target = ""] of readFileSync(page, "utf8").matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [path = "", fragment] = target.split("#");
      const file = path === "" ? page : resolve(dirname(page), path);
      expect(existsSync(file), `${page}: ${target}`).toBe(true);
      if (fragment === undefined) continue;
      const headings = [...readFileSync(file, "utf8").matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchor(heading!));
      expect(headings, `${page}: ${target}`).toContain(fragment);
    }
  }
});

test("every file that a page names is there", () => {
  for (const page of pages) {
    const named = [...readFileSync(page, "utf8").matchAll(/`((?:src|test|assembly|bench|recipes|docs)\/[\w./-]+)`/g)].map(
      ([, path]) => path!,
    );
    // Words in capitals stand for any name.
    const missing = named.filter((path) => !/[A-Z]{3}/.test(path.replace("README", "")) && !existsSync(join(root, path)));
    expect(missing, page).toEqual([]);
  }
});
