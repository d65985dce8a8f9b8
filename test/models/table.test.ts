import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { FAMILIES, familyOf, supportedModels } from "../../src/models/families/index.ts";
import { ENCODERS, FAMILIES as DECODERS, modelFolder } from "../support/golden.ts";

const FIXTURES = [...DECODERS, ...ENCODERS];
const root = join(import.meta.dir, "../..");

test("the README lists the families of the table, in its words", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8").replace(/\s+/g, " ");
  expect(readme).toContain(`of the families ${supportedModels()} (`);
});

test("every family of the table has fixtures, and every wrapper has", () => {
  const read = FIXTURES.map((name) => loadConfig(modelFolder(name)).family);
  expect([...new Set(read)].sort()).toEqual(FAMILIES.map(({ type }) => type).sort());
  const types = FIXTURES.map((name) => JSON.parse(readFileSync(join(modelFolder(name), "config.json"), "utf8")).model_type);
  for (const { wrappers = [] } of FAMILIES) for (const wrapper of wrappers) expect(types).toContain(wrapper.type);
});

test("a fixture's layers are as many as its configuration says, and those of decoders keep something while decoding", () => {
  for (const name of FIXTURES) {
    const config = loadConfig(modelFolder(name));
    const layers = familyOf(config).layers(config);
    expect(layers.length).toBe(config.layers);
    for (const layer of config.encoder ? [] : layers) expect(layer.caches(8).size).toBeGreaterThan(0);
  }
});

test("only a family's own file and the table know its name", () => {
  const names = FAMILIES.flatMap(({ type, wrappers = [] }) => [type, ...wrappers.map((wrapper) => wrapper.type)]);
  const quoted = new RegExp(`"(${names.join("|")})"`);
  // In GGUF "llama" is a kind of vocabulary too, and "qwen2" a way to split texts.
  const files = [...new Bun.Glob("src/**/*.ts").scanSync(root)].filter(
    (file) =>
      !file.startsWith("src/models/families/") &&
      !["vocabulary", "pre-tokenizers"].some((name) => file === `src/gguf/folder/${name}.ts`),
  );
  expect(files.length).toBeGreaterThan(100);
  const code = (file: string) => readFileSync(join(root, file), "utf8").replace(/^\s*(\*|\/\/|\/\*).*$/gm, "");
  expect(files.filter((file) => quoted.test(code(file)))).toEqual([]);
});
