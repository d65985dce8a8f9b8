import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokenizer.ts";
import { tokenizerMetadata } from "../../src/gguf/tokenizer.ts";
import { loadConfig } from "../../src/hf/config.ts";
import { modelFolder } from "../support/golden.ts";

const folder = join(import.meta.dir, "../golden/tokenizers");

/** Fixtures with byte fallback: SentencePiece's construction. */
const names = readdirSync(folder).filter((name) => {
  const path = join(folder, name, "tokenizer.json");
  return existsSync(path) && JSON.parse(readFileSync(path, "utf8")).model.byte_fallback === true;
});

interface Vocabulary {
  readonly ids: ReadonlyMap<string, number>;
  readonly scores: readonly number[];
  readonly spacePrefix: boolean;
}

/**
 * How llama.cpp splits a text with a vocabulary of type "llama": of all neighbours whose joined text is a token those with the
 * highest score are joined first, the leftmost of equals; what is no token in the end is written as bytes.
 */
function tokenize({ ids, scores, spacePrefix }: Vocabulary, text: string): number[] {
  const parts = [...((spacePrefix && text !== "" ? " " : "") + text).replaceAll(" ", "\u2581")];
  for (;;) {
    let best = -1;
    let bestScore = -Infinity;
    for (let i = 0; i + 1 < parts.length; i++) {
      const id = ids.get(parts[i]! + parts[i + 1]!);
      if (id !== undefined && scores[id]! > bestScore) [best, bestScore] = [i, scores[id]!];
    }
    if (best < 0) break;
    parts.splice(best, 2, parts[best]! + parts[best + 1]!);
  }
  const byte = (value: number) => ids.get(`<0x${value.toString(16).toUpperCase().padStart(2, "0")}>`)!;
  return parts.flatMap((part) => (ids.has(part) ? [ids.get(part)!] : [...Buffer.from(part)].map(byte)));
}

test("there are such tokenizers", () => {
  expect(names).toContain("mistral");
});

describe.each(names)("the GGUF vocabulary of %s", (name) => {
  const tokenizer = loadTokenizer(join(folder, name));
  const vocabSize =
    Math.max(
      ...Object.values(
        JSON.parse(readFileSync(join(folder, name, "tokenizer.json"), "utf8")).model.vocab as Record<string, number>,
      ),
    ) + 1;
  const metadata = tokenizerMetadata(tokenizer, { ...loadConfig(modelFolder("mistral")), vocabSize });
  const get = <T>(key: string) => Object.values(metadata.get(`tokenizer.ggml.${key}`)!)[0] as T;
  const tokens = get<string[]>("tokens");
  const types = get<number[]>("token_type");
  const { added_tokens: added } = JSON.parse(readFileSync(join(folder, name, "tokenizer.json"), "utf8")) as {
    added_tokens: { content: string }[];
  };
  const special = added.map(({ content }) => content).filter((content) => !content.startsWith("<0x"));

  test("says what each token is", () => {
    expect(get<string>("model")).toBe("llama");
    expect(tokens.length).toBe(vocabSize);
    expect(types.length).toBe(vocabSize);
    expect(get<number[]>("scores").length).toBe(vocabSize);
    expect(tokens.filter((_, i) => types[i] === 6).length).toBe(256);
    expect(tokens[types.indexOf(2)]).toBe("<unk>");
    expect(get<number>("unknown_token_id")).toBe(types.indexOf(2));
    expect(tokens.filter((_, i) => types[i] === 3)).toContain(tokens[get<number>("eos_token_id")]!);
  });

  test("splits texts as Transformers does", () => {
    const vocabulary = {
      ids: new Map(tokens.map((token, id) => [token, id])),
      scores: get<number[]>("scores"),
      spacePrefix: get<boolean>("add_space_prefix"),
    };
    const { texts } = JSON.parse(readFileSync(join(folder, name, "cases.json"), "utf8")) as {
      texts: { text: string; ids: number[] }[];
    };
    // Special tokens are cut out before the vocabulary is asked, by llama.cpp as by Transformers. A space in front is put
    // at more places than one then, differently in the two.
    const cut = texts.filter(({ text }) => !vocabulary.spacePrefix || !special.some((token) => text.includes(token)));
    expect(cut.length).toBeGreaterThan(15);
    const longestFirst = special.toSorted((a, b) => b.length - a.length).map((token) => RegExp.escape(token));
    const parts = (text: string) => text.split(new RegExp(`(${longestFirst.join("|")})`));
    for (const { text, ids } of cut) {
      const got = parts(text).flatMap((part, i) => (i % 2 === 1 ? vocabulary.ids.get(part)! : tokenize(vocabulary, part)));
      expect([text, ...got]).toEqual([text, ...ids]);
    }
  });
});
