import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { createRandom } from "../../../src/base/random.ts";
import { normaliseForBert } from "../../../src/data/tokens/exact/bert-text.ts";
import { createPrecompiled } from "../../../src/data/tokens/exact/precompiled.ts";
import { createTokenizer, loadTokenizer } from "../../../src/data/tokens/tokenizer.ts";

/** The fixtures of test/golden/encoder_tokenizers.py. */
const ROOT = join(import.meta.dir, "../../golden/encoder_tokenizers");
const KINDS = ["bert-uncased", "bert-cased", "xlm-roberta"] as const;

interface Case {
  readonly text: string;
  readonly ids: readonly number[];
  readonly second: string;
  readonly pair: readonly number[];
  readonly types: readonly number[];
}

const casesOf = async (kind: string) => (await Bun.file(join(ROOT, kind, "cases.json")).json()) as readonly Case[];

describe.each(KINDS)("%s: as Hugging Face's tokenizers", (kind) => {
  const tokenizer = loadTokenizer(join(ROOT, kind));

  test("hard texts have the same tokens", async () => {
    const cases = await casesOf(kind);
    expect(cases.length).toBeGreaterThan(250);
    const got = cases.map(({ text }) => ({ text, ids: [...tokenizer.encode(text)] }));
    expect(got).toEqual(cases.map(({ text, ids }) => ({ text, ids: [...ids] })));
  });

  test("two texts have the same tokens around them, and the same types", async () => {
    const cases = await casesOf(kind);
    const got = cases.map(({ text, second }) => {
      const { ids, types } = tokenizer.surround(tokenizer.encode(text), tokenizer.encode(second));
      return { text, pair: [...ids], types: [...types] };
    });
    expect(got).toEqual(cases.map(({ text, pair, types }) => ({ text, pair: [...pair], types: [...types] })));
  });
});

test("one text is put between the first and the last token", () => {
  const { surround } = loadTokenizer(join(ROOT, "bert-uncased"));
  const { ids, types } = surround(Int32Array.of(7, 8));
  expect([[...ids], [...types]]).toEqual([
    [2, 7, 8, 3],
    [0, 0, 0, 0],
  ]);
});

test("older post-processors put the same around texts", async () => {
  for (const [kind, post_processor] of [
    ["bert-cased", { type: "BertProcessing", sep: ["[SEP]", 3], cls: ["[CLS]", 2] }],
    [
      "xlm-roberta",
      { type: "RobertaProcessing", sep: ["</s>", 2], cls: ["<s>", 0], trim_offsets: true, add_prefix_space: false },
    ],
  ] as const) {
    const json = { ...loadTokenizer(join(ROOT, kind)).json, post_processor };
    const { surround } = createTokenizer(json);
    const { surround: expected } = loadTokenizer(join(ROOT, kind));
    const [a, b] = [Int32Array.of(9, 10, 11), Int32Array.of(12)];
    expect(surround(a)).toEqual(expected(a));
    expect(surround(a, b)).toEqual(expected(a, b));
    expect(
      createTokenizer({ ...json, post_processor: { type: "Sequence", processors: [post_processor] } }).surround(a, b),
    ).toEqual(expected(a, b));
  }
});

test("a model of texts without a template has two texts one behind the other", () => {
  const json = { ...loadTokenizer(join(ROOT, "bert-cased")).json, post_processor: null };
  expect([...createTokenizer(json).surround(Int32Array.of(4), Int32Array.of(5)).ids]).toEqual([4, 5]);
});

describe("BERT's texts", () => {
  const settings = { clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true };

  test("a capital sigma is a small one wherever it is, and Chinese characters beyond U+FFFF are words", () => {
    expect(normaliseForBert("ΣΊΣΥΦΟΣ", settings)).toBe("σισυφοσ");
    expect(normaliseForBert("a\u{20000}b中", settings)).toBe("a \u{20000} b 中 ");
  });

  test("accents stay where capitals do, and go where they are told to", () => {
    expect(normaliseForBert("Été", { ...settings, lowercase: false })).toBe("Été");
    expect(normaliseForBert("Été", { ...settings, lowercase: false, strip_accents: true })).toBe("Ete");
    expect(normaliseForBert("Été", { ...settings, strip_accents: false })).toBe("été");
  });

  test("control characters go, white space is a space", () => {
    expect(normaliseForBert("a\u0000b\u0007\u200b\ufeff\ufffdc\td\u00a0e\u3000f\u0085g", settings)).toBe("abc d e fg");
  });

  test("words of more than 100 characters are unknown, and no text takes long", () => {
    const tokenizer = loadTokenizer(join(ROOT, "bert-uncased"));
    const unknown = tokenizer.idOf("[UNK]")!;
    expect([...tokenizer.encode("x".repeat(101))]).toEqual([unknown]);
    expect(tokenizer.encode("x".repeat(100))).not.toContain(unknown);
    expect([...tokenizer.encode("x".repeat(1_000_000))]).toEqual([unknown]);
    expect(tokenizer.encode(`${" ".repeat(200_000)}x[MASK]${" ".repeat(200_000)}[MASK]`).length).toBe(3);
  });
});

test("a damaged table of replacements is refused, or replaces by something short", async () => {
  const { json } = loadTokenizer(join(ROOT, "xlm-roberta"));
  const [{ precompiled_charsmap: table }] = (json.normalizer as { normalizers: [{ precompiled_charsmap: string }] }).normalizers;
  const text = "a\u00e9\ufdfa \u2460 e\u0301 \u{1f600}";
  expect(createPrecompiled(table)(text)).toBe(text.normalize("NFKC"));
  const random = createRandom(3, "charsmap");
  let refused = 0;
  for (let i = 0; i < 100; i++) {
    const bytes = Buffer.from(table, "base64");
    for (let n = 0; n < 200; n++) bytes[4 + random.below(bytes.length - 4)] = random.below(256);
    try {
      expect(createPrecompiled(bytes.toString("base64"))(text).length).toBeLessThan(256 * text.length);
    } catch (error) {
      expect(String(error)).toContain("precompiled_charsmap");
      refused++;
    }
  }
  expect(refused).toBeLessThan(100);
});

test("a table of replacements that is cut off is refused", () => {
  expect(() => createPrecompiled("AAA=")).toThrow("its precompiled_charsmap is cut off");
  expect(() => createPrecompiled("/////w==")).toThrow("its precompiled_charsmap is cut off");
  const { json } = loadTokenizer(join(ROOT, "xlm-roberta"));
  const normalizer = { type: "Precompiled", precompiled_charsmap: "AAAAAQ==" };
  expect(() => createTokenizer({ ...json, normalizer }, {}, undefined, "x")).toThrow("x: tokenizer.json cannot be used");
});
