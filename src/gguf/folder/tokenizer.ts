import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import {
  type AddedToken,
  PIECE,
  plainToken,
  type SentencePieceModel,
  sentencePieceJson,
} from "../../data/tokens/sentencepiece.ts";
import { templateProcessing } from "../../data/tokens/surroundings.ts";
import type { GgufFile } from "../read/container.ts";
import { type Facts, factsOf } from "./facts.ts";
import { PRE_TOKENIZERS, splitOf } from "./pre-tokenizers.ts";
import { PHI3_TOKENS, TOKEN_TYPE, TOOLS_LINE, VOCABULARIES } from "./vocabulary.ts";

/** The contents of a model folder's files about its tokens. */
export interface TokenizerFiles {
  /** `tokenizer.json`. */
  readonly tokenizer: Readonly<Record<string, unknown>>;
  /** `tokenizer_config.json`. */
  readonly config: Readonly<Record<string, unknown>>;
}

/** A file's vocabulary. */
interface Vocabulary {
  readonly facts: Facts;
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  /** Tokens that take the white space behind them. */
  readonly strips: (token: string, type: number | undefined) => boolean;
  /** Tokens that go in front of a text, and behind it. */
  readonly before: readonly string[];
  readonly after: readonly string[];
}

const key = (name: string): string => `tokenizer.ggml.${name}`;

/**
 * A model's tokenizer as Transformers has it: byte-level BPE by its merges, or BPE on characters with byte fallback by SentencePiece's scores.
 * @throws {UserError} another kind of vocabulary, a way of splitting words that is not known here
 */
export function tokenizerOf(file: Pick<GgufFile, "path" | "metadata">): TokenizerFiles {
  const facts = factsOf(file);
  const { path } = facts;
  const model = facts.text(key("model"));
  const tokens = facts.texts(key("tokens"));
  if (model === null || tokens === null)
    throw new UserError(`${path} has no vocabulary (${key("model")}, ${key("tokens")}); use a file of a whole model`);
  const types = facts.numbers(key("token_type")) ?? tokens.map(() => TOKEN_TYPE.normal);
  if (types.length !== tokens.length)
    throw new UserError(`${path} has ${tokens.length} tokens and ${types.length} types of tokens (${key("token_type")})`);
  const named = namedTokens(facts, tokens);
  const wanted = (name: "bos" | "eos", usual: boolean): string[] => {
    const token = named[`${name}_token`];
    return (facts.flag(key(`add_${name}_token`)) ?? usual) && token !== undefined ? [token] : [];
  };
  const vocabulary = (hasStart: boolean): Vocabulary => ({
    facts,
    tokens,
    types,
    strips: spaceTaking(facts, tokens),
    before: wanted("bos", hasStart),
    after: wanted("eos", false),
  });
  const config = { tokenizer_class: "PreTrainedTokenizerFast", ...named, ...templatesOf(facts) };
  if (model === VOCABULARIES.byteLevel) {
    const split = splitOf(facts.text(key("pre")) ?? "");
    return { tokenizer: byteLevelJson(vocabulary(split?.whole === true)), config };
  }
  if (model === VOCABULARIES.scored) return { tokenizer: scoredJson(vocabulary(true)), config };
  throw new UserError(
    `${path} has a vocabulary of the kind ${show(model)} (${key("model")}); expected gpt2 (byte-level BPE) or llama (SentencePiece's BPE): use the folder that the file was made of`,
  );
}

/** @throws {UserError} an id beyond the vocabulary */
function namedTokens({ number, path }: Facts, tokens: readonly string[]): Record<string, string> {
  const names = { bos: "bos", eos: "eos", unk: "unknown", sep: "seperator", pad: "padding", mask: "mask" };
  return Object.fromEntries(
    Object.entries(names).flatMap(([name, of]): [string, string][] => {
      const id = number(key(`${of}_token_id`));
      if (id === null) return [];
      const token = tokens[id];
      if (token === undefined)
        throw new UserError(`${path}: ${key(`${of}_token_id`)} is ${id}; expected the id of one of ${tokens.length} tokens`);
      return [[`${name}_token`, token]];
    }),
  );
}

/** Chat templates, which `tokenizer_config.json` may hold. */
function templatesOf({ text, texts }: Facts): object {
  const plain = (source: string) => (source.startsWith(TOOLS_LINE) ? source.slice(TOOLS_LINE.length) : source);
  const main = text("tokenizer.chat_template");
  const others = (texts("tokenizer.chat_templates") ?? []).flatMap((name) => {
    const source = text(`tokenizer.chat_template.${name}`);
    return source === null ? [] : [{ name, template: plain(source) }];
  });
  if (others.length > 0)
    return { chat_template: [...(main === null ? [] : [{ name: "default", template: plain(main) }]), ...others] };
  return main === null ? {} : { chat_template: plain(main) };
}

