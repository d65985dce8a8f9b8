import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "../models/config.ts";
import { isRecord, show } from "../base/json.ts";
import { endOfTurn } from "../data/chat/end-of-turn.ts";
import { chatTemplates } from "./chat.ts";
import { DIGITS, GPT2, type PreTokenizer, SPLITS } from "./folder/pre-tokenizers.ts";
import { PHI3_TOKENS, TOKEN_TYPE, VOCABULARIES } from "./folder/vocabulary.ts";
import type { GgufValue } from "./write.ts";

/** A BPE tokenizer as `tokenizer.json` has it. */
interface Bpe {
  readonly path: string;
  readonly json: Readonly<Record<string, unknown>>;
  readonly vocab: Readonly<Record<string, unknown>>;
  /** Pairs of tokens, the first to be joined first. */
  readonly merges: readonly (readonly [string, string])[];
  readonly unknown: string | null;
  /** True if what is no token is written as bytes, each of which is a token. */
  readonly bytes: boolean;
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
    bytes: model["byte_fallback"] === true,
  };
  const { tokens, types } = tokensOf(bpe, config.vocabSize);
  const templates = chatTemplates(tokenizer);
  const named = [...templates.keys()].filter((name) => name !== "default");
  const kind = bpe.bytes
    ? sentencePiece(bpe, tokens, types, tokenizer.chatTemplates.has("default"))
    : byteLevel(bpe, tokens, types);
  const eos = tokenizer.eosId ?? config.eosTokenIds[0];
  const others = config.eosTokenIds.filter((id) => id !== eos);
  const eot = endOfTurn(tokenizer)?.id ?? others[0];
  const id = (key: string, value: number | null | undefined): [string, GgufValue][] =>
    value === null || value === undefined ? [] : [[`tokenizer.ggml.${key}`, { u32: value }]];
  return new Map<string, GgufValue>([
    ...kind,
    ...id("bos_token_id", tokenizer.bosId ?? config.bosTokenId),
    ...id("eos_token_id", eos),
    ...id("eot_token_id", eot),
    // Generation ends with this one, too.
    ...id(
      "eom_token_id",
      others.find((other) => other !== eot),
    ),
    ...id("padding_token_id", tokenizer.padId ?? config.padTokenId),
    ["tokenizer.ggml.add_bos_token", { bool: tokenizer.prefix.length > 0 }],
    ["tokenizer.ggml.add_eos_token", { bool: false }],
    ...(named.length === 0 ? [] : [["tokenizer.chat_templates", { texts: named }] as [string, GgufValue]]),
    ...[...templates].map(([name, text]): [string, GgufValue] => [
      name === "default" ? "tokenizer.chat_template" : `tokenizer.chat_template.${name}`,
      { text },
    ]),
  ]);
}

/**
 * Tells whether there are tokens that take the white space behind them, and whether llama.cpp knows of it: of Phi-3's, but not of
 * others' (Phi-4-mini).
 */
export function spaceTaking({ json, idOf }: Tokenizer): "none" | "known" | "unknown" {
  if (!addedTokens(json).some((token) => token["rstrip"] === true)) return "none";
  return PHI3_TOKENS.every((token) => idOf(token) !== null) ? "known" : "unknown";
}

function addedTokens(json: Bpe["json"]): Record<string, unknown>[] {
  const added = json["added_tokens"];
  return Array.isArray(added) ? added.filter(isRecord) : [];
}

/** All tokens by id, as far as the model has embeddings, and their types. */
function tokensOf({ json, vocab, unknown, bytes }: Bpe, vocabSize: number): { tokens: string[]; types: number[] } {
  const tokens = Array.from({ length: vocabSize }, (_, i) => `[PAD${i}]`);
  const types = Array.from({ length: vocabSize }, (): number => TOKEN_TYPE.unused);
  const place = (token: string, id: number, type: number) => {
    if (id >= vocabSize) return;
    tokens[id] = token;
    types[id] = token === unknown ? TOKEN_TYPE.unknown : bytes && BYTE_TOKEN.test(token) ? TOKEN_TYPE.byte : type;
  };
  for (const [token, id] of Object.entries(vocab)) place(token, Number(id), TOKEN_TYPE.normal);
  for (const added of addedTokens(json)) {
    const content = String(added["content"]);
    place(
      content,
      Number(added["id"]),
      added["special"] === true || MARKER.test(content) ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined,
    );
  }
  return { tokens, types };
}

/** A byte that is no part of any other token. */
const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/;

/** Added tokens that are no text, though their tokenizer does not call them special: llama.cpp's converter looks for the same. */
const MARKER = /^(?:<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\])$/s;

