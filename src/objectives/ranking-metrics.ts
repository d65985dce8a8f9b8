import type { Metric } from "./objective.ts";

/** Metrics of rankings: how far up the texts are that answer a query, when all texts of it are put in the order of their scores. */
export const RANKING_METRICS: readonly Metric[] = [
  { name: "mrr", label: "MRR", better: "higher", digits: 3 },
  { name: "ndcg@10", label: "nDCG@10", better: "higher", digits: 3 },
];

/** Places that nDCG looks at. */
const PLACES = 10;

/** Scored texts: the same place in all lists is the same text. */
export interface ScoredTexts {
  readonly scores: readonly number[];
  /** 0: no match; the greater, the better a match. */
  readonly labels: readonly number[];
  /** The same number for all texts of a query. */
  readonly queries: readonly number[];
}

/** Returns the means over queries; none of queries whose texts all have the same label, which have no better and no worse order. */
export function rankingValues({ scores, labels, queries }: ScoredTexts): Readonly<Record<string, number>> {
  const byQuery = new Map<number, number[]>();
  for (const [text, query] of queries.entries()) {
    const texts = byQuery.get(query);
    if (texts) texts.push(text);
    else byQuery.set(query, [text]);
  }
  let [count, mrr, ndcg] = [0, 0, 0];
  for (const texts of byQuery.values()) {
    const own = { scores: texts.map((text) => scores[text]!), labels: texts.map((text) => labels[text]!) };
    if (own.labels.every((label) => label === own.labels[0])) continue;
    count++;
    mrr += reciprocalRank(own);
    ndcg += dcg(own.scores, own.labels) / dcg(own.labels, own.labels);
  }
  return count === 0 ? {} : { mrr: mrr / count, "ndcg@10": ndcg / count };
}

/** 1 / the place of the first match, which of equal scores comes last: a model that scores all texts alike finds nothing. */
function reciprocalRank({ scores, labels }: Pick<ScoredTexts, "scores" | "labels">): number {
  const best = scores.reduce((most, score, i) => (labels[i]! > 0 ? Math.max(most, score) : most), -Infinity);
  return 1 / (1 + scores.filter((score, i) => labels[i] === 0 && score >= best).length);
}

/**
 * Discounted cumulative gain of the first places: the sum of label / log2(1 + place). Equal scores share what their places give together (McSherry
 * and Najork 2008, https://doi.org/10.1007/978-3-540-78646-7_38), as in scikit-learn.
 */
function dcg(scores: readonly number[], labels: readonly number[]): number {
  const order = scores.map((_, i) => i).sort((a, b) => scores[b]! - scores[a]!);
  let sum = 0;
  for (let from = 0; from < Math.min(order.length, PLACES);) {
    let [to, gain, discount] = [from, 0, 0];
    for (; to < order.length && scores[order[to]!] === scores[order[from]!]; to++) {
      gain += labels[order[to]!]!;
      if (to < PLACES) discount += 1 / Math.log2(2 + to);
    }
    sum += (gain * discount) / (to - from);
    from = to;
  }
  return sum;
}
