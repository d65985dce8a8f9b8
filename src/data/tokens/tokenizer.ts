import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { explanationOf, UserError } from "../../base/errors.ts";
import { readText } from "../../base/files/files.ts";
import { isRecord, readJsonObject, show } from "../../base/json.ts";
import { SENTENCEPIECE_FILE, tokenizerFromSentencePiece } from "./sentencepiece-folder.ts";
import { namedExtraTokens, withConfiguredTokens } from "./added-tokens.ts";
import { additionalTemplates, CHAT_TEMPLATE_FILE } from "../../hf/weights/template-files.ts";
import type { SpecialText, TemplateArgs } from "./rendering.ts";
import { createEscape, type Escape } from "./escape.ts";
import { useExactParts } from "./exact/parts.ts";
import { createSurroundings, type Surrounded } from "./surroundings.ts";
import { cacheWords, type FastEncode } from "./word-cache.ts";

/** A model's tokenizer: `tokenizer.json`, or `tokenizer.model`, with what `tokenizer_config.json` says about it. */
export interface Tokenizer {
  readonly folder: string;
  /** The contents of `tokenizer.json`, or what would be its contents. */
  readonly json: Readonly<Record<string, unknown>>;
  /** SHA-256 of everything that decides the tokens and the templates. */
  readonly fingerprint: string;
  /** One more than the largest token id. */
  readonly size: number;
  /**
   * Token ids of a text; special tokens written in it are recognised, none are added.
   * @param plain places (UTF-16 units, ascending) where a special token's text is text like any other
   */
  encode(text: string, plain?: readonly number[]): Int32Array;
  /** As `encode`; also the first token at or after each `boundary` (see `Encoded`). */
  encodeWithBoundaries(text: string, boundaries: readonly number[], plain?: readonly number[]): Encoded;
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecial?: boolean }): string;
  /** The id of a token by its exact text, or null. */
  idOf(token: string): number | null;
  /** Special tokens (ends of turns, ends of text, ...) by their text. */
  readonly specialTokens: ReadonlyMap<string, number>;
  /** These and the other tokens that stand beside the vocabulary, by their text. */
  readonly addedTokens: ReadonlyMap<string, number>;
  /** The tokens that the post-processor puts in front of a text (`<s>` for Llama) and behind it. */
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
  /** A text's tokens, or those of two, with all that the post-processor puts around and between them, and the type of each token. */
  surround(first: Int32Array, second?: Int32Array): Surrounded;
  readonly eosId: number | null;
  readonly bosId: number | null;
  readonly padId: number | null;
  /** `bos_token`, `eos_token`, ... by name, for chat templates. */
  readonly namedTokens: Readonly<Record<string, string>>;
  /** Jinja chat templates by name; empty when the model has none. */
  readonly chatTemplates: ReadonlyMap<string, string>;
  /** Further variables of the templates, such as `enable_thinking`. */
  readonly templateArgs: TemplateArgs;
  /** The treatment of text in a message that is a special token's. */
  readonly specialText: SpecialText;
}

/** Ids with the tokens in front that begin a text, unless the text brings them itself. */
export function withPrefix({ prefix }: Pick<Tokenizer, "prefix">, ids: Int32Array): Int32Array {
  return prefix.every((id, i) => ids[i] === id) ? ids : Int32Array.from([...prefix, ...ids]);
}

export interface Encoded {
  readonly ids: Int32Array;
  /**
   * Per boundary (a UTF-16 index of the text): the first token that holds a character at or after it. A token that
   * reaches across the boundary counts as after it, as in Transformers' `char_to_token`.
   */
  readonly tokens: readonly number[];
}