function byteLevel(bpe: Bpe, tokens: readonly string[], types: readonly number[]): [string, GgufValue][] {
  return [
    ["tokenizer.ggml.model", { text: VOCABULARIES.byteLevel }],
    ["tokenizer.ggml.pre", { text: preTokenizer(bpe) }],
    ["tokenizer.ggml.tokens", { texts: tokens }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    // A pair is written with a space, which no byte-level token contains.
    ["tokenizer.ggml.merges", { texts: bpe.merges.map((pair) => pair.join(" ")) }],
  ];
}

/** Scores of tokens that are never made by joining others, as llama.cpp's converter has them. */
const FIXED_SCORES: Readonly<Record<number, number>> = {
  [TOKEN_TYPE.unknown]: 0,
  [TOKEN_TYPE.byte]: 0,
  [TOKEN_TYPE.control]: -1000,
  [TOKEN_TYPE.userDefined]: -1000,
  [TOKEN_TYPE.unused]: -10000,
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
  const types = given.map((type, id) => (type === TOKEN_TYPE.userDefined && made(tokens[id]!) ? TOKEN_TYPE.normal : type));
  const scores = types.map((type, id) => FIXED_SCORES[type] ?? -(rank.get(tokens[id]!) ?? merges.length));
  const texts = tokens.map((token, id) => (types[id] === TOKEN_TYPE.userDefined ? token.replaceAll(SPACE, " ") : token));
  const unknownId = unknown === null ? undefined : Number(vocab[unknown]);
  return [
    ["tokenizer.ggml.model", { text: VOCABULARIES.scored }],
    ["tokenizer.ggml.pre", { text: "default" }],
    ["tokenizer.ggml.tokens", { texts }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    ["tokenizer.ggml.scores", { f32s: scores }],
    ["tokenizer.ggml.add_space_prefix", { bool: spacePrefix(bpe, chats) }],
    ...(unknownId === undefined ? [] : [["tokenizer.ggml.unknown_token_id", { u32: unknownId }] as [string, GgufValue]]),
  ];
}

/** A list of parts, or one part by itself. */
function listed(value: unknown, key: string): Record<string, unknown>[] {
  return (isRecord(value) && Array.isArray(value[key]) ? value[key] : [value]).filter(isRecord);
}

/** The character that stands for a space in SentencePiece's tokens. */
const SPACE = "\u2581";

/**
 * Tells whether a text gets a space in front. llama.cpp puts one behind every special token too, as older tokenizers do; newer ones
 * ("first") put one only where a text begins. With a chat template a text begins with a special token: no space then.
 * @throws {UserError} spaces are not what SentencePiece makes of them
 */
function spacePrefix({ json, path }: Bpe, chats: boolean): boolean {
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

/** @throws {UserError} words are split, or texts changed before, in a way that llama.cpp has no name for */
function preTokenizer(bpe: Bpe): string {
  const { json, path } = bpe;
  // What NFC changes llama.cpp takes as it is written; most texts are NFC already.
  const other = listed(json["normalizer"], "normalizers").find((one) => one["type"] !== "NFC");
  if (other) {
    throw new UserError(`${path}: llama.cpp does not normalise texts by ${show(other["type"])}, which this tokenizer does`);
  }
  const [first, second, ...others] = listed(json["pre_tokenizer"], "pretokenizers");
  const isByteLevel = (part: Record<string, unknown> | undefined, words: boolean) =>
    part?.["type"] === "ByteLevel" && part["add_prefix_space"] !== true && (part["use_regex"] !== false) === words;
  const found = ((): PreTokenizer => {
    if (!first || others.length > 0) return {};
    if (!second && isByteLevel(first, true)) return { merged: GPT2 };
    if (first["type"] === "Digits" && first["individual_digits"] === true && isByteLevel(second, true)) return { merged: DIGITS };
    const splits = first["type"] === "Split" && first["behavior"] === "Isolated" && first["invert"] !== true;
    const pattern = splits && isRecord(first["pattern"]) ? first["pattern"]["Regex"] : undefined;
    return (typeof pattern === "string" && isByteLevel(second, false) && SPLITS.get(pattern)) || {};
  })();
  const whole = isRecord(json["model"]) && json["model"]["ignore_merges"] === true;
  const name = whole ? found.whole : found.merged;
  if (name !== undefined) return name;
  const same = whole ? found.merged : found.whole;
  if (same !== undefined && mergesMakeAll(bpe)) return same;
  throw new UserError(
    `${path}: llama.cpp has no name that is known here for this pre_tokenizer${whole ? " with ignore_merges" : ""}; convert this model with llama.cpp`,
  );
}

/** Tells whether merges make every token of its characters, so that `ignore_merges` makes no difference. */
function mergesMakeAll({ vocab, merges, json }: Bpe): boolean {
  const ranks = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
  const added = new Set(addedTokens(json).map((token) => token["content"]));
  return Object.keys(vocab).every((token) => {
    const parts = added.has(token) ? [token] : [...token];
    while (parts.length > 1) {
      let best = -1;
      let bestRank = Infinity;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank !== undefined && rank < bestRank) [best, bestRank] = [i, rank];
      }
      if (best < 0) return false;
      parts.splice(best, 2, parts[best]! + parts[best + 1]!);
    }
    return true;
  });
}
