import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { tokenizerMetadata } from "../../src/gguf/tokenizer.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { modelFolder } from "../support/golden.ts";

const folder = join(import.meta.dir, "../golden/tokenizers");

/** Tokens of texts by llama.cpp (llama-cpp.py there), where they differ from Transformers' tokens. */
const made: Readonly<Record<string, { readonly different: Readonly<Record<string, number[]>> }>> = JSON.parse(
  readFileSync(join(import.meta.dir, "../golden/gguf/llama-cpp.json"), "utf8"),
).tokens;

/** Fixtures with byte fallback: SentencePiece's construction. */
const names = readdirSync(folder).filter(
  (name) =>
    statSync(join(folder, name)).isDirectory() &&
    (loadTokenizer(join(folder, name)).json["model"] as { byte_fallback: boolean }).byte_fallback,
);

const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE] = [1, 2, 3, 4, 6];
const SPACE = "\u2581";

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly scores: readonly number[];
  readonly spacePrefix: boolean;
  /** Tokens that take the white space behind them: llama.cpp knows them by the name of a Phi-3. */
  readonly strips: ReadonlySet<string>;
}

interface Added {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
  readonly rstrip: boolean;
}

/**
 * How llama.cpp splits a text with a vocabulary of type "llama". Tokens that are not made by joining are cut out first, the
 * longest of them first. What is between gets its space in front; then, of all neighbours whose joined text is a token, those with
 * the highest score are joined first, the leftmost of equals; what is no token in the end is written as bytes.
 */
function tokenize({ tokens, types, scores, spacePrefix, strips }: Vocabulary, text: string): number[] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  let parts: (string | number)[] = text === "" ? [] : [text];
  const special = tokens.map((token, id) => ({ token, id })).filter(({ id }) => types[id] !== NORMAL && types[id] !== BYTE);
  for (const { token, id } of special.sort((a, b) => b.token.length - a.token.length)) {
    parts = parts.flatMap((part) =>
      typeof part === "number"
        ? [part]
        : part
            .split(token)
            .flatMap((between, i) => (i === 0 ? [between] : [id, strips.has(token) ? between.trimStart() : between]))
            .filter((piece) => piece !== ""),
    );
  }
  const byte = (value: number) => ids.get(`<0x${value.toString(16).toUpperCase().padStart(2, "0")}>`)!;
  return parts.flatMap((part) => {
    if (typeof part === "number") return [part];
    const pieces = [...((spacePrefix ? " " : "") + part).replaceAll(" ", SPACE)];
    for (;;) {
      let best = -1;
      let bestScore = -Infinity;
      for (let i = 0; i + 1 < pieces.length; i++) {
        const id = ids.get(pieces[i]! + pieces[i + 1]!);
        if (id !== undefined && scores[id]! > bestScore) [best, bestScore] = [i, scores[id]!];
      }
      if (best < 0) break;
      pieces.splice(best, 2, pieces[best]! + pieces[best + 1]!);
    }
    return pieces.flatMap((piece) => (ids.has(piece) ? [ids.get(piece)!] : [...Buffer.from(piece)].map(byte)));
  });
}

/** How llama.cpp writes tokens out: added ones as they stand, in others the mark of a space is a space. */
function detokenize({ tokens, types, spacePrefix }: Vocabulary, ids: readonly number[]): string {
  const parts = ids.map((id, i) => {
    if (types[id] === BYTE) return Buffer.from([Number(tokens[id]!.slice(1, -1))]);
    const text = types[id] === NORMAL ? tokens[id]!.replaceAll(SPACE, " ") : tokens[id]!;
    return Buffer.from(spacePrefix && (i === 0 || types[ids[i - 1]!] === CONTROL) ? text.replace(/^ /, "") : text);
  });
  return Buffer.concat(parts).toString();
}

/** Returns what is written for the tokenizer of a folder. */
function exported(at: string) {
  const tokenizer = loadTokenizer(at);
  const vocabSize = tokenizer.size;
  const metadata = tokenizerMetadata(tokenizer, { ...loadConfig(modelFolder("mistral")), vocabSize });
  // Of two tokens with one id the last one counts.
  const given = tokenizer.json["added_tokens"] as Added[];
  const added = [...new Map(given.map((token) => [token.id, token])).values()];
  const get = <T>(key: string) => Object.values(metadata.get(`tokenizer.ggml.${key}`)!)[0] as T;
  const vocabulary: Vocabulary = {
    tokens: get("tokens"),
    types: get("token_type"),
    scores: get("scores"),
    spacePrefix: get("add_space_prefix"),
    strips: new Set(added.filter(({ rstrip }) => rstrip).map(({ content }) => content)),
  };
  return { vocabSize, get, vocabulary, added };
}

test("there are such tokenizers", () => {
  expect(names).toEqual(expect.arrayContaining(["mistral", "phi3", "internlm2", "internlm3"]));
});

