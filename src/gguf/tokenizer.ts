import { join } from "node:path";
import type { Tokenizer } from "../data/tokenizer.ts";
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../hf/config.ts";
import { isRecord, readJsonObject } from "../hf/files.ts";
import type { GgufValue } from "./write.ts";

/** llama.cpp's token types. */
const NORMAL = 1;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;

/** Names that llama.cpp has for ways of splitting a text into words, by the regular expression of `tokenizer.json`. */
const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const SPLITS: ReadonlyMap<string, string> = new Map([
  [`${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}${REST}`, "llama-bpe"],
  [`${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${REST}`, "qwen2"],
]);

/**
 * A byte-level BPE tokenizer and its chat template as GGUF metadata.
 * @throws {UserError} another kind of tokenizer, or a way of splitting words that has no name in llama.cpp
 */
export function tokenizerMetadata(tokenizer: Tokenizer, config: ModelConfig): Map<string, GgufValue> {
  const path = join(tokenizer.folder, "tokenizer.json");
  const json = readJsonObject(path);
  const { model } = json;
  if (
    !isRecord(model) ||
    model["type"] !== "BPE" ||
    model["byte_fallback"] === true ||
    !isRecord(model["vocab"]) ||
    !Array.isArray(model["merges"])
  ) {
    throw new UserError(`${path}: only byte-level BPE tokenizers can be exported to GGUF; convert this model with llama.cpp`);
  }
  const pre = preTokenizer(json["pre_tokenizer"], path);
  const tokens: (string | undefined)[] = Array.from({ length: config.vocabSize });
  const types = Array.from({ length: config.vocabSize }, () => UNUSED);
  const place = (token: string, id: number, type: number) => {
    if (id >= config.vocabSize) return;
    tokens[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(model["vocab"])) place(token, Number(id), NORMAL);
  for (const added of Array.isArray(json["added_tokens"]) ? json["added_tokens"] : []) {
    if (!isRecord(added)) continue;
    place(String(added["content"]), Number(added["id"]), added["special"] === true ? CONTROL : USER_DEFINED);
  }
  const eos = tokenizer.eosId ?? config.eosTokenIds[0];
  const other = config.eosTokenIds.find((id) => id !== eos);
  const id = (key: string, value: number | null | undefined): [string, GgufValue][] =>
    value === null || value === undefined ? [] : [[`tokenizer.ggml.${key}`, { u32: value }]];
  const template = tokenizer.chatTemplates.get("default");
  return new Map<string, GgufValue>([
    ["tokenizer.ggml.model", { text: "gpt2" }],
    ["tokenizer.ggml.pre", { text: pre }],
    ["tokenizer.ggml.tokens", { texts: tokens.map((token, i) => token ?? `[PAD${i}]`) }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    // A pair is written with a space, which no byte-level token contains.
    [
      "tokenizer.ggml.merges",
      { texts: model["merges"].map((merge) => (Array.isArray(merge) ? merge.join(" ") : String(merge))) },
    ],
    ...id("bos_token_id", tokenizer.bosId ?? config.bosTokenId),
    ...id("eos_token_id", eos),
    ...id("eot_token_id", other),
    ...id("padding_token_id", tokenizer.padId ?? config.padTokenId),
    ["tokenizer.ggml.add_bos_token", { bool: tokenizer.prefix.length > 0 }],
    ["tokenizer.ggml.add_eos_token", { bool: false }],
    ...(template === undefined ? [] : [["tokenizer.chat_template", { text: template }] as [string, GgufValue]]),
  ]);
}

function preTokenizer(value: unknown, path: string): string {
  const parts = isRecord(value) && Array.isArray(value["pretokenizers"]) ? value["pretokenizers"] : [value];
  const [first, second, ...others] = parts.filter(isRecord);
  const isByteLevel = (part: Record<string, unknown> | undefined, words: boolean) =>
    part?.["type"] === "ByteLevel" && part["add_prefix_space"] !== true && (part["use_regex"] !== false) === words;
  if (first && others.length === 0) {
    if (!second && isByteLevel(first, true)) return "gpt-2";
    if (first["type"] === "Digits" && first["individual_digits"] === true && isByteLevel(second, true)) return "smollm";
    const pattern = first["type"] === "Split" && isRecord(first["pattern"]) ? first["pattern"]["Regex"] : undefined;
    const name = typeof pattern === "string" ? SPLITS.get(pattern) : undefined;
    if (name !== undefined && isByteLevel(second, false)) return name;
  }
  throw new UserError(
    `${path}: llama.cpp has no name that is known here for this pre_tokenizer; convert this model with llama.cpp`,
  );
}
