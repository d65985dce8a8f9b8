import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

/** Everything that a file imports is loaded before there is anything to do; see "Start" in docs/architecture.md. */

const SOURCE = join(import.meta.dir, "../src");

/** The packages that verbs may load at their start. */
const PACKAGES: readonly string[] = ["@bufbuild/protobuf/wire", "@huggingface/tokenizers", "zod"];

/** Verbs that render no conversation, and those among them that tokenize nothing. */
const WITHOUT_TEMPLATES: readonly string[] = ["report", "step", "plan", "doctor", "recipes", "keys", "completion"];
const WITHOUT_TEXT: readonly string[] = ["report", "doctor", "recipes", "keys", "completion"];

/** The verbs' modules, by name. */
const VERBS: ReadonlyMap<string, string> = new Map(
  [...readFileSync(join(SOURCE, "cli/verbs.ts"), "utf8").matchAll(/^ {2}(\w+): .*\bimport\("\.\/(.+)"\)/gm)].map(
    ([, name, path]) => [name!, join("cli", path!)],
  ),
);

const transpiler = new Bun.Transpiler({ loader: "ts" });

/** The files of the source and the packages that are loaded with a file; neither types nor what is imported at run time. */
function loadedWith(entry: string): { readonly files: ReadonlySet<string>; readonly packages: ReadonlySet<string> } {
  const files = new Set([entry]);
  const packages = new Set<string>();
  for (const file of files) {
    if (!file.endsWith(".ts")) continue;
    const text = readFileSync(join(SOURCE, file), "utf8").replace(/^#!.*/, "");
    for (const { kind, path } of transpiler.scanImports(text)) {
      if (kind !== "import-statement") continue;
      if (path.startsWith(".")) files.add(relative(SOURCE, join(SOURCE, dirname(file), path)));
      else if (!/^(?:node|bun):/.test(path)) packages.add(path);
    }
  }
  return { files, packages };
}

describe("what is loaded at the start", () => {
  test("imports are followed, but for types and those at run time", () => {
    expect([...VERBS.keys()]).toContain("completion");
    const { files, packages } = loadedWith(VERBS.get("train")!);
    expect(files).toContain("train/run/run.ts");
    expect(files).toContain("data/chat/jinja/template.ts");
    expect(files).not.toContain("data/examples/parquet.ts");
    expect(files).not.toContain("cli/flags/other-systems.ts");
    expect(packages).toContain("zod");
    expect([...loadedWith("onnx/read.ts").packages]).toContain("@bufbuild/protobuf");
  });

  test("remat --help loads no package, and no verb", () => {
    const { files, packages } = loadedWith("cli/main.ts");
    expect([...packages]).toEqual([]);
    expect([...files].filter((file) => file.startsWith("cli/verbs/"))).toEqual([]);
    expect(files.size).toBeLessThan(25);
  });

  test("verbs load no package but those that every run needs", () => {
    const all = [...VERBS.values()].flatMap((file) => [...loadedWith(file).packages]);
    expect([...new Set(all)].sort()).toEqual([...PACKAGES]);
  });

  test.each([...VERBS])("%s loads no more than it needs", (verb, file) => {
    const { files, packages } = loadedWith(file);
    // ONNX as a whole is for who reads models, and other systems' words are for unknown ones.
    expect([...files].filter((name) => /^(?:onnx\/gen|cli\/flags\/systems)\//.test(name))).toEqual([]);
    if (WITHOUT_TEMPLATES.includes(verb)) expect([...files].filter((name) => name.startsWith("data/chat/jinja/"))).toEqual([]);
    if (WITHOUT_TEXT.includes(verb)) expect([...packages]).toEqual(["zod"]);
  });
});
