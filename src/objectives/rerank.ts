import { z } from "zod";
import { UserError } from "../base/errors.ts";
import type { RankedExample } from "../data/examples/example.ts";
import { logSigmoid, logSoftmax } from "./logistic.ts";
import { defineObjective, type JudgedTexts, type Judgement, type LogitsHead, type Sums } from "./objective.ts";
import { RANKING_METRICS, rankingValues, type ScoredTexts } from "./ranking-metrics.ts";

const LOSSES = ["bce", "softmax", "listnet"] as const;
type RerankLoss = (typeof LOSSES)[number];

/** Texts of a query that are planned for where no example has been read. */
const PLANNED_TEXTS = 8;

/**
 * A cross-encoder (Nogueira and Cho 2019, https://arxiv.org/abs/1901.04085), which reads query and text together and gives them a score s. With the label y
 * of a text, 1 or more where it answers the query, the loss is
 *
 *     bce:      -(w y log sigmoid(s) + (1 - y) log sigmoid(-s))          of a text; w: the weight of matches
 *     softmax:  -sum_j (y_j / sum y) log softmax(s)_j                    of a query, over its texts j
 *     listnet:  -sum_j softmax(y)_j log softmax(s)_j                     the same (Cao et al. 2007, https://doi.org/10.1145/1273496.1273513)
 *
 * and everything is a mean over texts, or over queries: BinaryCrossEntropyLoss, MultipleNegativesRankingLoss (without negatives of other queries and at a
 * scale of 1) and ListNetLoss of sentence-transformers' cross-encoders.
 */
export const rerank = defineObjective({
  name: "rerank",
  summary: "how well a text answers a query, read together (cross-encoder)",
  accepts: ["ranked"],
  texts: 1,
  textsOf: ({ listSize }) => listSize ?? PLANNED_TEXTS,
  metrics: RANKING_METRICS,
  flags: {
    rerankLoss: z
      .enum(LOSSES)
      .default("bce")
      .describe("rerank: loss of a text by itself (bce), or of all texts of a query together (softmax, listnet)"),
    positiveWeight: z
      .number()
      .positive()
      .default(1)
      .describe("rerank: how much a text that answers the query counts against one that does not, with the loss bce"),
    listSize: z
      .int()
      .min(1)
      .max(1024)
      .optional()
      .describe("rerank: texts of a query in an example, at most (the most that the examples have)"),
  },
  create: ({ rerankLoss, positiveWeight }): LogitsHead => {
    const isSingle = rerankLoss === "bce";
    return {
      kind: "logits",
      outputs: 1,
      relevance: { key: JSON.stringify(["rerank", rerankLoss]), of: (example) => targetsOf(example, rerankLoss) },
      share: ({ examples, spans }) => (isSingle ? spans.flat().length : examples),
      judge: (batch, scores) => {
        const judge = isSingle ? textJudge(positiveWeight) : listJudge(rerankLoss);
        return judgeLists(batch, scores, judge, isSingle);
      },
      values(sums) {
        const { units, loss, ...scored } = sums as unknown as RankSums;
        return { loss: loss / units, metrics: rankingValues(scored) };
      },
    };
  },
});

/** Sums over texts, or over queries, which `units` counts. */
type RankSums = Sums & ScoredTexts & { readonly units: number; readonly loss: number };

/** Numbers of a text's target: its label, and two halves of a number that its query has. */
const WIDTH = 3;

/** Whole numbers below this one are exact in float32. */
const HALF = 2 ** 24;

/** @throws {UserError} labels that mean nothing to the loss */
function targetsOf({ query, labels, where }: RankedExample, loss: RerankLoss): Float32Array[] {
  const beyond = loss === "bce" ? labels.find((label) => label > 1) : undefined;
  if (beyond !== undefined) {
    throw new UserError(
      `${where}: a label is ${beyond}; --rerank-loss bce takes labels from 0 to 1, and listnet those that are graded otherwise`,
    );
  }
  if (loss === "softmax" && labels.every((label) => label === 0))
    throw new UserError(`${where}: no text of the query answers it; --rerank-loss softmax wants at least one that does`);
  const hash = Bun.hash(query);
  const halves = [Number(hash & 0xffffffn), Number((hash >> 24n) & 0xffffffn)];
  return labels.map((label) => Float32Array.of(label, ...halves));
}

/** The loss of some texts and its derivatives by their scores. */
type ListJudge = (scores: Float64Array, labels: readonly number[]) => { readonly loss: number; readonly slopes: Float64Array };

/** Each text by itself. */
const textJudge =
  (weight: number): ListJudge =>
  (scores, labels) => {
    let loss = 0;
    const slopes = scores.map((s, i) => {
      const [hit, miss] = [weight * labels[i]!, 1 - labels[i]!];
      loss -= hit * logSigmoid(s) + miss * logSigmoid(-s);
      // d log sigmoid(s) = sigmoid(-s) ds.
      return miss * Math.exp(logSigmoid(s)) - hit * Math.exp(logSigmoid(-s));
    });
    return { loss, slopes };
  };

/** All texts of a query. */
const listJudge =
  (kind: Exclude<RerankLoss, "bce">): ListJudge =>
  (scores, labels) => {
    const sum = labels.reduce((total, label) => total + label, 0);
    const wanted = kind === "softmax" ? Float64Array.from(labels, (label) => label / sum) : logSoftmax(labels).map(Math.exp);
    const logp = logSoftmax(scores);
    let loss = 0;
    // d -sum_j t_j log p_j / d s_k = p_k - t_k, as the t_j add up to 1.
    const slopes = logp.map((each, i) => {
      loss -= wanted[i]! * each;
      return Math.exp(each) - wanted[i]!;
    });
    return { loss, slopes };
  };

/** @param scores of the texts of all queries, one behind the other */
function judgeLists({ spans, targets }: JudgedTexts, scores: Float32Array, judge: ListJudge, isSingle: boolean): Judgement {
  const texts = spans.flat().length;
  const column = (at: number) => Array.from({ length: texts }, (_, i) => targets![i * WIDTH + at]!);
  const [labels, high, low] = [column(0), column(1), column(2)];
  const weights = new Float64Array(scores.length);
  let [loss, at] = [0, 0];
  for (const { length } of spans) {
    const found = judge(Float64Array.from(scores.subarray(at, at + length)), labels.slice(at, at + length));
    loss += found.loss;
    weights.set(found.slopes, at);
    at += length;
  }
  const queries = high.map((half, i) => half * HALF + low[i]!);
  return { sums: { units: isSingle ? texts : spans.length, loss, scores: [...scores], labels, queries }, weights };
}
