/** The library's byte-pair model, as far as its merges are concerned. */
export interface MergingModel {
  readonly merges?: readonly (readonly string[])[];
  readonly ignore_merges?: boolean;
  readonly continuing_subword_suffix?: string | null;
  readonly end_of_word_suffix?: string | null;
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  encode(words: readonly string[]): string[];
}

/** Ids stay below 2^26, so that a pair of them is one exact number. */
const PAIR = 2 ** 26;

/** Characters of a word that is merged by looking for the best pair again and again: its square of steps is less than a heap costs. */
const SHORT = 64;

/** The merges of a vocabulary, by pairs of ids: a pair's rank, and what it becomes. */
interface Merges {
  readonly ranks: ReadonlyMap<number, number>;
  readonly results: readonly number[];
}

/**
 * Byte-pair merges of one word: the pair of lowest rank first, the leftmost of equal ones, as in the reference. Null when the vocabulary
 * is not closed under its merges or words are decorated, which is left to the library.
 */
export function merger(model: MergingModel, encode: MergingModel["encode"]): ((word: string) => string[]) | null {
  const { tokens_to_ids: ids, merges } = model;
  if (!merges || model.continuing_subword_suffix || model.end_of_word_suffix) return null;
  const ranks = new Map<number, number>();
  const results: number[] = [];
  for (const [rank, [left, right]] of merges.entries()) {
    const a = ids.get(left!);
    const b = ids.get(right!);
    const merged = ids.get(left! + right!);
    if (a === undefined || b === undefined || merged === undefined || merged >= PAIR) return null;
    ranks.set(a * PAIR + b, rank);
    results.push(merged);
  }
  const texts = new Map(Array.from(ids, ([text, id]) => [id, text]));
  return (word) => {
    if (model.ignore_merges && ids.has(word)) return [word];
    const parts: number[] = [];
    for (const character of word) {
      const id = ids.get(character);
      if (id === undefined) return encode([word]);
      parts.push(id);
    }
    const merged = parts.length <= SHORT ? mergeShort(parts, { ranks, results }) : mergeLong(parts, { ranks, results });
    return merged.map((id) => texts.get(id)!);
  };
}

/** Quadratic in the word's length, but without any allocation. */
function mergeShort(parts: number[], { ranks, results }: Merges): number[] {
  for (;;) {
    let best = Infinity;
    let at = -1;
    for (let i = 1; i < parts.length; i++) {
      const rank = ranks.get(parts[i - 1]! * PAIR + parts[i]!);
      if (rank === undefined || rank >= best) continue;
      best = rank;
      at = i;
    }
    if (at < 0) return parts;
    parts.splice(at - 1, 2, results[best]!);
  }
}

/**
 * The same by a heap of pairs: n log n steps, 40 bytes a character. A key is `rank * n + place of the left part`, so that ascending keys are
 * ranks, then places; a pair that is no longer there is noticed when it comes to the top.
 */
function mergeLong(parts: readonly number[], { ranks, results }: Merges): number[] {
  const n = parts.length;
  /** -1: merged into the part before it. */
  const ids = Int32Array.from(parts);
  const next = Int32Array.from(ids, (_, i) => (i + 1 < n ? i + 1 : -1));
  const before = Int32Array.from(ids, (_, i) => i - 1);
  const rankAt = (place: number): number | undefined => {
    const right = next[place]!;
    return right < 0 ? undefined : ranks.get(ids[place]! * PAIR + ids[right]!);
  };
  // Each merge takes one key away and adds two at most.
  const heap = createHeap(2 * n);
  const push = (place: number) => {
    const rank = place < 0 ? undefined : rankAt(place);
    if (rank !== undefined) heap.push(rank * n + place);
  };
  for (let place = 0; place < n; place++) push(place);
  for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
    const place = key % n;
    const rank = (key - place) / n;
    if (ids[place]! < 0 || rankAt(place) !== rank) continue;
    const right = next[place]!;
    ids[place] = results[rank]!;
    ids[right] = -1;
    const behind = (next[place] = next[right]!);
    if (behind >= 0) before[behind] = place;
    push(before[place]!);
    push(place);
  }
  return Array.from(ids.filter((id) => id >= 0));
}

/** A binary heap of at most `capacity` numbers, the least of which comes first. */
function createHeap(capacity: number): { push(key: number): void; pop(): number | undefined } {
  const keys = new Float64Array(capacity);
  let size = 0;
  return {
    push(key) {
      let i = size++;
      while (i > 0) {
        const parent = (i - 1) >> 1;
        if (keys[parent]! <= key) break;
        keys[i] = keys[parent]!;
        i = parent;
      }
      keys[i] = key;
    },
    pop() {
      if (size === 0) return undefined;
      const top = keys[0]!;
      const last = keys[--size]!;
      let i = 0;
      for (;;) {
        let child = 2 * i + 1;
        if (child >= size) break;
        if (child + 1 < size && keys[child + 1]! < keys[child]!) child++;
        if (keys[child]! >= last) break;
        keys[i] = keys[child]!;
        i = child;
      }
      keys[i] = last;
      return top;
    },
  };
}
