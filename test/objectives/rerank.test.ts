import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { parseExample } from "../../src/data/examples/formats.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { evaluate } from "../../src/library/evaluate.ts";
import { merge } from "../../src/library/merge.ts";
import { train } from "../../src/library/train.ts";
import type { LogitsHead } from "../../src/objectives/objective.ts";
import { rankingValues } from "../../src/objectives/ranking-metrics.ts";
import { rerank } from "../../src/objectives/rerank.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused, writeTinyModel } from "../support/cli.ts";
import { writeTinyBert } from "../support/encoders.ts";
import { RERANK_FOLDER } from "../support/rerank.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const encoder = writeTinyBert(join(folder, "bert"));
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
const write = (name: string, lines: readonly unknown[]): string => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return path;
};
const other = (i: number, by: number) => `the ${words[(i + by) % words.length]} of old`;
const lists = write(
  "lists.jsonl",
  words.map((word, i) => ({ query: `a ${word}?`, pos: [`the ${word} of old`], neg: [other(i, 1), other(i, 3)] })),
);
const pairs = write(
  "pairs.jsonl",
  words.flatMap((word, i) => [
    { query: `a ${word}?`, text: `the ${word} of old`, label: true },
    { query: `a ${word}?`, text: other(i, 2), label: 0 },
  ]),
);

const span = { from: 0, to: 1 };

test.each(["bce", "softmax", "listnet"] as const)("%s: derivatives are those of finite differences in float64", (rerankLoss) => {
  const head = rerank.create({ rerankLoss, positiveWeight: 2.5 }) as LogitsHead;
  const random = createRandom(1, "rerank");
  const spans = [
    [span, span, span],
    [span, span],
    [span, span, span, span],
  ];
  const labels = [1, 0, 0.5, 0.25, 1, 0, 0, 0.5, 1];
  const targets = Float32Array.from(labels.flatMap((label) => [label, 0, 0]));
  const batch = { examples: 3, spans, targets } as unknown as MicroBatch;
  const values = Float32Array.from(labels, () => random.normal());
  const lossOf = (at: Float32Array) => head.values(head.judge(batch, at).sums).loss * head.share(batch);
  const { weights } = head.judge(batch, values);
  for (let i = 0; i < values.length; i++) {
    const [up, down] = [1, -1].map((sign) => lossOf(values.map((value, k) => (k === i ? value + sign / 1024 : value))));
    expect(weights[i]!).toBeCloseTo((up! - down!) * 512, 4);
  }
});

test("MRR and nDCG@10 are those of sentence-transformers and scikit-learn", () => {
  const cases = JSON.parse(readFileSync(join(RERANK_FOLDER, "metrics.json"), "utf8")) as {
    readonly labels: number[];
    readonly scores: number[];
    readonly "ndcg@10": number;
    readonly mrr?: number;
  }[];
  expect(cases.filter(({ mrr }) => mrr !== undefined).length).toBeGreaterThan(15);
  for (const { labels, scores, ...expected } of cases) {
    const found = rankingValues({ labels, scores, queries: labels.map(() => 7) });
    expect(found["ndcg@10"]!).toBeCloseTo(expected["ndcg@10"], 6);
    if (expected.mrr !== undefined) expect(found["mrr"]!).toBeCloseTo(expected.mrr, 6);
  }
});

test("texts of a query belong together wherever they are; what has no order counts for nothing, and a draw is no find", () => {
  expect(rankingValues({ labels: [1, 1, 0, 0], scores: [3, 1, 2, 4], queries: [1, 2, 1, 2] })).toMatchObject({ mrr: 0.75 });
  expect(rankingValues({ labels: [1, 1, 0], scores: [3, 1, 2], queries: [1, 1, 2] })).toEqual({});
  expect(rankingValues({ labels: [1, 0, 0], scores: [2, 2, 2], queries: [1, 1, 1] })).toMatchObject({ mrr: 1 / 3 });
});

describe("examples", () => {
  const where = "d.jsonl:7";
  const read = (record: unknown) => parseExample(JSON.stringify(record), where);
  test("in all forms", () => {
    const ranked = { kind: "ranked" as const, query: "q", where };
    expect(read({ query: "q", text: "t", label: 1 })).toEqual({ ...ranked, texts: ["t"], labels: [1] });
    expect(read({ query: "q", text: "t", label: "False" })).toEqual({ ...ranked, texts: ["t"], labels: [0] });
    expect(read({ query: "q", docs: ["a", "b"], labels: [0.5, 2] })).toEqual({ ...ranked, texts: ["a", "b"], labels: [0.5, 2] });
    expect(read({ query: "q", docs: '["a"]', labels: "[1.0]" })).toEqual({ ...ranked, texts: ["a"], labels: [1] });
    expect(read({ query: "q", pos: ["a", "b"], neg: ["c"] })).toMatchObject({ kind: "contrast", positives: ["a", "b"] });
  });
  test.each([
    [{ query: "q", text: "t", label: -1 }, '"label" must say how well the text answers the query'],
    [{ query: "q", text: "t", label: "good" }, "a number from 0 (not at all) on"],
    [{ query: "q", text: " ", label: 1 }, '"text" is empty'],
    [{ query: 5, text: "t", label: 1 }, '"query" must be a text'],
    [{ query: "q", docs: ["a", "b"], labels: [1] }, '"docs" has 2 texts and "labels" 1 numbers'],
    [{ query: "q", docs: ["a"], labels: [[1]] }, '"labels" entry 1 must say'],
    [{ query: "q", docs: "a", labels: [1] }, '"docs" must be a list of texts'],
  ])("%j is refused with its place", (record, message) => {
    expect(() => read(record)).toThrow(message);
    expect(() => read(record)).toThrow(where);
  });
});

