import type { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { merger, type MergingModel } from "./merges.ts";

/** Words kept; the cache starts anew when it is full. Four times as many are slower: they no longer fit the processor's caches. */
const CAPACITY = 50_000;
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
}

/**
 * Makes a byte-level BPE tokenizer remember the tokens of each word: language repeats its words, and writing one in the
 * byte alphabet and merging it is most of the work. The byte alphabet's stage then only splits, and the model takes
 * plain words. Other tokenizers are left as they are but for the search for added tokens; the tokens are the same either way.
 */
export function cacheWords(tokenizer: HuggingFaceTokenizer): void {
  const { splitter_unnormalized, splitter_normalized } = tokenizer as unknown as Record<string, Splitter>;
  for (const splitter of [splitter_unnormalized, splitter_normalized]) if (splitter) skipToFirsts(splitter);
  const stages = stagesOf(tokenizer.pre_tokenizer as unknown as PreTokenizer | null);
  const model = tokenizer.model as unknown as Model | null;
  const bytes = stages.at(-1);
  if (bytes?.config?.type !== "ByteLevel" || bytes.config.add_prefix_space || model?.config.type !== "BPE") return;

  const inAlphabet = bytes.pre_tokenize_text.bind(bytes);
  const encode = model.encode.bind(model);
  const merge = merger(model, encode);
  const { pattern, use_regex: splits } = bytes;
  let cache = new Map<string, readonly string[]>();
  const tokensOf = (word: string): readonly string[] => {
    const known = cache.get(word);
    if (known) return known;
    const tokens = merge ? inAlphabet(word).flatMap(merge) : encode(inAlphabet(word));
    if (word.length <= LONGEST) {
      if (cache.size >= CAPACITY) cache = new Map();
      cache.set(word, tokens);
    }
    return tokens;
  };
  bytes.pre_tokenize_text = (text) => (splits ? (text.match(pattern!) ?? []) : [text]);
  model.encode = (words) => {
    const tokens: string[] = [];
    for (const word of words) for (const token of tokensOf(word)) tokens.push(token);
    return tokens;
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

/** Makes a splitter look only where a token can begin. */
function skipToFirsts(splitter: Splitter): void {
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
      if (found.index > start) parts.push(text.slice(start, found.index));
      parts.push(token);
      start = found.index + token.length;
      pattern.lastIndex = start;
    }
    if (start < text.length) parts.push(text.slice(start));
    return parts;
  };
}

function stagesOf(preTokenizer: PreTokenizer | null): PreTokenizer[] {
  if (!preTokenizer) return [];
  return preTokenizer.tokenizers ? preTokenizer.tokenizers.flatMap(stagesOf) : [preTokenizer];
}
