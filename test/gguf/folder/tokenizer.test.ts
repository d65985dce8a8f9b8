import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { createTokenizer, loadTokenizer, type Tokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { tokenizerOf } from "../../../src/gguf/folder/tokenizer.ts";
import type { GgufFile, GgufValue } from "../../../src/gguf/read/container.ts";
import { spaceTaking, tokenizerMetadata } from "../../../src/gguf/tokenizer.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import { userError } from "../../hf/temp.ts";
import { modelFolder } from "../../support/golden.ts";

const folder = join(import.meta.dir, "../../golden/tokenizers");
const config = loadConfig(modelFolder("smollm2"));
const names = readdirSync(folder).filter((name) => statSync(join(folder, name)).isDirectory());

interface Case {
  readonly text: string;
  readonly ids: readonly number[];
  readonly full: readonly number[];
  readonly decoded: string;
}

/** The metadata that a tokenizer is written as, as it is read again. */
function written(tokenizer: Tokenizer, more: Readonly<Record<string, GgufValue>> = {}): Pick<GgufFile, "path" | "metadata"> {
  const metadata = tokenizerMetadata(tokenizer, { ...config, vocabSize: tokenizer.size + 3 });
  const values = [...metadata].map(([key, value]) => [key, Object.values(value)[0] as GgufValue] as const);
  return { path: "m.gguf", metadata: new Map([["general.architecture", "llama"], ...values, ...Object.entries(more)]) };
}

function readAgain(file: Pick<GgufFile, "path" | "metadata">): Tokenizer {
  const { tokenizer, config: own } = tokenizerOf(file);
  const named = Object.fromEntries(Object.entries(own).filter(([key]) => key.endsWith("_token"))) as Record<string, string>;
  return createTokenizer(tokenizer, named);
}

describe.each(names)("the vocabulary of a file made of %s", (name) => {
  const original = loadTokenizer(join(folder, name));
  const again = readAgain(written(original, { "general.name": name === "phi3" ? "Phi-3" : name }));
  const { texts } = JSON.parse(readFileSync(join(folder, name, "cases.json"), "utf8")) as { readonly texts: readonly Case[] };

  test("gives texts the tokens that Transformers gives them, and puts them together again", () => {
    // A file cannot say of tokens that they are cut out of texts where they are bytes or runs of spaces.
    const lost = [...original.addedTokens.keys()].filter((token) => /^<0x..>$/.test(token) || token.includes("\u2581"));
    // Nor that they take the white space behind them, unless they are a Phi-3's.
    if (spaceTaking(original) === "unknown") lost.push(...original.addedTokens.keys());
    const comparable = texts.filter(({ text }) => !lost.some((token) => text.includes(token)));
    expect(comparable.length).toBeGreaterThanOrEqual(texts.length - 2);
    for (const { text, ids, full, decoded } of comparable) {
      expect([text, ...again.encode(text)]).toEqual([text, ...ids]);
      expect([...again.prefix, ...ids, ...again.suffix]).toEqual([...full]);
      expect(again.decode(ids)).toBe(decoded);
    }
  });

  test("has the same named tokens", () => {
    const { eosId, bosId, padId } = original;
    expect(again.eosId).toBe(eosId ?? config.eosTokenIds[0]!);
    expect(again.bosId).toBe(bosId ?? config.bosTokenId);
    expect(again.padId).toBe(padId ?? config.padTokenId);
  });
});

describe("a file's vocabulary", () => {
  const original = loadTokenizer(join(folder, "smollm"));
  const without = (file: Pick<GgufFile, "path" | "metadata">, key: string) => {
    const metadata = new Map(file.metadata);
    metadata.delete(key);
    return { ...file, metadata };
  };

  test("may hold several chat templates", () => {
    const templates = new Map([
      ["default", "{{ messages }}"],
      ["rag", "{% for m in messages %}{{ m.content }}{% endfor %}"],
    ]);
    const file = written(createTokenizer(original.json, original.namedTokens, templates));
    expect(tokenizerOf(file).config["chat_template"]).toEqual([
      { name: "default", template: templates.get("default") },
      { name: "rag", template: templates.get("rag") },
    ]);
  });

  test("is refused where it cannot be read, by name", () => {
    const file = written(original);
    const refused = (more: Readonly<Record<string, GgufValue>>) => userError(() => tokenizerOf(written(original, more)));
    expect(refused({ "tokenizer.ggml.pre": "chameleon" })).toContain('says by "chameleon" how texts are split into words');
    expect(userError(() => tokenizerOf(without(file, "tokenizer.ggml.pre")))).toContain("does not say how texts are split");
    expect(userError(() => tokenizerOf(without(file, "tokenizer.ggml.tokens")))).toContain("m.gguf has no vocabulary");
    expect(refused({ "tokenizer.ggml.model": "t5" })).toContain('a vocabulary of the kind "t5"');
    expect(refused({ "tokenizer.ggml.merges": ["a"] })).toContain('expected pairs of tokens in tokenizer.ggml.merges, got "a"');
    expect(refused({ "tokenizer.ggml.eos_token_id": 9999 })).toContain(
      "tokenizer.ggml.eos_token_id is 9999; expected the id of one of",
    );
    expect(refused({ "tokenizer.ggml.token_type": [1] })).toContain("tokens and 1 types of tokens");
    expect(refused({ "tokenizer.ggml.add_bos_token": 3 })).toContain(
      "expected tokenizer.ggml.add_bos_token to be true or false, got 3",
    );
  });
});
