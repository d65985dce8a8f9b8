import type { Tokenizer } from "../data/tokenizer.ts";
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../hf/config.ts";
import { isRecord } from "../hf/files.ts";
import type { GgufValue } from "./write.ts";

/** llama.cpp's token types. */
const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

/** Names that llama.cpp has for ways of splitting a text into words, by the regular expression of `tokenizer.json`. */
const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
const LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const SPLITS: ReadonlyMap<string, string> = new Map([
  [`${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}${REST}`, "llama-bpe"],
  [`${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}${REST}`, "qwen2"],
  [
    `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${CONTRACTIONS}?|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${CONTRACTIONS}?|\\p{N}{1,3}` +
      REST.replace("]*", "/]*"),
    "gpt-4o",
  ],
]);

/** A BPE tokenizer as `tokenizer.json` has it. */
interface Bpe {
  readonly path: string;
  readonly json: Readonly<Record<string, unknown>>;
  readonly vocab: Readonly<Record<string, unknown>>;
  /** Pairs of tokens, the first to be joined first. */
  readonly merges: readonly (readonly [string, string])[];
  readonly unknown: string | null;
}

/**
 * A tokenizer and its chat template as GGUF metadata: byte-level BPE, or BPE on characters with byte fallback as SentencePiece
 * makes it (Llama 2, Mistral, Gemma, Phi-3).
 * @throws {UserError} another kind of tokenizer, or a way of splitting words that has no name in llama.cpp
 */
export function tokenizerMetadata(tokenizer: Tokenizer, config: ModelConfig): Map<string, GgufValue> {
  const { folder: path, json } = tokenizer;
  const { model } = json;
  if (!isRecord(model) || model["type"] !== "BPE" || !isRecord(model["vocab"]) || !Array.isArray(model["merges"])) {
    throw new UserError(`${path}: only BPE tokenizers can be exported to GGUF; convert this model with llama.cpp`);
  }
  const bpe: Bpe = {
    path,
    json,
    vocab: model["vocab"],
    merges: model["merges"].map((merge) => (Array.isArray(merge) ? merge : String(merge).split(" ")) as [string, string]),
    unknown: typeof model["unk_token"] === "string" ? model["unk_token"] : null,
  };
  const { tokens, types } = tokensOf(bpe, config.vocabSize);
  const template = tokenizer.chatTemplates.get("default");
  const kind =
    model["byte_fallback"] === true ? sentencePiece(bpe, tokens, types, template !== undefined) : byteLevel(bpe, tokens, types);
  const eos = tokenizer.eosId ?? config.eosTokenIds[0];
  const other = config.eosTokenIds.find((id) => id !== eos);
  const id = (key: string, value: number | null | undefined): [string, GgufValue][] =>
    value === null || value === undefined ? [] : [[`tokenizer.ggml.${key}`, { u32: value }]];
  return new Map<string, GgufValue>([
    ...kind,
    ...id("bos_token_id", tokenizer.bosId ?? config.bosTokenId),
    ...id("eos_token_id", eos),
    ...id("eot_token_id", other),
    ...id("padding_token_id", tokenizer.padId ?? config.padTokenId),
    ["tokenizer.ggml.add_bos_token", { bool: tokenizer.prefix.length > 0 }],
    ["tokenizer.ggml.add_eos_token", { bool: false }],
    ...(template === undefined ? [] : [["tokenizer.chat_template", { text: template }] as [string, GgufValue]]),
  ]);
}

/** All tokens by id, as far as the model has embeddings, and their types. */
function tokensOf({ json, vocab, unknown }: Bpe, vocabSize: number): { tokens: string[]; types: number[] } {
  const tokens = Array.from({ length: vocabSize }, (_, i) => `[PAD${i}]`);
  const types = Array.from({ length: vocabSize }, () => UNUSED);
  const place = (token: string, id: number, type: number) => {
    if (id >= vocabSize) return;
    tokens[id] = token;
    types[id] = token === unknown ? UNKNOWN : BYTE_TOKEN.test(token) ? BYTE : type;
  };
  for (const [token, id] of Object.entries(vocab)) place(token, Number(id), NORMAL);
  for (const added of Array.isArray(json["added_tokens"]) ? json["added_tokens"] : []) {
    if (!isRecord(added)) continue;
    const content = String(added["content"]);
    place(content, Number(added["id"]), added["special"] === true || MARKER.test(content) ? CONTROL : USER_DEFINED);
  }
  return { tokens, types };
}

/** A byte that is no part of any other token. */
const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/;

/** Added tokens that are no text, though their tokenizer does not call them special: llama.cpp's converter looks for the same. */
const MARKER = /^(?:<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\])$/s;

