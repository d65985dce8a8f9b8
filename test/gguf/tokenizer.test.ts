import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createTokenizer, loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { tokenizerMetadata } from "../../src/gguf/tokenizer.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { modelFolder } from "../support/golden.ts";

const folder = join(import.meta.dir, "../golden/tokenizers");
const config = loadConfig(modelFolder("smollm2"));

/** Texts that llama.cpp (llama-cpp.py there) split otherwise than Transformers, of thousands. */
const golden: Readonly<
  Record<string, { readonly texts: number; readonly different: Readonly<Record<string, readonly number[]>> }>
> = JSON.parse(readFileSync(join(import.meta.dir, "../golden/gguf/llama-cpp.json"), "utf8")).tokens;

interface Json {
  readonly model: { readonly merges: readonly unknown[]; readonly vocab: Readonly<Record<string, number>> };
  readonly added_tokens: readonly object[];
  readonly pre_tokenizer: { readonly pretokenizers: readonly object[] };
}

const read = (name: string): Json => JSON.parse(readFileSync(join(folder, name, "tokenizer.json"), "utf8"));

function exported(
  json: object,
  templates: Readonly<Record<string, string>> = {},
  eosTokenIds: readonly number[] = [],
  named: Readonly<Record<string, string>> = {},
) {
  const tokenizer = createTokenizer({ ...json }, named, new Map(Object.entries(templates)));
  const metadata = tokenizerMetadata(tokenizer, { ...config, bosTokenId: null, eosTokenIds, vocabSize: tokenizer.size });
  return (key: string) => Object.values(metadata.get(`tokenizer.${key}`) ?? {})[0];
}