const NAMED_TOKENS = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/** @throws {UserError} missing or malformed files */
export function loadTokenizer(folder: string): Tokenizer {
  const path = join(folder, "tokenizer.json");
  const configPath = join(folder, "tokenizer_config.json");
  const mapPath = join(folder, "special_tokens_map.json");
  const written = existsSync(configPath) ? readJsonObject(configPath) : {};
  const map = existsSync(mapPath) ? readJsonObject(mapPath) : {};
  // Transformers 5 takes the map for what folders have that are older than `added_tokens_decoder`.
  const config = written["added_tokens_decoder"] === undefined ? { ...written, ...map } : { ...map, ...written };
  const named = namedTokens(config);
  const isSentencePiece = !existsSync(path) && existsSync(join(folder, SENTENCEPIECE_FILE));
  if (!isSentencePiece && !existsSync(path)) {
    const old = existsSync(join(folder, "vocab.json")) ? "; vocab.json is of an older form" : "";
    throw new UserError(
      `${folder} has neither tokenizer.json nor ${SENTENCEPIECE_FILE}${old}; in Python: transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained(${JSON.stringify(folder)})`,
    );
  }
  const json = isSentencePiece ? tokenizerFromSentencePiece(folder, config, named) : readJsonObject(path);
  checkVocabulary(json, folder);
  const variables = { ...namedExtraTokens(config), ...named };
  return createTokenizer(withConfiguredTokens(json, config, named, folder), variables, chatTemplates(folder, config), folder);
}

export function createTokenizer(
  json: Readonly<Record<string, unknown>>,
  named: Readonly<Record<string, string>> = {},
  templates: ReadonlyMap<string, string> = new Map(),
  folder = "tokenizer.json",
): Tokenizer {
  checkVocabulary(json, folder);
  checkPatterns(json, folder);
  let inner: HuggingFaceTokenizer;
  let escape: Escape;
  let fast: FastEncode | null;
  try {
    inner = new HuggingFaceTokenizer({ added_tokens: [], ...json }, {});
    keepByteOrderMarks(inner.decoder);
    knowAllDigits(inner.pre_tokenizer);
    useExactParts(inner, json);
    fast = cacheWords(inner);
    escape = createEscape(inner);
    inner.decode(inner.encode("a").ids);
  } catch (error) {
    const why = explanationOf(error, "a part of it is damaged; copy or download it again");
    throw new UserError(`${folder}: tokenizer.json cannot be used: ${why}`);
  }
  const idOf = (token: string) => inner.token_to_id(token) ?? null;
  const encode = (text: string, plain: readonly number[] = [], special = false): Int32Array => {
    const found = fast !== null && !special && plain.length === 0 ? fast(text) : null;
    if (found !== null) return found;
    const run = (written: string) => inner.encode(written, { add_special_tokens: special });
    const { ids } = plain.length === 0 ? run(text) : escape(text, plain, run);
    if (!ids.every(Number.isInteger)) {
      throw new UserError(
        `${folder}: the vocabulary has no token for a part of ${JSON.stringify(text.slice(0, 60))} and no unk_token`,
      );
    }
    return Int32Array.from(ids);
  };
  const specialTokens = new Map<string, number>();
  const addedTokens = new Map<string, number>();
  const added = new Map<number, string>();
  let size = 0;
  for (const id of inner.get_vocab().values()) size = Math.max(size, id + 1);
  for (const [id, token] of inner.get_added_tokens_decoder()) {
    added.set(id, token.content);
    addedTokens.set(token.content, id);
    if (token.special) specialTokens.set(token.content, id);
    size = Math.max(size, id + 1);
  }
  const [prefix, suffix] = surroundings(encode("a"), encode("a", [], true));
  const bytesOf = isByteLevel(json) ? tokenBytes(inner, added) : null;
  const namedId = (name: string) => (named[name] === undefined ? null : idOf(named[name]));
  const fingerprint = new Bun.CryptoHasher("sha256").update(JSON.stringify([json, named, [...templates]])).digest("hex");
  return {
    folder,
    json,
    fingerprint,
    size,
    encode: (text, plain) => encode(text, plain),
    encodeWithBoundaries(text, boundaries, plain = []) {
      const ids = encode(text, plain);
      const unchanged = !inner.normalizer || inner.normalizer.normalize(text) === text;
      const tokens =
        (unchanged && bytesOf && byByteLengths(ids, text, boundaries, bytesOf)) ||
        byPrefixes(ids, text, boundaries, (begin) =>
          encode(
            begin,
            plain.filter((place) => place < begin.length),
          ),
        );
      return { ids, tokens };
    },
    decode: (ids, options) =>
      ids.length === 0
        ? ""
        : inner.decode(Array.from(ids), {
            skip_special_tokens: options?.skipSpecial ?? false,
            clean_up_tokenization_spaces: false,
          }),
    idOf,
    specialTokens,
    addedTokens,
    prefix,
    suffix,
    surround: createSurroundings(json.post_processor),
    eosId: namedId("eos_token"),
    bosId: namedId("bos_token"),
    padId: namedId("pad_token"),
    namedTokens: named,
    chatTemplates: templates,
    templateArgs: {},
    specialText: "token",
  };
}

