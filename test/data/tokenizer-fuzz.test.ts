import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { parseExample } from "../../src/data/examples/formats.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import type { Random } from "../../src/base/random.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { fuzz, INPUTS, mutateBytes, mutateJson } from "../support/fuzz.ts";

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
const METASPACE = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "first", split: false };
const UNIGRAM = {
  added_tokens: [{ id: 0, content: "<unk>", special: true, lstrip: true, rstrip: true }],
  normalizer: {
    type: "Sequence",
    normalizers: [
      { type: "Prepend", prepend: "\u2581" },
      { type: "Replace", pattern: { String: " " }, content: "\u2581" },
    ],
  },
  pre_tokenizer: METASPACE,
  post_processor: null,
  decoder: {
    type: "Sequence",
    decoders: [METASPACE, { type: "ByteFallback" }, { type: "Fuse" }, { type: "Strip", content: " ", start: 1, stop: 0 }],
  },
  model: {
    type: "Unigram",
    unk_id: 0,
    vocab: [
      ["<unk>", 0],
      ["\u2581", -1],
      ["a", -2],
      ["ab", -1.5],
      ["<0x62>", -9],
    ],
    byte_fallback: true,
  },
};
const WORDPIECE = {
  added_tokens: [],
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", sep: ["b", 1], cls: ["a", 0] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: { a: 0, b: 1, "##b": 2, "[UNK]": 3 },
  },
};
const SEEDS = [SMALL, SMALL, UNIGRAM, WORDPIECE].map((seed) => JSON.stringify(seed));
const CONFIG = JSON.stringify({
  eos_token: "<e>",
  bos_token: { content: "<e>" },
  chat_template: [
    { name: "default", template: "{% for m in messages %}{{ m.role + ': ' + (m.content | trim) + eos_token }}{% endfor %}" },
    { name: "tool_use", template: "{{ tools | tojson }}" },
  ],
});
const MAP = JSON.stringify({ eos_token: { content: "<e>", lstrip: false }, additional_special_tokens: ["<e>"] });

/** One of the three files is mutated: half of the time the tokenizer. */
function input(random: Random) {
  const seed = SEEDS[random.below(SEEDS.length)]!;
  const files = {
    "tokenizer.json": seed as string | Uint8Array,
    "tokenizer_config.json": CONFIG,
    "special_tokens_map.json": MAP,
  };
  const kind = random.below(8);
  if (kind < 4) files["tokenizer.json"] = mutateJson(random, seed);
  else if (kind === 4) files["tokenizer.json"] = mutateBytes(random, Buffer.from(seed));
  else if (kind === 5) files["special_tokens_map.json"] = mutateJson(random, MAP);
  else files["tokenizer_config.json"] = mutateJson(random, CONFIG);
  return files;
}

const EXAMPLE = JSON.stringify({
  messages: [
    { role: "user", content: "ab <e>a" },
    { role: "assistant", content: "b\u00e9 \ud83d\ude00" },
  ],
});

test(`${INPUTS} mutated tokenizer.json, tokenizer_config.json and special_tokens_map.json: a tokenizer or a UserError`, async () => {
  const target = join(folder, "model");
  mkdirSync(target);
  const counts = await fuzz("tokenizer", input, (files) => {
    for (const [name, content] of Object.entries(files)) writeFileSync(join(target, name), content);
    const loaded = loadTokenizer(target);
    const { ids } = loaded.encodeWithBoundaries("ab <e>a", [0, 2, 7]);
    if (ids.some((id) => id < 0 || id >= loaded.size)) throw new Error(`ids ${ids.join()} of a vocabulary of ${loaded.size}`);
    loaded.decode(ids);
    createSampleMaker(loaded, { maxLength: 64, vocabSize: loaded.size }).samples(parseExample(EXAMPLE, "d.jsonl:1"));
  });
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.05 * INPUTS);
});

test("a real tokenizer.json cut at 100 places is a UserError that names the file", () => {
  const bytes = readFileSync(join(golden, "smollm/tokenizer.json"));
  for (let i = 0; i < 100; i++) {
    const length = Math.floor((i * (bytes.length - 2)) / 100);
    writeFileSync(join(folder, "tokenizer.json"), bytes.subarray(0, length));
    expect(userError(() => loadTokenizer(folder))).toContain(join(folder, "tokenizer.json"));
  }
  expect(userError(() => loadTokenizer(join(folder, "none")))).toContain("neither tokenizer.json nor tokenizer.model");
});
