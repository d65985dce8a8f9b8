import { expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokenizer.ts";
import { UserError } from "../../src/errors.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const golden = join(import.meta.dir, "../golden/tokenizers");
const folder = temporaryFolder();

const SMALL = {
  added_tokens: [{ id: 3, content: "<e>", special: true, normalized: false, lstrip: false, rstrip: false, single_word: false }],
  normalizer: { type: "NFC" },
  pre_tokenizer: {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: "\\s+|\\p{L}+" }, behavior: "Isolated", invert: false },
      { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    ],
  },
  post_processor: {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<e>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: { "<e>": { id: "<e>", ids: [3], tokens: ["<e>"] } },
  },
  decoder: { type: "ByteLevel" },
  model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: [["a", "b"]], unk_token: null, ignore_merges: false },
};
const CONFIG = { eos_token: "<e>", bos_token: { content: "<e>" }, chat_template: [{ name: "default", template: "x" }] };

/** Every path to a value inside a JSON value. */
function paths(value: unknown, at: (string | number)[] = []): (string | number)[][] {
  if (typeof value !== "object" || value === null) return [at];
  return [at, ...Object.entries(value).flatMap(([key, child]) => paths(child, [...at, key]))];
}

function changed(value: unknown, [key, ...rest]: readonly (string | number)[], by: unknown): unknown {
  if (key === undefined) return by;
  const copy = (Array.isArray(value) ? [...(value as unknown[])] : { ...(value as object) }) as Record<string | number, unknown>;
  copy[key] = changed(copy[key], rest, by);
  return copy;
}

function attempt(tokenizer: string | Uint8Array, config: string): void {
  const target = join(folder, "model");
  mkdirSync(target, { recursive: true });
  writeFileSync(join(target, "tokenizer.json"), tokenizer);
  writeFileSync(join(target, "tokenizer_config.json"), config);
  try {
    const loaded = loadTokenizer(target);
    const { ids } = loaded.encodeWithBoundaries("ab <e>a", [0, 2, 7]);
    loaded.decode(ids);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
  }
}

const values = fc.constantFrom<unknown>(
  null,
  true,
  0,
  -1,
  2 ** 40,
  1.5,
  "",
  "x",
  "(",
  [],
  {},
  [null],
  [[]],
  [{}],
  { type: "BPE" },
  { content: 5 },
);

test("2,000 changed values in tokenizer.json and tokenizer_config.json: a tokenizer or a UserError", () => {
  const inTokenizer = paths(SMALL);
  const inConfig = paths(CONFIG);
  fc.assert(
    fc.property(fc.constantFrom(...inTokenizer), values, fc.constantFrom(...inConfig), values, (first, by, second, other) => {
      attempt(JSON.stringify(changed(SMALL, first, by)), JSON.stringify(CONFIG));
      attempt(JSON.stringify(SMALL), JSON.stringify(changed(CONFIG, second, other)));
    }),
    { numRuns: 1000, seed: 8 },
  );
});

test("a real tokenizer.json cut at 100 places is a UserError that names the file", () => {
  const bytes = readFileSync(join(golden, "smollm/tokenizer.json"));
  for (let i = 0; i < 100; i++) {
    const length = Math.floor((i * (bytes.length - 2)) / 100);
    writeFileSync(join(folder, "tokenizer.json"), bytes.subarray(0, length));
    expect(userError(() => loadTokenizer(folder))).toContain(join(folder, "tokenizer.json"));
  }
  expect(userError(() => loadTokenizer(join(folder, "none")))).toContain("no such file");
  mkdirSync(join(folder, "sentencepiece"));
  writeFileSync(join(folder, "sentencepiece/tokenizer.model"), "");
  expect(userError(() => loadTokenizer(join(folder, "sentencepiece")))).toContain("convert it with Transformers");
});
