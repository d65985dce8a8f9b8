import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { createTextStream } from "../../src/generate/text-stream.ts";

setDefaultTimeout(120_000);

const root = join(import.meta.dir, "../golden/tokenizers");
const folders = [
  join(import.meta.dir, "../../recipes/base/model"),
  ...readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(root, entry.name)),
];

const TEXTS = [
  "Hello, world!  Two spaces,\n\ttabs and\r\nlines.   ",
  "emoji 👩‍👩‍👧‍👦🏽 and flags 🇫🇷, 漢字かな交じり文, العربية, ünïcödé",
  "\u{1F9E0}\u{10348}\uFFFD\u0000\uFEFF end",
  " leading space",
];

describe("pieces of text", () => {
  for (const folder of folders) {
    const tokenizer = loadTokenizer(folder);
    test(`${folder.split("/").at(-1)}: together they are the whole text, and no piece ends inside a character`, () => {
      for (const text of TEXTS) {
        const stream = createTextStream(tokenizer);
        const ids = tokenizer.encode(text);
        const pieces = [...Array.from(ids, (id) => stream.push(id)), stream.end()];
        expect(pieces.join("")).toBe(tokenizer.decode(ids, { skipSpecial: true }));
        if (text.includes("\uFFFD")) continue;
        for (const piece of pieces) {
          expect(piece.isWellFormed()).toBe(true);
          expect(piece).not.toContain("\uFFFD");
        }
      }
    });
  }

  test("broken byte sequences come out as replacement characters, at the end too", () => {
    const tokenizer = loadTokenizer(folders[0]!);
    const emoji = tokenizer.encode("🧠");
    expect(emoji.length).toBeGreaterThan(1);
    const stream = createTextStream(tokenizer);
    const pieces = [
      stream.push(emoji[0]!),
      ...Array.from(tokenizer.encode("ok"), (id) => stream.push(id)),
      stream.push(emoji[0]!),
    ];
    expect(pieces[0]).toBe("");
    expect(pieces.join("")).toBe("\uFFFDok");
    expect(stream.end()).toBe("\uFFFD");
  });
});