/** As many as a model may have; the library keeps a list with a place for every id. */
const MAX_TOKENS = 2 ** 24;

/** @throws {UserError} tokens that are no texts, ids that are no places in a vocabulary */
function checkVocabulary(json: Readonly<Record<string, unknown>>, folder: string): void {
  const vocab = isRecord(json.model) ? json.model.vocab : undefined;
  const pairs: (readonly [token: unknown, id: unknown])[] = isRecord(vocab)
    ? Object.entries(vocab)
    : Array.isArray(vocab)
      ? vocab.map((entry: unknown, id) => [Array.isArray(entry) ? entry[0] : entry, id] as const)
      : [];
  if (Array.isArray(json.added_tokens))
    for (const entry of json.added_tokens as readonly unknown[])
      pairs.push(isRecord(entry) ? [entry.content, entry.id] : [entry, undefined]);
  for (const [token, id] of pairs) {
    if (typeof token === "string" && Number.isInteger(id) && (id as number) >= 0 && (id as number) < MAX_TOKENS) continue;
    throw new UserError(
      `${folder}: tokenizer.json gives the token ${show(token)} the id ${show(id)}; expected a text and a whole number below ${MAX_TOKENS}`,
    );
  }
}

/** A pattern of another kind would be ignored, and text be cut in other places than the model knows. */
function checkPatterns(json: Readonly<Record<string, unknown>>, folder: string): void {
  const parts = (value: unknown): Record<string, unknown>[] => {
    if (!isRecord(value)) return [];
    const inner = [value.normalizers, value.pretokenizers, value.decoders].filter(Array.isArray);
    return [value, ...inner.flat().flatMap(parts)];
  };
  for (const { type, pattern } of [json.normalizer, json.pre_tokenizer, json.decoder].flatMap(parts)) {
    if (type !== "Split" && type !== "Replace") continue;
    if (isRecord(pattern) && [pattern.Regex, pattern.String].some((text) => typeof text === "string")) continue;
    throw new UserError(
      `${folder}: tokenizer.json has a ${type} whose pattern is ${show(pattern)}; expected {"Regex": text} or {"String": text}`,
    );
  }
}

/** A token is given as text or as `{"content": text, ...}`. */
function namedTokens(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const named: Record<string, string> = {};
  for (const name of NAMED_TOKENS) {
    const value = config[name];
    const content = isRecord(value) ? value.content : value;
    if (typeof content === "string") named[name] = content;
  }
  return named;
}

/**
 * Chat templates by name. `chat_template.jinja` and `additional_chat_templates/NAME.jinja` win over the key in
 * tokenizer_config.json, which is one template or a list of named ones.
 */
function chatTemplates(folder: string, config: Readonly<Record<string, unknown>>): Map<string, string> {
  const path = join(folder, CHAT_TEMPLATE_FILE);
  const files: [string, string][] = existsSync(path) ? [["default", readText(path)]] : [];
  for (const file of additionalTemplates(folder)) files.push([basename(file, ".jinja"), readText(join(folder, file))]);
  return new Map([...(files[0]?.[0] === "default" ? [] : configuredTemplates(folder, config)), ...files]);
}

function configuredTemplates(folder: string, config: Readonly<Record<string, unknown>>): Map<string, string> {
  const { chat_template: value } = config;
  if (typeof value === "string") return new Map([["default", value]]);
  const templates = new Map<string, string>();
  if (Array.isArray(value)) {
    for (const entry of value as readonly unknown[]) {
      if (!isRecord(entry) || typeof entry.name !== "string" || typeof entry.template !== "string") {
        throw new UserError(`${folder}: "chat_template" in tokenizer_config.json must be a text or a list of {name, template}`);
      }
      templates.set(entry.name, entry.template);
    }
  } else if (isRecord(value)) {
    for (const [name, template] of Object.entries(value)) if (typeof template === "string") templates.set(name, template);
  }
  return templates;
}

