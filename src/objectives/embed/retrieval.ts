import type { Metric } from "../objective.ts";
import type { Layout } from "./texts.ts";
import { cosine, type Units } from "./vectors.ts";

/** Places that recall looks at. */
const PLACES = [1, 5, 10] as const;

/** Metrics of a search for the matches of all held-out anchors among all held-out positives and negatives. */
export const RETRIEVAL_METRICS: readonly Metric[] = [
  ...PLACES.map((k): Metric => ({ name: `recall@${k}`, label: `recall@${k}`, better: "higher", unit: "%", digits: 1 })),
  { name: "mrr", label: "MRR", better: "higher", digits: 3 },
];

/** How well cosines put scored pairs in order. */
export const CORRELATION_METRICS: readonly Metric[] = [{ name: "spearman", label: "Spearman", better: "higher", digits: 3 }];

/**
 * Searches the corpus, in which each text is once, for the matches of each anchor, which are the positives of all examples with its text: `recall@k` is the share of them
 * among the k nearest, `mrr` 1 / the place of the nearest, and both are means over different anchors. Of equally near texts the matches come last: a model
 * that finds all texts alike finds nothing.
 */
export function retrievalValues(units: Units, { counts, keys }: Layout): Readonly<Record<string, number>> {
  const corpus = new Map<number, number>();
  const queries = new Map<number, { readonly text: number; readonly matches: Set<number> }>();
  const keyOf = (text: number) => keys[text] ?? text;
  let text = 0;
  for (const length of counts) {
    for (let other = text + 1; other < text + length; other++) if (!corpus.has(keyOf(other))) corpus.set(keyOf(other), other);
    const query = queries.get(keyOf(text)) ?? { text, matches: new Set() };
    query.matches.add(keyOf(text + 1));
    queries.set(keyOf(text), query);
    text += length;
  }
  const recalls = PLACES.map(() => 0);
  let mrr = 0;
  for (const { text: anchor, matches } of queries.values()) {
    const [near, far]: number[][] = [[], []];
    for (const [key, other] of corpus) (matches.has(key) ? near! : far!).push(cosine(units, anchor, other));
    near!.sort((a, b) => b - a);
    // The n-th match stands behind n - 1 others and all that are no further away.
    const places = near!.map((value, n) => n + 1 + far!.reduce((count, each) => count + Number(each >= value), 0));
    for (const [p, k] of PLACES.entries()) recalls[p]! += places.filter((place) => place <= k).length / places.length;
    mrr += 1 / places[0]!;
  }
  return {
    ...Object.fromEntries(PLACES.map((k, p) => [`recall@${k}`, recalls[p]! / queries.size])),
    mrr: mrr / queries.size,
  };
}

/** Spearman's rank correlation of two lists: that of Pearson between the ranks, of which equal values have the mean; none where a list has one value only. */
export function spearman(a: readonly number[], b: readonly number[]): number | null {
  const [x, y] = [ranksOf(a), ranksOf(b)];
  const middle = (a.length - 1) / 2;
  let [xy, xx, yy] = [0, 0, 0];
  for (const [i, rank] of x.entries()) {
    xy += (rank - middle) * (y[i]! - middle);
    xx += (rank - middle) ** 2;
    yy += (y[i]! - middle) ** 2;
  }
  return xx === 0 || yy === 0 ? null : xy / Math.sqrt(xx * yy);
}

/** From 0 on. */
function ranksOf(values: readonly number[]): Float64Array {
  const order = values.map((_, i) => i).sort((i, j) => values[i]! - values[j]!);
  const ranks = new Float64Array(values.length);
  for (let from = 0; from < order.length;) {
    let to = from + 1;
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++;
    for (let i = from; i < to; i++) ranks[order[i]!] = (from + to - 1) / 2;
    from = to;
  }
  return ranks;
}
