/**
 * Canonical intervals: the intervals s..t of a chain, where intervals of equal segments are one. Their rows in a
 * planning table are equal when the parameter gradients of later segments are counted outside, so a language model of
 * n blocks has about 3n rows in place of n^2 / 2.
 */
import { type Chain, variantsOf } from "../chain.ts";

export interface Intervals {
  /** Number of distinct intervals, ordered by length. */
  readonly count: number;
  /** A segment pair of each distinct interval. */
  readonly first: Int32Array;
  readonly last: Int32Array;
  /** Distinct interval of segments s..t (1-based). */
  id(s: number, t: number): number;
}

/** Segments are equal when all numbers that a recurrence reads about them are equal to the bit. */
export function canonicalIntervals(chain: Chain): Intervals {
  const { n } = chain;
  const classes = segmentClasses(chain);
  const ids = new Int32Array(n * n);
  const first: number[] = [];
  const last: number[] = [];
  // An interval is the interval without its last segment, followed by that segment's class.
  const known = new Map<number, number>();
  for (let length = 1; length <= n; length++) {
    for (let s = 1; s + length - 1 <= n; s++) {
      const t = s + length - 1;
      const shorter = length === 1 ? 0 : ids[(s - 1) * n + (t - 2)]! + 1;
      const key = shorter * (n + 1) + classes[t - 1]!;
      let id = known.get(key);
      if (id === undefined) {
        id = first.length;
        known.set(key, id);
        first.push(s);
        last.push(t);
      }
      ids[(s - 1) * n + (t - 1)] = id;
    }
  }
  return {
    count: first.length,
    first: Int32Array.from(first),
    last: Int32Array.from(last),
    id: (s, t) => ids[(s - 1) * n + (t - 1)]!,
  };
}

function segmentClasses(chain: Chain): Int32Array {
  const { a, g, of, w, frozen, replay } = chain;
  const known = new Map<string, number>();
  const classes = new Int32Array(chain.n);
  for (let i = 1; i <= chain.n; i++) {
    const key = JSON.stringify([
      a[i - 1],
      a[i],
      g[i - 1],
      g[i],
      w[i - 1],
      of[i - 1],
      i <= frozen,
      replay[i - 1],
      variantsOf(chain, i),
    ]);
    if (!known.has(key)) known.set(key, known.size);
    classes[i - 1] = known.get(key)!;
  }
  return classes;
}
