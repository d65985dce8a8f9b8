import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { isRecord, show } from "../base/json.ts";
import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "../models/config.ts";
import { VOCABULARIES } from "./folder/vocabulary.ts";
import { tokenizerMetadata } from "./tokenizer.ts";
import type { GgufValue } from "./write.ts";

/** The tokenizers of text encoders as GGUF metadata. */

interface Vocabulary {
  readonly tokenizer: Tokenizer;
  readonly config: ModelConfig;
}

/** The part of `tokenizer.json` that makes tokens of words. */
type Model = Readonly<Record<string, unknown>>;

/**
 * A WordPiece tokenizer (BERT), Unigram as SentencePiece makes it (XLM-RoBERTa), or byte-level BPE (RoBERTa), and the tokens that stand around texts.
 * @throws {UserError} another kind of tokenizer, or one that llama.cpp would read otherwise
 */
export function encoderVocabulary(vocabulary: Vocabulary): Map<string, GgufValue> {
  const { tokenizer } = vocabulary;
  const { model } = tokenizer.json;
  const kind = isRecord(model) ? model["type"] : undefined;
  const make = KINDS[String(kind)];
  if (!isRecord(model) || !make)
    throw new UserError(
      `${tokenizer.folder}: of text encoders, those with a WordPiece, Unigram or byte-level BPE tokenizer can be exported to GGUF; export onnx writes the model`,
    );
  const id = (key: string, token: string): [string, GgufValue][] => {
    const value = tokenizer.idOf(tokenizer.namedTokens[`${token}_token`] ?? "");
    return value === null ? [] : [[`tokenizer.ggml.${key}_token_id`, { u32: value }]];
  };
  return new Map<string, GgufValue>([
    ...make(vocabulary, model),
    ...id("bos", "cls"),
    ...id("eos", "sep"),
    ...id("unknown", "unk"),
    ...id("seperator", "sep"),
    ...id("padding", "pad"),
    ...id("cls", "cls"),
    ...id("mask", "mask"),
  ]);
}

const KINDS: Readonly<Record<string, (vocabulary: Vocabulary, model: Model) => readonly [string, GgufValue][]>> = {
  WordPiece: wordPiece,
  Unigram: unigram,
  BPE: byteLevel,
};

/** The tokens that llama.cpp puts around a text where the file does not leave it to a kind's own habit. */
const SURROUNDED: readonly [string, GgufValue][] = [
  ["tokenizer.ggml.add_bos_token", { bool: true }],
  ["tokenizer.ggml.add_eos_token", { bool: true }],
];

/** The mark that llama.cpp has in front of tokens that begin a word, in the place of the one behind which others stand. */
const BEGIN = "\u2581";

/** llama.cpp's types of tokens. */
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED] = [1, 2, 3, 4, 5];

/** @throws {UserError} WordPiece otherwise than BERT has it */
function wordPiece({ tokenizer, config }: Vocabulary, model: Model): [string, GgufValue][] {
  const { json, folder, specialTokens } = tokenizer;
  const { normalizer } = json;
  if (!isRecord(model["vocab"]) || model["continuing_subword_prefix"] !== "##")
    throw new UserError(
      `${folder}: of WordPiece tokenizers, only those whose tokens within a word begin with ## can be exported to GGUF`,
    );
  // It knows one way of preparing a text: small letters without accents, blanks around Chinese characters.
  const {
    lowercase,
    strip_accents: strip,
    clean_text: cleans,
    handle_chinese_chars: chinese,
  } = isRecord(normalizer) ? normalizer : {};
  if (lowercase !== true || strip === false || cleans === false || chinese === false)
    throw new UserError(
      `${folder}: llama.cpp puts the texts of a BERT into small letters and takes accents away, which this tokenizer does not; export onnx writes the model`,
    );
  const tokens = Array.from({ length: config.vocabSize }, (_, id) => `[unused-${id}]`);
  const types = Array.from({ length: config.vocabSize }, () => UNUSED);
  const special = new Set(specialTokens.values());
  for (const [token, given] of Object.entries(model["vocab"] as Record<string, number>)) {
    const id = Number(given);
    if (id >= config.vocabSize) continue;
    const isMark = special.has(id) || (token.startsWith("[") && token.endsWith("]"));
    tokens[id] = isMark ? token : token.startsWith("##") ? token.slice(2) : BEGIN + token;
    types[id] = special.has(id) ? CONTROL : NORMAL;
  }
  const places = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    const other = places.get(token);
    if (other !== undefined)
      throw new UserError(
        `${folder}: llama.cpp could not tell the tokens ${other} and ${id} apart, which are both ${show(token)} there`,
      );
    places.set(token, id);
  }
  return [
    ["tokenizer.ggml.model", { text: VOCABULARIES.wordPiece }],
    ["tokenizer.ggml.pre", { text: "default" }],
    ["tokenizer.ggml.tokens", { texts: tokens }],
    ["tokenizer.ggml.token_type", { i32s: types }],
  ];
}