/** Tells whether a token of no text stands for an id that the model has a row for and its tokenizer no token. */
const isFiller = (token: string, type: number | undefined): boolean => type === TOKEN_TYPE.unused && /^\[PAD\d+\]$/.test(token);

/** @throws {UserError} merges that are none, words split in a way that is not known here */
function byteLevelJson({ facts, tokens, types, strips, before, after }: Vocabulary): Record<string, unknown> {
  const { path } = facts;
  const pre = facts.text(key("pre"));
  const split = splitOf(pre ?? "");
  if (split === null)
    throw new UserError(
      `${path} ${pre === null ? "does not say" : `says by ${show(pre)}`} how texts are split into words (${key("pre")}); expected one of ${PRE_TOKENIZERS.join(", ")}: use the folder that the file was made of`,
    );
  const merges = (facts.texts(key("merges")) ?? []).map((merge): [string, string] => {
    const at = merge.indexOf(" ", 1);
    if (at < 0) throw new UserError(`${path}: expected pairs of tokens in ${key("merges")}, got ${show(merge)}`);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
  const merged = new Set(merges.flatMap(([left, right]) => [left, right, left + right]));
  const isAdded = (id: number) => types[id] === TOKEN_TYPE.control || types[id] === TOKEN_TYPE.userDefined;
  const added = tokens.flatMap((token, id): (AddedToken & { id: number })[] =>
    isAdded(id) ? [{ id, ...tokenOf(token, types[id], strips) }] : [],
  );
  const vocabulary = tokens.flatMap((token, id): [string, number][] =>
    isFiller(token, types[id]) || (isAdded(id) && !merged.has(token)) ? [] : [[token, id]],
  );
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: split.normalizer,
    pre_tokenizer: split.preTokenizer,
    post_processor: templateProcessing(before, after, (token) => tokens.indexOf(token)),
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: split.whole,
      vocab: Object.fromEntries(vocabulary),
      merges,
    },
  };
}

/** @throws {UserError} tokens without scores */
function scoredJson({ facts, tokens, types, strips, before, after }: Vocabulary): Record<string, unknown> {
  const scores = facts.numbers(key("scores")) ?? [];
  if (scores.length !== tokens.length)
    throw new UserError(`${facts.path} has ${tokens.length} tokens and ${scores.length} scores (${key("scores")})`);
  // Tokens of a tokenizer's author are cut out of a text before others are made; files write spaces in them as they are.
  const first = scores.reduce((most, score) => Math.max(most, score), 0) + 1;
  const pieces = tokens.map((token, id) => {
    const type = types[id] === TOKEN_TYPE.userDefined ? PIECE.userDefined : types[id]!;
    return type === PIECE.userDefined
      ? { text: token.replaceAll(" ", SPACE), score: first, type }
      : { text: token, score: scores[id]!, type };
  });
  const spacePrefix = facts.flag(key("add_space_prefix")) ?? true;
  const model: SentencePieceModel = { pieces, byteFallback: types.includes(TOKEN_TYPE.byte), spacePrefix };
  const marked = tokens.flatMap((token, id): [number, AddedToken][] =>
    strips(token, types[id]) ? [[id, tokenOf(token, types[id], strips)]] : [],
  );
  return sentencePieceJson(model, { added: new Map(marked), prefixOnce: false, spacePrefix: null, before, after });
}

/** The character that stands for a space in SentencePiece's tokens. */
const SPACE = "\u2581";

const tokenOf = (token: string, type: number | undefined, strips: Vocabulary["strips"]): AddedToken => ({
  ...plainToken(token, type === TOKEN_TYPE.control),
  rstrip: strips(token, type),
});

/**
 * Finds the tokens that take the white space behind them: llama.cpp knows of the special ones of a Phi-3, by the model's name. Converters write the name
 * with a space too, by which llama.cpp does not know it.
 */
function spaceTaking({ text, architecture }: Facts, tokens: readonly string[]): Vocabulary["strips"] {
  const name = text("general.name") ?? "";
  const isPhi3 = /phi-?3/i.test(name) || (/^phi-?3$/.test(architecture) && /phi 3/i.test(name));
  if (!isPhi3 || !PHI3_TOKENS.every((each) => tokens.includes(each))) return () => false;
  return (token, type) => token === "</s>" || (type === TOKEN_TYPE.control && !PHI3_TOKENS.includes(token));
}
