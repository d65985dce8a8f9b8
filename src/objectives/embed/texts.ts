import type { JudgedTexts } from "../objective.ts";

/** The texts that are judged together, by number: what each is held against. */
export interface Texts {
  readonly anchors: readonly number[];
  /** The positives and negatives of all examples. */
  readonly candidates: readonly number[];
  /** Places of the anchors' own positives among the candidates. */
  readonly own: readonly number[];
  /** Where the candidates of each example begin, and where the last ones end. */
  readonly starts: readonly number[];
  /** Tells whether a candidate's text is that of a positive of an anchor, by their places: of its own example, or of another one of the same text. */
  matches(anchor: number, candidate: number): boolean;
  /** Examples of two texts, as scored pairs. */
  readonly pairs: readonly ScoredPair[];
}

export interface ScoredPair {
  readonly first: number;
  readonly second: number;
  readonly score: number;
}

/** Describes the examples whose texts are judged together. */
export interface Layout {
  /** Texts of each example: anchor, positive, negatives; or both of a scored pair. */
  readonly counts: readonly number[];
  /** The same number for the same text, of each text; empty: all texts are taken for different ones. */
  readonly keys: readonly number[];
  /** The score of each text's example; empty: they have none. */
  readonly scores: ArrayLike<number>;
}

/** Bits of a hash that a number holds exactly. */
const BITS = 53;

/** The examples of micro-batches. */
export function layoutOf({ spans, ids, targets }: JudgedTexts): Layout {
  const bytesOf = (from: number, to: number) => new Uint8Array(ids!.buffer, ids!.byteOffset + 4 * from, 4 * (to - from));
  return {
    counts: spans.map(({ length }) => length),
    keys: ids ? spans.flat().map(({ from, to }) => Number(BigInt.asUintN(BITS, BigInt(Bun.hash(bytesOf(from, to)))))) : [],
    scores: targets ?? [],
  };
}

export function textsOf({ counts, keys, scores }: Layout): Texts {
  const [anchors, candidates, own, starts]: number[][] = [[], [], [], []];
  const pairs: ScoredPair[] = [];
  const positives = new Map<number, Set<number>>();
  let text = 0;
  for (const length of counts) {
    anchors!.push(text);
    own!.push(candidates!.length);
    starts!.push(candidates!.length);
    for (let other = 1; other < length; other++) candidates!.push(text + other);
    if (scores.length > 0) pairs.push({ first: text, second: text + 1, score: scores[text]! });
    const known = positives.get(keys[text]!) ?? new Set();
    if (keys.length > 0) positives.set(keys[text]!, known.add(keys[text + 1]!));
    text += length;
  }
  starts!.push(candidates!.length);
  return {
    anchors: anchors!,
    candidates: candidates!,
    own: own!,
    starts: starts!,
    pairs,
    matches: (anchor, candidate) =>
      keys.length > 0 && positives.get(keys[anchors![anchor]!]!)!.has(keys[candidates![candidate]!]!),
  };
}
