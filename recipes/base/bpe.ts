import { UserError } from "../../src/base/errors.ts";
import { byteCharacters } from "../../src/data/tokens/byte-characters.ts";

/**
 * Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2, Radford et al. 2019): text is split into words
 * by a regular expression, each word's UTF-8 bytes are the first tokens, and the most frequent neighbouring pair becomes
 * a token again and again. Ids: special tokens, the 256 bytes in the order of their stand-in characters, then merges.
 */
export interface Bpe {
  readonly specialTokens: readonly string[];
  /** Token texts by id. */
  readonly vocab: readonly string[];
  /** In order of rank. */
  readonly merges: readonly (readonly [string, string])[];
}

export interface BpeOptions {
  /** Tokens in all, special ones and bytes included; fewer when no pair occurs `minFrequency` times any more. */
  readonly vocabSize: number;
  /** Never split, and never merged with the text around them. */
  readonly specialTokens: readonly string[];
  /** Default 2. */
  readonly minFrequency?: number;
}

/** GPT-2's: contractions, words, numbers and signs with the space before them, other white space. */
const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** Pairs are keyed by `left * PAIR_BASE + right`, so that ascending keys are ascending pairs. */
const PAIR_BASE = 1 << 16;

/**
 * Learns merges from texts. Deterministic: of equally frequent pairs the one with the smaller ids goes first (as in
 * Hugging Face tokenizers), whatever the order of the texts.
 * @throws {UserError} a vocabulary too small for the bytes or too large for 16-bit ids
 */
export function trainBpe(texts: Iterable<string>, options: BpeOptions): Bpe {
  const { vocabSize, specialTokens, minFrequency = 2 } = options;
  const base = specialTokens.length + 256;
  if (!Number.isInteger(vocabSize) || vocabSize < base || vocabSize > PAIR_BASE) {
    throw new UserError(`expected a vocabulary size from ${base} (bytes and special tokens) to ${PAIR_BASE}, got ${vocabSize}`);
  }
  const characters = byteCharacters();
  const alphabet = [...characters].sort();
  const vocab = [...specialTokens, ...alphabet];
  const ids = new Map(vocab.map((token, id) => [token, id]));
  const byteIds = characters.map((character) => ids.get(character)!);

  const encoder = new TextEncoder();
  const words: { tokens: number[]; count: number }[] = [];
  for (const [word, count] of countWords(texts, specialTokens)) {
    words.push({ tokens: Array.from(encoder.encode(word), (byte) => byteIds[byte]!), count });
  }

  const pairs = new PairCounts();
  for (const [index, word] of words.entries()) pairs.add(word.tokens, word.count, index);
  const merges: [string, string][] = [];
  while (vocab.length < vocabSize) {
    const pair = pairs.popMostFrequent(minFrequency);
    if (pair === null) break;
    const [left, right] = [Math.floor(pair / PAIR_BASE), pair % PAIR_BASE];
    const token = vocab[left]! + vocab[right]!;
    merges.push([vocab[left]!, vocab[right]!]);
    // Two merges may give the same text ("a"+"bc", "ab"+"c"): it is one token.
    let id = ids.get(token);
    if (id === undefined) {
      id = vocab.push(token) - 1;
      ids.set(token, id);
    }
    for (const index of pairs.wordsWith(pair)) {
      const word = words[index]!;
      const merged = mergePair(word.tokens, left, right, id);
      if (merged.length === word.tokens.length) continue;
      pairs.remove(word.tokens, word.count);
      pairs.add(merged, word.count, index);
      word.tokens = merged;
    }
    pairs.forget(pair);
  }
  return { specialTokens, vocab, merges };
}

function countWords(texts: Iterable<string>, specialTokens: readonly string[]): Map<string, number> {
  const special = specialTokens.length > 0 ? new RegExp(specialTokens.map((token) => RegExp.escape(token)).join("|")) : null;
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const piece of special ? text.split(special) : [text]) {
      for (const word of piece.match(WORD) ?? []) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return counts;
}

function mergePair(tokens: readonly number[], left: number, right: number, merged: number): number[] {
  const result: number[] = [];
  for (let i = 0; i < tokens.length; i++) {
    if (tokens[i] === left && tokens[i + 1] === right) {
      result.push(merged);
      i++;
    } else {
      result.push(tokens[i]!);
    }
  }
  return result;
}

/**
 * How often each pair occurs and in which words. A binary heap orders the pairs; its entries may be out of date (a
 * count that has fallen since), which is noticed when one comes to the top.
 */
class PairCounts {
  private readonly counts = new Map<number, number>();
  private readonly words = new Map<number, Set<number>>();
  private readonly heap: { pair: number; count: number }[] = [];
  /** Pairs that became more frequent and are not in the heap with their new count. */
  private readonly raised = new Set<number>();

  add(tokens: readonly number[], count: number, word: number): void {
    for (let i = 1; i < tokens.length; i++) {
      const pair = tokens[i - 1]! * PAIR_BASE + tokens[i]!;
      this.counts.set(pair, (this.counts.get(pair) ?? 0) + count);
      let words = this.words.get(pair);
      if (!words) this.words.set(pair, (words = new Set()));
      words.add(word);
      this.raised.add(pair);
    }
  }

  /** The word stays noted under the pairs that it loses: looking into it once more is cheaper. */
  remove(tokens: readonly number[], count: number): void {
    for (let i = 1; i < tokens.length; i++) {
      const pair = tokens[i - 1]! * PAIR_BASE + tokens[i]!;
      this.counts.set(pair, this.counts.get(pair)! - count);
    }
  }

  wordsWith(pair: number): Iterable<number> {
    return [...(this.words.get(pair) ?? [])];
  }

  forget(pair: number): void {
    this.counts.delete(pair);
    this.words.delete(pair);
    this.raised.delete(pair);
  }

  popMostFrequent(minFrequency: number): number | null {
    for (const pair of this.raised) this.push({ pair, count: this.counts.get(pair)! });
    this.raised.clear();
    for (;;) {
      const top = this.pop();
      if (!top || top.count < Math.max(1, minFrequency)) return null;
      const count = this.counts.get(top.pair) ?? 0;
      if (count === top.count) return top.pair;
      if (count > 0 && count < top.count) this.push({ pair: top.pair, count });
    }
  }

  private push(entry: { pair: number; count: number }): void {
    const { heap } = this;
    let i = heap.push(entry) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!precedes(entry, heap[parent]!)) break;
      heap[i] = heap[parent]!;
      i = parent;
    }
    heap[i] = entry;
  }

  private pop(): { pair: number; count: number } | undefined {
    const { heap } = this;
    const top = heap[0];
    const last = heap.pop();
    if (!last || heap.length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && precedes(heap[child + 1]!, heap[child]!)) child++;
      if (!precedes(heap[child]!, last)) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = last;
    return top;
  }
}

function precedes(a: { pair: number; count: number }, b: { pair: number; count: number }): boolean {
  return a.count !== b.count ? a.count > b.count : a.pair < b.pair;
}