function byteLevel({ json, path, merges }: Bpe, tokens: readonly string[], types: readonly number[]): [string, GgufValue][] {
  return [
    ["tokenizer.ggml.model", { text: "gpt2" }],
    ["tokenizer.ggml.pre", { text: preTokenizer(json["pre_tokenizer"], path) }],
    ["tokenizer.ggml.tokens", { texts: tokens }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    // A pair is written with a space, which no byte-level token contains.
    ["tokenizer.ggml.merges", { texts: merges.map((pair) => pair.join(" ")) }],
  ];
}

/** Scores of tokens that are never made by joining others, as llama.cpp's converter has them. */
const FIXED_SCORES: Readonly<Record<number, number>> = {
  [UNKNOWN]: 0,
  [BYTE]: 0,
  [CONTROL]: -1000,
  [USER_DEFINED]: -1000,
  [UNUSED]: -10000,
};

/**
 * llama.cpp joins, of all neighbours that make a token, those with the highest score first. With a token's score falling in the
 * order of the merges that make it, that is the order of the merges.
 *
 * Tokens that the tokenizer's author added are cut out of a text before, and written out as they stand. Runs of spaces (Gemma) would
 * not be found as they stand, for a space is another character in the vocabulary; they become tokens like others where merges
 * make them, which splits every text as Transformers does, else they are written with spaces, as by llama.cpp's converter.
 */
function sentencePiece(bpe: Bpe, tokens: readonly string[], given: readonly number[], chats: boolean): [string, GgufValue][] {
  const { vocab, merges, unknown } = bpe;
  const rank = new Map<string, number>();
  merges.forEach((pair, i) => {
    const token = pair.join("");
    if (!rank.has(token)) rank.set(token, i);
  });
  const made = (token: string) => token.includes(SPACE) && rank.has(token);
  const types = given.map((type, id) => (type === USER_DEFINED && made(tokens[id]!) ? NORMAL : type));
  const scores = types.map((type, id) => FIXED_SCORES[type] ?? -(rank.get(tokens[id]!) ?? merges.length));
  const texts = tokens.map((token, id) => (types[id] === USER_DEFINED ? token.replaceAll(SPACE, " ") : token));
  const unknownId = unknown === null ? undefined : Number(vocab[unknown]);
  return [
    ["tokenizer.ggml.model", { text: "llama" }],
    ["tokenizer.ggml.pre", { text: "default" }],
    ["tokenizer.ggml.tokens", { texts }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    ["tokenizer.ggml.scores", { f32s: scores }],
    ["tokenizer.ggml.add_space_prefix", { bool: spacePrefix(bpe, chats) }],
    ...(unknownId === undefined ? [] : [["tokenizer.ggml.unknown_token_id", { u32: unknownId }] as [string, GgufValue]]),
  ];
}

/** What a space is in SentencePiece's tokens. */
const SPACE = "\u2581";

/**
 * Whether a text gets a space in front. llama.cpp puts one behind every special token too, as older tokenizers do; newer ones
 * ("first") put one only where a text begins. With a chat template a text begins with a special token: no space then.
 * @throws {UserError} spaces are not what SentencePiece makes of them
 */
function spacePrefix({ json, path }: Bpe, chats: boolean): boolean {
  const listed = (value: unknown, key: string) =>
    (isRecord(value) && Array.isArray(value[key]) ? value[key] : [value]).filter(isRecord);
  const isSpace = (pattern: unknown) => isRecord(pattern) && pattern["String"] === " ";
  const normalizers = listed(json["normalizer"], "normalizers");
  const words = listed(json["pre_tokenizer"], "pretokenizers");
  const replaces = normalizers.filter((one) => one["type"] === "Replace" && one["content"] === SPACE && isSpace(one["pattern"]));
  const prepends = normalizers.filter((one) => one["type"] === "Prepend" && one["prepend"] === SPACE);
  const metaspaces = words.filter((one) => one["type"] === "Metaspace");
  // Gemma's tokenizers split at spaces, of which there are none after they were replaced.
  const idle = words.filter((one) => replaces.length > 0 && one["type"] === "Split" && isSpace(one["pattern"]));
  const known = normalizers.length === replaces.length + prepends.length && words.length === metaspaces.length + idle.length;
  if (!known || replaces.length + metaspaces.length !== 1) {
    throw new UserError(
      `${path}: llama.cpp has no way of splitting texts as this tokenizer does; convert this model with llama.cpp`,
    );
  }
  const [metaspace] = metaspaces;
  if (!metaspace) return prepends.length > 0;
  const scheme = metaspace["prepend_scheme"] ?? (metaspace["add_prefix_space"] === false ? "never" : "always");
  return scheme === "always" || (scheme === "first" && !chats);
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
