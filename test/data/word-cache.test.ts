import { expect, setDefaultTimeout, test } from "bun:test";
import { Tokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { join } from "node:path";
import { cacheWords } from "../../src/data/tokens/word-cache.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../golden/tokenizers");

for (const name of ["qwen", "llama3", "smollm", "mistral", "gemma2"]) {
  test(`${name}: the same tokens with remembered words as without, on 1,000 random texts, each twice`, async () => {
    const json = (await Bun.file(join(folder, name, "tokenizer.json")).json()) as Record<string, unknown>;
    const plain = new Tokenizer(json, {});
    const cached = new Tokenizer(json, {});
    const fast = cacheWords(cached);
    expect(fast === null).toBe(name === "mistral" || name === "gemma2");
    const piece = fc.oneof(
      fc.constantFrom(
        " ",
        "\n",
        "  ",
        "\t",
        "the",
        " river",
        "'s",
        "def f(x):\n    return",
        "miller",
        "1999",
        "Zwölf",
        "😀",
        "<|im_end|>",
        "</s>",
        "aaaaaaaaaaaaaaaa",
      ),
      fc.string({ unit: "grapheme", maxLength: 6 }),
      fc.string({ unit: "binary", maxLength: 4 }),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const text = pieces.join("").toWellFormed();
        const expected = plain.encode(text).ids;
        expect(cached.encode(text).ids).toEqual(expected);
        expect(cached.encode(text).ids).toEqual(expected);
        const ids = plain.encode(text, { add_special_tokens: false }).ids;
        if (fast) expect([...fast(text)!]).toEqual(ids);
      }),
      { numRuns: 1000, seed: 7 },
    );
  });
}

for (const name of ["qwen", "llama3", "smollm"]) {
  test(`${name}: long words too, which are merged by a heap: 300 random ones of 65 to 2,000 characters`, async () => {
    const json = (await Bun.file(join(folder, name, "tokenizer.json")).json()) as Record<string, unknown>;
    const plain = new Tokenizer(json, {});
    const cached = new Tokenizer(json, {});
    const fast = cacheWords(cached)!;
    // Few letters make many pairs of one rank, side by side; whole syllables make deep merges.
    const alphabets = ["a", "ab", "aehrst", "abcdefghijklmnopqrstuvwxyz"].map((letters) => fc.constantFrom(...letters));
    const syllables = fc.constantFrom("the", "tion", "er", "an", "re", "st", "ing", "ou", "zw\u00f6", "\u6f22");
    const word = fc
      .oneof(
        ...[...alphabets, syllables, fc.constantFrom(" ", "=", "-")].map((part) =>
          fc.array(part, { minLength: 65, maxLength: 2000 }),
        ),
      )
      .map((parts) => parts.join(""));
    fc.assert(
      fc.property(word, (text) => {
        expect(cached.encode(text).ids).toEqual(plain.encode(text).ids);
        expect([...fast(text)!]).toEqual(plain.encode(text, { add_special_tokens: false }).ids);
      }),
      { numRuns: 300, seed: 11 },
    );
  });
}

test("characters that the vocabulary lacks take the library's way", () => {
  const json = {
    model: { type: "BPE", vocab: { a: 0, b: 1, ab: 2, "?": 3 }, merges: [["a", "b"]], unk_token: "?" },
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    added_tokens: [],
  };
  const plain = new Tokenizer(json, {});
  const cached = new Tokenizer(json, {});
  const fast = cacheWords(cached)!;
  for (const text of ["abab", "aba c ab", "zz", ""]) expect(cached.encode(text).ids).toEqual(plain.encode(text).ids);
  expect([...fast("abab")!]).toEqual([2, 2]);
});