describe("llama.cpp's name of a way of splitting words", () => {
  const llama = read("llama3");
  const [split, bytes] = llama.pre_tokenizer.pretokenizers;
  const phi = read("phi4");
  const withModel = (json: Json, model: object) => ({ ...json, model: { ...json.model, ...model } });
  /** Mistral Nemo's: GPT-4o's without contractions and with single digits. */
  const tekken = (json: Json) =>
    JSON.parse(
      JSON.stringify(json).replaceAll("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replaceAll("\\\\p{N}{1,3}", "\\\\p{N}"),
    ) as Json;

  /** Qwen3.5's: letters with their marks, and single digits. */
  const marked = (json: Json) =>
    JSON.parse(
      JSON.stringify(json)
        .replaceAll("\\\\p{L}+", "[\\\\p{L}\\\\p{M}]+")
        .replaceAll("[^\\\\s\\\\p{L}", "[^\\\\s\\\\p{L}\\\\p{M}")
        .replaceAll("\\\\p{N}{1,3}", "\\\\p{N}"),
    ) as Json;

  test("depends on the pattern, and on whether a word that is a token is that token", () => {
    for (const [json, name] of [
      [llama, "llama-bpe"],
      [withModel(llama, { ignore_merges: false }), "dbrx"],
      [withModel(tekken(phi), { ignore_merges: true }), "tekken"],
      // Merges make every token: the same either way.
      [withModel(tekken(phi), { ignore_merges: false }), "tekken"],
      [withModel(phi, { ignore_merges: true }), "gpt-4o"],
      [withModel(marked(llama), { ignore_merges: false }), "qwen35"],
      [{ ...llama, pre_tokenizer: { ...bytes, use_regex: true }, model: { ...llama.model, ignore_merges: false } }, "gpt-2"],
    ] as const)
      expect(exported(json)("ggml.pre")).toBe(name);
  });

  test("what llama.cpp would do otherwise is refused", () => {
    const withoutMerges = withModel(phi, { ignore_merges: true, merges: phi.model.merges.slice(1) });
    expect(() => exported(withoutMerges)).toThrow("pre_tokenizer with ignore_merges");
    expect(() => exported({ ...llama, normalizer: { type: "Lowercase" } })).toThrow('normalise texts by "Lowercase"');
    const thrice = { ...llama, pre_tokenizer: { type: "Sequence", pretokenizers: [split, split, bytes] } };
    expect(() => exported(thrice)).toThrow("no name that is known here");
    expect(exported({ ...llama, normalizer: { type: "NFC" } })("ggml.pre")).toBe("llama-bpe");
  });
});

describe("what is the same in llama.cpp", () => {
  const names = Object.keys(golden);
  test("the fixtures were checked", () => {
    expect(names.toSorted()).toEqual(
      ["gemma2", "gemma3", "internlm2", "internlm3", "llama3", "mistral", "phi3", "phi4", "qwen", "smollm"].toSorted(),
    );
  });

  test.each(names)("%s: all texts, but for those that it cannot split alike", (name) => {
    const { texts, different } = golden[name]!;
    expect(texts).toBeGreaterThan(4000);
    const kinds: Readonly<Record<string, (text: string) => boolean>> = {
      // A byte that a text spells is a token to Transformers.
      mistral: (text) => text.includes("<0x41>"),
      phi3: (text) => text.includes("<0x41>"),
      // The mark of a space, in a text with spaces.
      gemma2: (text) => text.includes("\u2581"),
      gemma3: (text) => text.includes("\u2581"),
      // llama.cpp does not normalise.
      qwen: (text) => text.normalize("NFC") !== text,
      // Tokens that take white space away; cases of letters beyond ASCII.
      phi4: (text) => /\|>\s/.test(text) || /[^\0-\x7f]/.test(text),
    };
    const tokenizer = loadTokenizer(join(folder, name));
    for (const [text, ids] of Object.entries(different)) {
      expect([text, kinds[name]?.(text)]).toEqual([text, true]);
      expect([...tokenizer.encode(text)]).not.toEqual([...ids]);
      if (name === "qwen") expect(ids).toEqual(spelled(text));
    }
    expect(Object.keys(different).length / texts).toBeLessThan(0.05);
  });

  /** Qwen's tokens without its normalizer. */
  const plain = createTokenizer({ ...read("qwen"), normalizer: null });
  const spelled = (text: string) => [...plain.encode(text)];
});

describe("chat templates and ends of turns", () => {
  const qwen = read("qwen");
  const ids = Object.fromEntries(
    qwen.added_tokens.map((token) => [(token as { content: string }).content, (token as { id: number }).id]),
  );
  const chat = "{% for m in messages %}{{ m.role + m.content }}<|im_end|>{% endfor %}";

  test("the token behind an answer is the end of a turn, others that end a text are known too", () => {
    const [text, turn, think] = [ids["<|endoftext|>"]!, ids["<|im_end|>"]!, ids["</think>"]!];
    const get = exported(qwen, { default: chat }, [text, think, turn], { eos_token: "<|endoftext|>" });
    expect(["eos", "eot", "eom"].map((name) => get(`ggml.${name}_token_id`))).toEqual([text, turn, think]);
    const same = exported(qwen, { default: chat }, [turn], { eos_token: "<|im_end|>" });
    expect(["eos", "eot", "eom"].map((name) => same(`ggml.${name}_token_id`))).toEqual([turn, turn, undefined]);
  });

  test("a model without one has that which it was trained with here", () => {
    const get = exported(qwen, {}, [], { eos_token: "<|im_end|>" });
    expect(get("chat_template")).toContain("'<|im_start|>' + message.role");
    const mistral = exported(read("mistral"), {}, [], { eos_token: "</s>" });
    expect(mistral("chat_template")).toContain("message.role + ': ' + message.content");
  });

  test("each by its name", () => {
    const get = exported(qwen, { default: chat, tool_use: "{{ tools }}" });
    expect(get("chat_template")).toBe(chat);
    expect(get("chat_templates")).toEqual(["tool_use"]);
    expect(get("chat_template.tool_use")).toContain("{{ tools }}");
  });

  test("one that takes tools that are not there for some is told", () => {
    const asks = `{% if tools is not none %}TOOLS{% endif %}${chat}`;
    expect(exported(qwen, { default: asks })("chat_template")).toBe(`{% set tools = tools or none %}${asks}`);
    expect(exported(qwen, { default: `{% if tools %}TOOLS{% endif %}${chat}` })("chat_template")).not.toContain("set tools");
  });
});
