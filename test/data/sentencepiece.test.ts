import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PIECE, readSentencePiece } from "../../src/data/tokens/sentencepiece.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import type { Random } from "../../src/base/random.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { fuzz, INPUTS, mutateBytes, mutateJson } from "../support/fuzz.ts";

setDefaultTimeout(120_000);

const golden = join(import.meta.dir, "../golden/tokenizers");
const folder = temporaryFolder();

interface Spec {
  readonly modelType?: number;
  readonly suffix?: boolean;
  readonly charsMap?: Uint8Array;
  readonly spacePrefix?: boolean;
  readonly joinsSpaces?: boolean;
  readonly extra?: readonly (readonly [text: string, type: number])[];
}

/** A `tokenizer.model` of the letters a, b and c, their words and all bytes. */
function model({ modelType = 2, suffix, charsMap, spacePrefix = true, joinsSpaces = false, extra = [] }: Spec = {}): Uint8Array {
  const pieces: (readonly [text: string, type: number])[] = [
    ["<unk>", PIECE.unknown],
    ["<s>", PIECE.control],
    ["</s>", PIECE.control],
    ...Array.from({ length: 256 }, (_, byte) => [`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, PIECE.byte] as const),
    ...["ab", "\u2581ab", "abc", "\u2581", "a", "b", "c"].map((text) => [text, PIECE.normal] as const),
    ...extra,
  ];
  const writer = new BinaryWriter();
  pieces.forEach(([text, type], id) => {
    const piece = new BinaryWriter().tag(1, 2).string(text).tag(2, 5).float(-id);
    if (type !== PIECE.normal) piece.tag(3, 0).int32(type);
    writer.tag(1, 2).bytes(piece.finish());
  });
  const trainer = new BinaryWriter().tag(3, 0).int32(modelType).tag(35, 0).bool(true);
  if (suffix) trainer.tag(24, 0).bool(true);
  const normalizer = new BinaryWriter().tag(1, 2).string("nfkc").tag(3, 0).bool(spacePrefix).tag(4, 0).bool(joinsSpaces);
  if (charsMap) normalizer.tag(2, 2).bytes(charsMap);
  return writer.tag(2, 2).bytes(trainer.finish()).tag(3, 2).bytes(normalizer.finish()).finish();
}

let folders = 0;
function load(bytes: Uint8Array, files: Readonly<Record<string, object>> = {}) {
  const target = join(folder, `model-${folders++}`);
  mkdirSync(target);
  writeFileSync(join(target, "tokenizer.model"), bytes);
  for (const [name, content] of Object.entries(files)) writeFileSync(join(target, name), JSON.stringify(content));
  return loadTokenizer(target);
}

const named = { bos_token: "<s>", eos_token: "</s>" };
const FIRST = 259;

describe("a folder with tokenizer.model alone", () => {
  test("words, bytes of other characters, a space in front of each part", () => {
    const tokenizer = load(model(), { "tokenizer_config.json": named });
    expect([...tokenizer.encode("abc ab</s>é")]).toEqual([FIRST + 1, FIRST + 6, FIRST + 1, 2, FIRST + 3, 3 + 0xc3, 3 + 0xa9]);
    expect(tokenizer.decode(tokenizer.encode("abc ab é"))).toBe("abc ab é");
    expect({ prefix: tokenizer.prefix, suffix: tokenizer.suffix, eos: tokenizer.eosId }).toEqual({
      prefix: [1],
      suffix: [],
      eos: 2,
    });
  });

  test("what tokenizer_config.json and added_tokens.json say", () => {
    const config = { ...named, add_bos_token: false, add_eos_token: true, legacy: false };
    const tokenizer = load(model(), { "tokenizer_config.json": config, "added_tokens.json": { "<x>": 266, "</y>": 267 } });
    expect([tokenizer.prefix, tokenizer.suffix]).toEqual([[], [2]]);
    // The space is in front of the text alone.
    expect([...tokenizer.encode("ab<x>ab</y>")]).toEqual([FIRST + 1, 266, FIRST, 267]);
    expect(tokenizer.size).toBe(268);
    expect(tokenizer.specialTokens.has("<x>")).toBe(false);
    const plain = load(model(), { "tokenizer_config.json": { ...named, add_prefix_space: false } });
    expect([...plain.encode("ab")]).toEqual([FIRST]);
    expect([...load(model({ spacePrefix: false })).encode("ab ab")]).toEqual([FIRST, FIRST + 1]);
    expect(load(model()).prefix).toEqual([]);
  });

  test("a token that took a piece's place is written for its id; the piece's own text is still found", () => {
    const tokenizer = loadTokenizer(join(golden, "internlm2"));
    const plugin = tokenizer.idOf("<|plugin|>")!;
    expect([...tokenizer.encode("[UNUSED_TOKEN_0]<|plugin|>")]).toEqual([plugin, plugin]);
    expect(tokenizer.decode([plugin])).toBe("<|plugin|>");
    expect(tokenizer.specialTokens.get("<|im_end|>")).toBeGreaterThan(0);
  });

  test("tokenizer.json wins where it is there", () => {
    const json = JSON.parse(readFileSync(join(golden, "smollm/tokenizer.json"), "utf8")) as object;
    expect(load(model(), { "tokenizer.json": json }).idOf("<|im_start|>")).toBe(1);
  });
});

test("what is not supported, and damage: one sentence", () => {
  const refused = (bytes: Uint8Array, files = {}) => userError(() => load(bytes, files));
  expect(refused(model({ modelType: 1 }))).toMatch(
    /a SentencePiece model of type unigram is not supported; make a tokenizer\.json/,
  );
  expect(refused(model({ charsMap: Uint8Array.of(1) }))).toContain("SentencePiece's normalisation nfkc is not supported");
  expect(refused(model({ joinsSpaces: true }))).toContain("remove_extra_whitespaces");
  expect(refused(model({ suffix: true }))).toContain("treatment of white space");
  expect(refused(model({ extra: [["x", PIECE.unused]] }))).toContain("unused pieces");
  expect(refused(new Uint8Array())).toContain("damaged or no SentencePiece model");
  // A vocabulary in tiktoken's format has the same name in some folders.
  expect(refused(Buffer.from("IQ== 0\nIg== 1\n"))).toContain("damaged or no SentencePiece model");
  expect(refused(model(), { "tokenizer_config.json": { added_tokens_decoder: { "5": "x" } } })).toContain("added token 5");
  expect(refused(model(), { "added_tokens.json": { x: "1" } })).toContain('token "x" has the id "1"');
  const whole = model();
  for (let i = 1; i < 100; i++) {
    const cut = whole.subarray(0, Math.floor((i * whole.length) / 100));
    expect(() => readSentencePiece(cut, "tokenizer.model")).toThrow(/^tokenizer\.model/);
  }
});

test(`${INPUTS} mutated tokenizer.model, tokenizer_config.json and added_tokens.json: a tokenizer or a UserError`, async () => {
  const target = join(folder, "fuzz");
  mkdirSync(target);
  const seed = model({
    extra: [
      ["<ctrl>", PIECE.control],
      ["a\u2581", PIECE.userDefined],
      ["bb", PIECE.userDefined],
    ],
  });
  const config = JSON.stringify({
    ...named,
    legacy: false,
    add_eos_token: true,
    added_tokens_decoder: { "259": { content: "<x>", special: true, rstrip: true }, "269": { content: "<y>", normalized: true } },
  });
  const added = JSON.stringify({ "<z>": 270 });
  const input = (random: Random) => {
    const kind = random.below(4);
    return {
      "tokenizer.model": kind < 2 ? mutateBytes(random, seed) : seed,
      "tokenizer_config.json": kind === 2 ? mutateJson(random, config) : config,
      "added_tokens.json": kind === 3 ? mutateJson(random, added) : added,
    };
  };
  const counts = await fuzz("sentencepiece", input, (files) => {
    for (const [name, content] of Object.entries(files)) writeFileSync(join(target, name), content);
    const tokenizer = loadTokenizer(target);
    const ids = tokenizer.encode("ab <x>a\u00e9 bb<z>");
    if (ids.some((id) => id < 0 || id >= tokenizer.size))
      throw new Error(`ids ${ids.join()} of a vocabulary of ${tokenizer.size}`);
    tokenizer.decode(ids);
  });
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.05 * INPUTS);
});