/** A list of parts, or one part by itself. */
const listed = (value: unknown, key: string): Model[] =>
  (isRecord(value) && Array.isArray(value[key]) ? value[key] : [value]).filter(isRecord);

/** llama.cpp's scores of tokens that no text has. */
const NO_SCORE = -10_000;

/** @throws {UserError} texts are changed or cut otherwise than SentencePiece does it */
function unigram({ tokenizer, config }: Vocabulary, model: Model): [string, GgufValue][] {
  const { json, folder, addedTokens, specialTokens } = tokenizer;
  const pieces = model["vocab"];
  const normalizers = listed(json["normalizer"], "normalizers");
  const charsmap = normalizers.find((one) => one["type"] === "Precompiled")?.["precompiled_charsmap"];
  // Runs of spaces become one, and none is left at the ends.
  const isCollapsing = (one: Model) => one["type"] === "Replace" && one["content"] === " ";
  const words = listed(json["pre_tokenizer"], "pretokenizers");
  const metaspace = words.find((one) => one["type"] === "Metaspace");
  const isKnown =
    Array.isArray(pieces) &&
    model["byte_fallback"] !== true &&
    typeof charsmap === "string" &&
    normalizers.every((one) => one["type"] === "Precompiled" || isCollapsing(one)) &&
    words.every((one) => one === metaspace || one["type"] === "WhitespaceSplit") &&
    metaspace !== undefined;
  if (!isKnown)
    throw new UserError(
      `${folder}: llama.cpp has no way of reading texts as this Unigram tokenizer does, whose normalizer or pre_tokenizer is not SentencePiece's; export onnx writes the model`,
    );
  const { vocabSize } = config;
  const tokens = Array.from({ length: vocabSize }, (_, id) => `[PAD${id}]`);
  const types = Array.from({ length: vocabSize }, () => UNUSED);
  const scores = Array.from({ length: vocabSize }, () => NO_SCORE);
  for (const [id, piece] of (pieces as readonly (readonly [string, number])[]).entries()) {
    if (id >= vocabSize) break;
    [tokens[id], scores[id]] = piece;
    types[id] = id === model["unk_id"] ? UNKNOWN : NORMAL;
  }
  for (const [token, id] of addedTokens) {
    if (id >= vocabSize || id === model["unk_id"]) continue;
    tokens[id] = token;
    types[id] = specialTokens.has(token) ? CONTROL : USER_DEFINED;
    if (specialTokens.has(token)) scores[id] = 0;
  }
  const prefix = metaspace["prepend_scheme"] !== "never" && metaspace["add_prefix_space"] !== false;
  return [
    ["tokenizer.ggml.model", { text: "t5" }],
    ["tokenizer.ggml.pre", { text: "default" }],
    ["tokenizer.ggml.tokens", { texts: tokens }],
    ["tokenizer.ggml.scores", { f32s: scores }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    ["tokenizer.ggml.add_space_prefix", { bool: prefix }],
    ["tokenizer.ggml.remove_extra_whitespaces", { bool: true }],
    ["tokenizer.ggml.precompiled_charsmap", { bytes: Buffer.from(charsmap, "base64") }],
    ...SURROUNDED,
  ];
}

/** @throws {UserError} words that are split otherwise than GPT-2's */
function byteLevel({ tokenizer, config }: Vocabulary): [string, GgufValue][] {
  const metadata = tokenizerMetadata(tokenizer, config);
  const pre = metadata.get("tokenizer.ggml.pre");
  if (!pre || !("text" in pre) || pre.text !== "gpt-2")
    throw new UserError(
      `${tokenizer.folder}: llama.cpp has byte-level BPE of text encoders with GPT-2's way of splitting words alone; export onnx writes the model`,
    );
  return [
    ...metadata.set("tokenizer.ggml.pre", { text: "roberta-bpe" }),
    ...SURROUNDED,
    ["tokenizer.ggml.add_sep_token", { bool: true }],
  ];
}