test("truncation keeps the query, and cuts the text alone; a query that leaves no room is refused", () => {
  const tokenizer = loadTokenizer(encoder);
  const example = (query: string, text: string) => parseExample(JSON.stringify({ query, text, label: 1 }), "d:1");
  const maker = (maxLength: number) =>
    createSampleMaker(tokenizer, { maxLength, truncate: true, vocabSize: 800, surround: true });
  const query = "the king and the house and the water and the tree";
  const whole = maker(64).samples(example(query, "a stone"))[0]!;
  const { ids, seconds } = maker(whole.seconds![0]! + 3).samples(example(query, "a stone of the night of the bread"))[0]!;
  expect(seconds).toEqual(whole.seconds!);
  expect([...ids.subarray(0, seconds![0])]).toEqual([...whole.ids.subarray(0, seconds![0])]);
  expect(ids.length).toBe(seconds![0]! + 3);
  expect(() => maker(whole.seconds![0]!).samples(example(query, "a stone"))).toThrow(
    /d:1: the query has \d+ tokens, which leave no room/,
  );
});

const common = { threads: 1, sequenceLength: 32, batchSize: 8, packing: false, learningRate: 5e-3, warmup: 0 } as const;

test("a full run of an encoder learns which text answers, and ends in a folder of a cross-encoder", async () => {
  const output = join(folder, "full");
  const run = {
    model: encoder,
    data: lists,
    valid: lists,
    output,
    objective: "rerank",
    method: "full",
    rerankLoss: "softmax",
  } as const;
  const { evaluation } = await train({ ...run, ...common, steps: 40, bestMetric: "mrr" });
  expect(evaluation!.metrics["mrr"]).toBeGreaterThan(0.9);
  expect(evaluation!.metrics["ndcg@10"]).toBeGreaterThan(0.9);
  const config = JSON.parse(readFileSync(join(output, "config.json"), "utf8")) as Record<string, unknown>;
  expect(config).toMatchObject({
    architectures: ["BertForSequenceClassification"],
    id2label: { "0": "LABEL_0" },
    sentence_transformers: { activation_fn: "torch.nn.modules.activation.Sigmoid" },
  });
  const measured = { model: output, objective: "rerank", threads: 1, sequenceLength: 32 } as const;
  const again = await evaluate({ ...measured, data: lists, rerankLoss: "softmax" });
  expect(again.metrics["mrr"]).toBe(evaluation!.metrics["mrr"]!);
  expect(again.loss).toBeCloseTo(evaluation!.loss, 4);
  // Pairs of a query lie in records of their own.
  expect((await evaluate({ ...measured, data: pairs })).metrics["mrr"]).toBeGreaterThan(0.7);
});

test("an adapter on a causal model, merged, measures as it did; records that do not fit are refused", async () => {
  const model = writeTinyModel(join(folder, "tiny"), {
    num_hidden_layers: 2,
    hidden_size: 16,
    head_dim: 4,
    intermediate_size: 24,
  });
  const output = join(folder, "lora");
  const run = { model, data: pairs, objective: "rerank", ...common, output } as const;
  await train({ ...run, packing: true, steps: 3 });
  expect(JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8"))).toMatchObject({
    task_type: "SEQ_CLS",
    modules_to_save: ["score"],
  });
  await merge({ adapter: output, out: join(folder, "merged") });
  const measured = { data: lists, objective: "rerank", threads: 1, sequenceLength: 32 } as const;
  const [apart, merged] = [
    await evaluate({ ...measured, model: output }),
    await evaluate({ ...measured, model: join(folder, "merged") }),
  ];
  expect(merged.loss).toBeCloseTo(apart.loss, 4);

  const flags = ["train", "--model", model, "--objective", "rerank", "--sequence-length", "32", "--output", join(folder, "none")];
  expect(await refused(...flags, "--data", pairs, "--rerank-loss", "softmax")).toContain(
    "write all texts of a query in one record",
  );
  expect(await refused(...flags, "--data", lists, "--list-size", "2")).toContain("lists.jsonl:1: the query has 3 texts");
  const graded = write("graded.jsonl", [{ query: "q", docs: ["a", "b"], labels: [3, 0] }]);
  expect(await refused(...flags, "--data", graded)).toContain("a label is 3; --rerank-loss bce takes labels from 0 to 1");
  const nothing = write("nothing.jsonl", [{ query: "q", docs: ["a", "b"], labels: [0, 0] }]);
  expect(await refused(...flags, "--data", nothing, "--rerank-loss", "softmax")).toContain("no text of the query answers it");
  const labelled = write("labelled.jsonl", [{ text: "a", label: "x" }]);
  expect(await refused(...flags, "--data", labelled)).toContain("that is for --objective classify");
  expect(existsSync(join(folder, "none"))).toBe(false);
});
