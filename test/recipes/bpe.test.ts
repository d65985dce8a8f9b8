import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { trainBpe } from "../../recipes/base/bpe.ts";
import { CHATML_TEMPLATE, tokenizerConfig, tokenizerJson, writeTokenizer } from "../../recipes/base/tokenizer-files.ts";
import { byteCharacters } from "../../src/data/tokens/byte-characters.ts";
import golden from "../golden/tokenizer/trained.json" with { type: "json" };

setDefaultTimeout(120_000);

const SETTINGS = { eosToken: "<|im_end|>", padToken: "<|endoftext|>", chatTemplate: CHATML_TEMPLATE, maxLength: 1024 };

function readTexts(): string[] {
  const path = join(import.meta.dir, "../../recipes/devils-dictionary/valid.jsonl");
  const lines = readFileSync(path, "utf8").trimEnd().split("\n");
  return lines.flatMap((line) =>
    (JSON.parse(line) as { messages: { content: string }[] }).messages.map(({ content }) => content),
  );
}

describe("byte-level BPE trainer", () => {
  const texts = readTexts();
  const bpe = trainBpe(texts, golden);
  const tokenizer = new Tokenizer(tokenizerJson(bpe), tokenizerConfig(bpe, SETTINGS));

  test("learns the merges and ids that Hugging Face's trainer learns", () => {
    expect(bpe.vocab).toEqual(golden.vocab);
    expect(bpe.merges.map((pair) => [...pair])).toEqual(golden.merges);
  });

  test.each(golden.texts.map(({ text, ids }) => [text, ids] as const))(
    "encodes as Hugging Face tokenizers and decodes to the same text: %j",
    (text, ids) => {
      expect(tokenizer.encode(text).ids).toEqual([...ids]);
      if (text !== "") expect(tokenizer.decode([...ids])).toBe(text);
    },
  );

  test("any text comes back from its ids", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 40 }), (text) => {
        const { ids } = tokenizer.encode(text);
        expect(ids.length === 0 ? "" : tokenizer.decode(ids)).toBe(text);
      }),
      { seed: 1, numRuns: 100 },
    );
  });

  test("does not depend on the order of the texts", () => {
    expect(trainBpe(texts.toReversed(), golden)).toEqual(bpe);
  });

  test("merges nothing across a special token", () => {
    const { vocab } = trainBpe(
      Array.from({ length: 9 }, () => "ab<|x|>cd"),
      { vocabSize: 300, specialTokens: ["<|x|>"] },
    );
    expect(vocab.slice(257)).toEqual(["ab", "cd"]);
  });

  test("stops when no pair occurs twice", () => {
    expect(trainBpe(["ab ab cd"], { vocabSize: 1000, specialTokens: [] }).merges).toEqual([["a", "b"]]);
    expect(trainBpe([], { vocabSize: 1000, specialTokens: [] }).merges).toEqual([]);
  });

  test("a vocabulary that cannot be is refused", () => {
    expect(() => trainBpe([], { vocabSize: 257, specialTokens: ["a", "b"] })).toThrow(
      "from 258 (bytes and special tokens) to 65536, got 257",
    );
    expect(() => trainBpe([], { vocabSize: 65_537, specialTokens: [] })).toThrow("got 65537");
  });

  test("the stand-ins of the bytes are 256 different printable characters", () => {
    const characters = byteCharacters();
    expect(new Set(characters).size).toBe(256);
    expect(characters[0x20]).toBe("\u0120");
    expect(characters[0x41]).toBe("A");
    expect(characters.join("")).not.toMatch(/[\s\p{Cc}]/u);
  });

  test("the files hold what the tokenizer was made from", () => {
    const folder = mkdtempSync(join(tmpdir(), "tokenizer-"));
    try {
      writeTokenizer(folder, bpe, SETTINGS);
      const read = (file: string) => JSON.parse(readFileSync(join(folder, file), "utf8")) as object;
      expect(read("tokenizer.json")).toEqual(JSON.parse(JSON.stringify(tokenizerJson(bpe))));
      expect(read("tokenizer_config.json")).toEqual(tokenizerConfig(bpe, SETTINGS));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
