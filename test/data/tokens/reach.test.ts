import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createRandom } from "../../../src/base/random.ts";
import { type Reach, reachOf } from "../../../src/data/tokens/reach.ts";
import { loadTokenizer, type Tokenizer } from "../../../src/data/tokens/tokenizer.ts";

setDefaultTimeout(120_000);

const golden = join(import.meta.dir, "../../golden/tokenizers");
const bundled = join(import.meta.dir, "../../../recipes/base/model");

/** Bytes that count, as a server counts them. */
const bytesOf = (text: string, { visibleOnly }: Reach): number =>
  Buffer.byteLength(visibleOnly ? text.replaceAll(/\s+/g, "") : text);

/** Texts that have few tokens for their bytes: made of the longest tokens, of runs, and of characters that composing shortens. */
function* dense(tokenizer: Tokenizer, name: string): Generator<string> {
  const ids = Array.from({ length: tokenizer.size }, (_, id) => tokenizer.decode([id]));
  const longest = ids.toSorted((a, b) => b.length - a.length).slice(0, 50);
  for (const token of longest) yield token.repeat(20);
  for (const piece of [" ", "\n", "\t", "a", "=", "-", "\u0000", "\u{10FFFF}", "\u{1F600}", "\u6f22", "\u1112\u1161\u11ab"])
    yield piece.repeat(300);
  for (const piece of ["\u2126\u0313\u0301\u0345", "\u212a", "\u1fef", "\u0dd9\u0dcf\u0dca", "e\u0301", "\ufb01", "\ufdfa"])
    yield piece.repeat(100);
  const random = createRandom(7, name);
  const special = [...tokenizer.addedTokens.keys()];
  for (let i = 0; i < 300; i++) {
    const from = i % 3 === 0 && special.length > 0 ? [...special, " ", "   ", "\n\n"] : i % 3 === 1 ? longest : ids;
    yield Array.from({ length: 30 }, () => from[random.below(from.length)]).join("");
  }
}

describe("a text has at least as many tokens as its bytes divided by the reach", () => {
  const folders = ["gemma2", "gemma3", "internlm2", "internlm3", "llama3", "mistral", "phi3", "phi4", "qwen", "smollm"];
  for (const folder of [bundled, ...folders.map((name) => join(golden, name))]) {
    test(folder.slice(folder.lastIndexOf("/") + 1), () => {
      const tokenizer = loadTokenizer(folder);
      const reach = reachOf(tokenizer.json)!;
      expect(reach).not.toBeNull();
      // A bound that nothing reaches would keep nothing away.
      expect(reach.bytes).toBeLessThan(1000);
      let texts = 0;
      for (const text of dense(tokenizer, folder)) {
        texts++;
        expect(tokenizer.encode(text).length * reach.bytes).toBeGreaterThanOrEqual(bytesOf(text, reach));
      }
      expect(texts).toBeGreaterThan(350);
    });
  }
});

test("composing makes at most three bytes one, whatever a character was decomposed to", () => {
  for (let code = 0; code < 0x110000; code++) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const character = String.fromCodePoint(code);
    const composed = character.normalize("NFC");
    const bytes = Buffer.byteLength(composed);
    expect(Buffer.byteLength(character.normalize("NFD"))).toBeLessThanOrEqual(3 * Math.max(bytes, 1));
    if (Buffer.byteLength(character) > 3 * bytes) throw new Error(`U+${code.toString(16)}`);
  }
});

describe("where a token may stand for any length, there is no bound", () => {
  const base = {
    normalizer: null,
    pre_tokenizer: null,
    decoder: null,
    added_tokens: [] as object[],
    model: { type: "BPE", vocab: { a: 0, aa: 1, "?": 2 }, merges: [["a", "a"]], unk_token: "?", fuse_unk: false },
  };
  const { model } = base;

  test("unknown characters that are joined or lost, other models, text that is cut away", () => {
    expect(reachOf(base)).toEqual({ bytes: 4, visibleOnly: false });
    const split = { type: "Split", pattern: { String: "-" }, behavior: "Removed", invert: false };
    const replace = (content: string) => ({ type: "Replace", pattern: { String: "  " }, content });
    for (const without of [
      { ...base, model: { ...model, fuse_unk: true } },
      { ...base, model: { ...model, unk_token: null } },
      { ...base, model: { type: "WordPiece", vocab: { a: 0 }, unk_token: "a" } },
      { ...base, model: { type: "Unigram", vocab: [["a", 0]] } },
      { ...base, pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Digits" }, split] } },
      { ...base, pre_tokenizer: { type: "BertPreTokenizer" } },
      { ...base, normalizer: { type: "Sequence", normalizers: [{ type: "Lowercase" }] } },
      { ...base, normalizer: { type: "Precompiled", precompiled_charsmap: "" } },
      { ...base, normalizer: { type: "Replace", pattern: { Regex: " +" }, content: " " } },
      { ...base, normalizer: replace("") },
    ])
      expect(reachOf(without)).toBeNull();
    expect(reachOf({ ...base, normalizer: replace(" ") })).toEqual({ bytes: 8, visibleOnly: false });
    expect(reachOf({ ...base, normalizer: { type: "Strip" } })).toEqual({ bytes: 4, visibleOnly: true });
    expect(reachOf({ ...base, added_tokens: [{ id: 3, content: "<end>", rstrip: true }] })).toEqual({
      bytes: 5,
      visibleOnly: true,
    });
  });
});