/** Returns what stands before and after `plain` within `full`. */
function surroundings(plain: Int32Array, full: Int32Array): [number[], number[]] {
  const ids = [...full];
  const at = ids.findIndex((_, i) => plain.every((id, j) => ids[i + j] === id));
  return at < 0 ? [[], []] : [ids.slice(0, at), ids.slice(at + plain.length)];
}

/** Tells whether tokens are strings of GPT-2's byte alphabet, in which one character stands for one byte. */
function isByteLevel(json: Readonly<Record<string, unknown>>): boolean {
  const mentions = (part: unknown): boolean =>
    isRecord(part) &&
    (part.type === "ByteLevel" ||
      [part.pretokenizers, part.decoders].some((parts) => Array.isArray(parts) && parts.some(mentions)));
  return mentions(json.pre_tokenizer) && mentions(json.decoder);
}

/** The byte-fallback decoder's TextDecoder would swallow U+FEFF, which is an ordinary character inside a text. */
function keepByteOrderMarks(decoder: unknown): void {
  if (typeof decoder !== "object" && typeof decoder !== "function") return;
  const parts = decoder as { text_decoder?: TextDecoder; decoders?: unknown[] } | null;
  if (parts?.text_decoder) parts.text_decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for (const part of parts?.decoders ?? []) keepByteOrderMarks(part);
}

/** The library's Digits know 0 to 9 only; Transformers' are the numerals of all scripts, with fractions and the like. */
function knowAllDigits(preTokenizer: unknown): void {
  if (typeof preTokenizer !== "object" && typeof preTokenizer !== "function") return;
  const part = preTokenizer as { config?: Record<string, unknown>; pattern?: RegExp; tokenizers?: unknown[] } | null;
  if (part?.config?.["type"] === "Digits") part.pattern = part.config["individual_digits"] ? /\P{N}+|\p{N}/gu : /\P{N}+|\p{N}+/gu;
  for (const inner of part?.tokenizers ?? []) knowAllDigits(inner);
}

function tokenBytes(inner: HuggingFaceTokenizer, added: ReadonlyMap<number, string>): (id: number) => number {
  const known: number[] = [];
  const lengthOf = (id: number): number => {
    const content = added.get(id);
    return content === undefined ? (inner.id_to_token(id)?.length ?? NaN) : Buffer.byteLength(content);
  };
  return (id) => (known[id] ??= lengthOf(id));
}

/** Adds up the tokens' bytes; null when they do not add up to the text (a token that swallows white space, ...). */
function byByteLengths(
  ids: Int32Array,
  text: string,
  boundaries: readonly number[],
  bytesOf: (id: number) => number,
): number[] | null {
  const ends = new Float64Array(ids.length);
  let total = 0;
  ids.forEach((id, i) => (ends[i] = total += bytesOf(id)));
  if (total !== Buffer.byteLength(text)) return null;
  const result: number[] = [];
  let at = 0;
  let bytes = 0;
  let token = 0;
  for (const boundary of boundaries) {
    if (boundary < at) [at, bytes, token] = [0, 0, 0];
    bytes += Buffer.byteLength(text.slice(at, boundary));
    at = boundary;
    while (token < ids.length && ends[token]! <= bytes) token++;
    result.push(token);
  }
  return result;
}

/** Encodes the text up to each boundary: the tokens that it shares with the whole are before the boundary. */
function byPrefixes(
  ids: Int32Array,
  text: string,
  boundaries: readonly number[],
  encode: (text: string) => Int32Array,
): number[] {
  return boundaries.map((boundary) => {
    if (boundary >= text.length) return ids.length;
    const prefix = encode(text.slice(0, boundary));
    const different = prefix.findIndex((id, i) => id !== ids[i]);
    return different < 0 ? prefix.length : different;
  });
}
