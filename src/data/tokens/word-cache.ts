import type { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { merger, type MergingModel } from "./merges.ts";

/** Words of a generation, of which two are kept. */
const CAPACITY = 30_000;
/** Longer words (runs of white space, base64) are not likely to come again. */
const LONGEST = 64;

/** The parts of the library's pre-tokenizers and models that are used here. */
interface PreTokenizer {
  readonly config?: { readonly type?: string; readonly add_prefix_space?: boolean };
  readonly tokenizers?: readonly PreTokenizer[];
  readonly use_regex?: boolean;
  readonly pattern?: RegExp;
  pre_tokenize_text(text: string): string[];
}

interface Model extends MergingModel {
  readonly config: { readonly type?: string };
  readonly fuse_unk?: boolean;
}

/** The parts of the library's tokenizer that are used here. */
interface Inner {
  readonly splitter_unnormalized: Splitter;
  readonly splitter_normalized: Splitter;
  readonly added_tokens_map: ReadonlyMap<string, AddedToken>;
  readonly normalizer: ((text: string) => string) | null;
  readonly pre_tokenizer: PreTokenizer | null;
  readonly model: Model | null;
  readonly remove_space?: boolean;
  readonly do_lowercase_and_remove_accent?: boolean;
}

/** A token beside the vocabulary, and whether it takes the white space in front of it, or behind it. */
interface AddedToken {
  readonly id: number;
  lstrip?: boolean;
  rstrip?: boolean;
}

/** Returns the ids of a text, without those that the post-processor adds; null: the library has to be asked. */
export type FastEncode = (text: string) => Int32Array | null;

/**
 * Makes a byte-level BPE tokenizer, or one of word pieces, remember the tokens of each word: language repeats its words, and writing one in the
 * byte alphabet and merging it is most of the work. The byte alphabet's stage then only splits, and the model takes
 * plain words. Other tokenizers are left as they are but for the search for added tokens; the tokens are the same either way.
 * Returns a faster way to the ids alone; null: there is none for this tokenizer.
 */
export function cacheWords(tokenizer: HuggingFaceTokenizer): FastEncode | null {
  const inner = tokenizer as unknown as Inner;
  const stripping = takeStripping(inner.added_tokens_map);
  for (const splitter of [inner.splitter_unnormalized, inner.splitter_normalized])
    if (splitter) skipToFirsts(splitter, stripping);
  const { model } = inner;
  if (model?.config.type === "WordPiece") {
    const encode = model.encode.bind(model);
    const tokensOf = remembered((word) => encode([word]));
    model.encode = (words) => words.flatMap(tokensOf);
    return null;
  }
  const stages = stagesOf(inner.pre_tokenizer);
  const bytes = stages.at(-1);
  if (bytes?.config?.type !== "ByteLevel" || bytes.config.add_prefix_space || model?.config.type !== "BPE") return null;

  const inAlphabet = bytes.pre_tokenize_text.bind(bytes);
  const encode = model.encode.bind(model);
  const merge = merger(model, encode);
  const { pattern, use_regex: splits } = bytes;
  const tokenize = (word: string): readonly string[] => (merge ? inAlphabet(word).flatMap(merge) : encode(inAlphabet(word)));
  const tokensOf = remembered(tokenize);
  bytes.pre_tokenize_text = (text) => (splits ? (text.match(pattern!) ?? []) : [text]);
  model.encode = (words) => {
    const tokens: string[] = [];
    for (const word of words) for (const token of tokensOf(word)) tokens.push(token);
    return tokens;
  };
  // Metaspace looks where a part stands in the text.
  if (stages.some(({ config }) => config?.type === "Metaspace")) return null;
  if (model.fuse_unk || inner.remove_space || inner.do_lowercase_and_remove_accent) return null;
  const idOf = (token: string): number => inner.added_tokens_map.get(token)?.id ?? model.tokens_to_ids.get(token) ?? -1;
  return fastEncode(
    inner,
    remembered((word) => tokenize(word).map(idOf)),
  );
}

/** Remembers what is made of words. Words that come again survive when the memory is full; the others are forgotten. */
function remembered<T>(make: (word: string) => T): (word: string) => T {
  let [recent, older] = [new Map<string, T>(), new Map<string, T>()];
  return (word) => {
    const known = recent.get(word);
    if (known !== undefined) return known;
    const value = older.get(word) ?? make(word);
    if (word.length > LONGEST) return value;
    if (recent.size >= CAPACITY) [recent, older] = [new Map(), recent];
    recent.set(word, value);
    return value;
  };
}

/** The library's way from a text to ids (added tokens, normalizer, pre-tokenizer, words), without its lists of token texts. */
function fastEncode(inner: Inner, idsOf: (word: string) => readonly number[]): FastEncode {
  let ids = new Int32Array(1 << 12);
  let count = 0;
  const push = (id: number) => {
    if (count === ids.length) {
      const longer = new Int32Array(2 * count);
      longer.set(ids);
      ids = longer;
    }
    ids[count++] = id;
  };
  /** Calls `take` with each part of a text that is no added token. */
  const eachPart = (splitter: Splitter, text: string, take: (part: string) => void): void => {
    for (const part of splitter.split(text)) {
      if (part.length === 0) continue;
      const token = inner.added_tokens_map.get(part);
      if (token) push(token.id);
      else take(part);
    }
  };
  const takeWords = (part: string): void => {
    for (const word of inner.pre_tokenizer!.pre_tokenize_text(part)) for (const id of idsOf(word)) push(id);
  };
  const takeText = (part: string): void => {
    const text = inner.normalizer === null ? part : inner.normalizer(part);
    if (text.length > 0) eachPart(inner.splitter_normalized, text, takeWords);
  };
  return (text) => {
    count = 0;
    eachPart(inner.splitter_unnormalized, text, takeText);
    const made = ids.slice(0, count);
    // Of an untypically long text the room is not kept.
    if (ids.length > 1 << 20) ids = new Int32Array(1 << 12);
    return made.includes(-1) ? null : made;
  };
}

interface Trie {
  readonly [character: string]: Trie | undefined;
}

/** Cuts added tokens out of a text, the longest at each place. `end` of a node of its trie is the token that ends there. */
interface Splitter {
  readonly trie: Trie;
  split(text: string): string[];
}

const WHITE = /\p{White_Space}/u;

/** Added tokens that take white space at their sides. */
interface Stripping {
  readonly left: ReadonlySet<string>;
  readonly right: ReadonlySet<string>;
}

/** Takes this work from the library, to which a byte order mark is white space and U+0085 is not. */
function takeStripping(tokens: ReadonlyMap<string, AddedToken>): Stripping {
  const [left, right] = [new Set<string>(), new Set<string>()];
  for (const [text, token] of tokens) {
    if (token.lstrip) left.add(text);
    if (token.rstrip) right.add(text);
    token.lstrip = token.rstrip = false;
  }
  return { left, right };
}

/** Makes a splitter look only where a token can begin. */
function skipToFirsts(splitter: Splitter, { left, right }: Stripping): void {
  const firsts = Object.keys(splitter.trie).map((character) => RegExp.escape(character));
  if (firsts.length === 0) {
    splitter.split = (text) => (text === "" ? [] : [text]);
    return;
  }
  const pattern = new RegExp(`[${firsts.join("")}]`, "g");
  splitter.split = (text) => {
    const parts: string[] = [];
    let start = 0;
    pattern.lastIndex = 0;
    for (let found = pattern.exec(text); found; found = pattern.exec(text)) {
      let node: Trie | undefined = splitter.trie;
      let token: string | null = null;
      for (let i = found.index; i < text.length && (node = node[text[i]!]); i++)
        token = (node.end as string | undefined) ?? token;
      if (token === null) continue;
      let end = found.index;
      if (left.has(token)) while (end > start && WHITE.test(text[end - 1]!)) end--;
      if (end > start) parts.push(text.slice(start, end));
      parts.push(token);
      start = pattern.lastIndex = found.index + token.length;
      if (right.has(token)) while (start < text.length && WHITE.test(text[start]!)) start++;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  };
}

function stagesOf(preTokenizer: PreTokenizer | null): PreTokenizer[] {
  if (!preTokenizer) return [];
  return preTokenizer.tokenizers ? preTokenizer.tokenizers.flatMap(stagesOf) : [preTokenizer];
}