describe.each(names)("the GGUF vocabulary of %s", (name) => {
  const { vocabSize, get, vocabulary, added } = exported(join(folder, name));
  const { tokens, types } = vocabulary;
  const { texts } = JSON.parse(readFileSync(join(folder, name, "cases.json"), "utf8")) as {
    texts: { text: string; ids: number[] }[];
  };

  test("says what each token is", () => {
    expect(get<string>("model")).toBe("llama");
    expect(tokens.length).toBe(vocabSize);
    expect(types.length).toBe(vocabSize);
    expect(vocabulary.scores.length).toBe(vocabSize);
    expect(tokens.filter((_, i) => types[i] === BYTE).length).toBe(256);
    expect(tokens[types.indexOf(UNKNOWN)]).toBe("<unk>");
    expect(get<number>("unknown_token_id")).toBe(types.indexOf(UNKNOWN));
    expect(tokens.filter((_, i) => types[i] === CONTROL)).toContain(tokens[get<number>("eos_token_id")]!);
    // Whatever was added is cut out, but runs of spaces: those are made by joining.
    const cut = added.filter(({ content, special }) => !special && !content.includes(SPACE)).map(({ content }) => content);
    expect(tokens.filter((_, i) => types[i] === USER_DEFINED)).toEqual(cut);
  });

  test("is used as here by llama.cpp, also where that is not what Transformers does", () => {
    const different = Object.entries(made[name]!.different);
    for (const [text, ids] of different) expect([text, ...tokenize(vocabulary, text)]).toEqual([text, ...ids]);
  });

  test("splits texts as Transformers does, and puts them together again", () => {
    // What Transformers cuts out though llama.cpp cannot: bytes that a text spells, if they are listed as added; marks of spaces
    // that stand in the text itself.
    const cut = added.map(({ content }) => content).filter((content) => /^<0x..>$/.test(content) || content.includes(SPACE));
    const comparable = texts.filter(({ text }) => !cut.some((content) => text.includes(content)));
    expect(comparable.length).toBeGreaterThanOrEqual(texts.length - 1);
    // The space that was put behind such a token is written, too.
    const keepsSpace = (id: number) => types[id] === UNKNOWN || (vocabulary.spacePrefix && types[id] === USER_DEFINED);
    for (const { text, ids } of comparable) {
      expect([text, ...tokenize(vocabulary, text)]).toEqual([text, ...ids]);
      // White space that a token took is lost.
      if (vocabulary.strips.size === 0 && !ids.some(keepsSpace))
        expect(detokenize(vocabulary, ids)).toBe(text.replaceAll(SPACE, " "));
    }
  });
});

describe("variants of a tokenizer", () => {
  const home = mkdtempSync(join(tmpdir(), "remat-sentencepiece-"));
  afterAll(() => rmSync(home, { recursive: true }));
  const mistral = JSON.parse(readFileSync(join(folder, "mistral/tokenizer.json"), "utf8"));
  const config = JSON.parse(readFileSync(join(folder, "mistral/tokenizer_config.json"), "utf8"));

  function variant(json: object, more: object = {}): string {
    writeFileSync(join(home, "tokenizer.json"), JSON.stringify({ ...mistral, ...json }));
    writeFileSync(join(home, "tokenizer_config.json"), JSON.stringify({ ...config, ...more }));
    return home;
  }

  test.each([
    ["always", true, true],
    ["first", false, true],
    ["never", false, false],
  ])("spaces as Metaspace has them, %s: in front in chats %p, in texts %p", (scheme, inChats, inTexts) => {
    const json = {
      normalizer: null,
      pre_tokenizer: { type: "Metaspace", replacement: SPACE, prepend_scheme: scheme, split: false },
    };
    for (const [template, begin, prefix] of [
      ["{{ '<s>' }}", "<s>", inChats],
      [null, "", inTexts],
    ] as const) {
      const at = variant(json, { chat_template: template });
      const { vocabulary } = exported(at);
      expect(vocabulary.spacePrefix).toBe(prefix);
      const tokenizer = loadTokenizer(at);
      // Metaspace puts no space in front of a space, llama.cpp does.
      for (const text of ["the river", "a\nb  c ", ...(prefix ? [] : [" the  river"])].map((rest) => begin + rest))
        expect(tokenize(vocabulary, text)).toEqual([...tokenizer.encodeWithBoundaries(text, []).ids]);
    }
  });

  test("what llama.cpp would split otherwise is refused", () => {
    const replace = { type: "Replace", pattern: { String: " " }, content: SPACE };
    for (const json of [
      { normalizer: { type: "Sequence", normalizers: [{ type: "NFKC" }, replace] } },
      { normalizer: { type: "Sequence", normalizers: [replace, { type: "Replace", pattern: { String: "a" }, content: "b" }] } },
      { normalizer: replace, pre_tokenizer: { type: "Digits", individual_digits: true } },
      { normalizer: null },
    ])
      expect(() => exported(variant(json))).toThrow("convert this model with llama.cpp");
  });
});
