import { z } from "zod";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseExample } from "../../src/data/examples/formats.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { createRandom } from "../../src/base/random.ts";
import { evaluate } from "../../src/library/evaluate.ts";
import { plan } from "../../src/library/plan.ts";
import { train } from "../../src/library/train.ts";
import { embed } from "../../src/objectives/embed/embed.ts";
import { addSums, type LogitsHead, type Sums } from "../../src/objectives/objective.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, writeTinyModel } from "../support/cli.ts";
import { EMBED_FOLDER } from "../support/embed.ts";
import { writeTinyBert } from "../support/encoders.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const encoder = writeTinyBert(join(folder, "bert"));
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
const write = (name: string, lines: readonly unknown[]): string => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return path;
};
const pairs = write(
  "pairs.jsonl",
  words.map((word) => ({ anchor: `What is a ${word}?`, positive: `the ${word} of old` })),
);

const headOf = (settings: Readonly<Record<string, unknown>>): LogitsHead =>
  embed.create(z.object(embed.flags).parse(settings)) as LogitsHead;

/** Texts of one token each; equal ids are equal texts. */
function batchOf(counts: readonly number[], ids?: readonly number[], targets?: readonly number[]): MicroBatch {
  let text = 0;
  const spans = counts.map((count) => Array.from({ length: count }, () => ({ from: text, to: ++text })));
  return {
    examples: counts.length,
    spans,
    ids: Int32Array.from(ids ?? Array.from({ length: text }, (_, i) => i)),
    ...(targets && { targets: Float32Array.from(targets) }),
  } as unknown as MicroBatch;
}

const scores = [0.5, 0.5, -1, -1, 0.5, 0.5, 0.25, 0.25];
const triples = batchOf([3, 2, 4]);
test.each([
  ["contrast", {}, triples],
  ["contrast", { symmetric: true }, triples],
  ["contrast, with texts that match by several examples", { symmetric: true }, batchOf([3, 2, 4], [0, 1, 2, 0, 3, 4, 1, 5, 1])],
  ["contrast", { matryoshka: [4, 2] }, triples],
  ["triplet", { embedLoss: "triplet", tripletMargin: 2 }, batchOf([3, 4, 3])],
  ["cosent", { embedLoss: "cosent" }, batchOf([2, 2, 2, 2], undefined, scores)],
  ["cosent", { embedLoss: "cosent", matryoshka: [3, 1] }, batchOf([2, 2, 2, 2], undefined, scores)],
  ["cosine", { embedLoss: "cosine" }, batchOf([2, 2, 2, 2], undefined, scores)],
] as const)("derivatives of %s %j are those of finite differences in float64", (_, settings, batch) => {
  const head = headOf({ embedScale: 5, ...settings });
  const random = createRandom(1, "embed");
  const values = Float32Array.from({ length: batch.spans.flat().length * 4 }, () => random.normal());
  const lossOf = (at: Float32Array) => head.values(head.judge(batch, at).sums).loss * head.share(batch);
  const { weights } = head.judge(batch, values);
  for (let i = 0; i < values.length; i++) {
    const [up, down] = [1, -1].map((sign) => lossOf(values.map((value, k) => (k === i ? value + sign / 1024 : value))));
    expect(weights[i]!).toBeCloseTo((up! - down!) * 512, 3);
  }
});

test("an anchor is found if its own positive is nearer than anything else; a draw is no find", () => {
  const head = headOf({});
  const batch = batchOf([2, 2]);
  const recall = (values: number[]) => head.values(head.judge(batch, Float32Array.from(values)).sums).metrics["recall@1"];
  expect(recall([1, 0, 2, 0, 0, 1, 0, 3])).toBe(1);
  expect(recall([1, 0, 0, 1, 0, 1, 1, 0])).toBe(0);
  expect(recall([1, 0, 1, 1, 0, 1, 1, 1])).toBe(0);
});

test("a text that matches an anchor by another example is no negative of it", () => {
  const head = headOf({ embedScale: 3 });
  const random = createRandom(2, "embed");
  const values = Float32Array.from({ length: 4 * 3 }, () => random.normal());
  const lossOf = (ids: readonly number[]) => head.values(head.judge(batchOf([2, 2], ids), values).sums).loss;
  expect(lossOf([0, 1, 2, 3])).toBeGreaterThan(0.1);
  // One anchor with two positives, and two anchors with one.
  expect(lossOf([0, 1, 0, 3])).toBe(0);
  expect(lossOf([0, 1, 2, 1])).toBe(0);
});

describe("held-out examples", () => {
  const fixture = JSON.parse(readFileSync(join(EMBED_FOLDER, "metrics.json"), "utf8")) as {
    readonly width: number;
    readonly examples: readonly { readonly ids: readonly number[] }[];
    readonly vectors: readonly (readonly number[])[];
    readonly retrieval: Readonly<Record<string, number>>;
    readonly pairs: readonly { readonly ids: readonly number[]; readonly score: number }[];
    readonly spearman: number;
  };
  /** The values of micro-batches of so many examples. */
  const valuesOf = (
    head: LogitsHead,
    examples: readonly { readonly ids: readonly number[]; readonly score?: number }[],
    size: number,
  ) => {
    let sums: Sums | null = null;
    for (let from = 0; from < examples.length; from += size) {
      const part = examples.slice(from, from + size);
      const ids = part.flatMap((each) => each.ids);
      const targets = part.flatMap(({ score, ids: own }) => (score === undefined ? [] : own.map(() => score)));
      const batch = batchOf(
        part.map((each) => each.ids.length),
        ids,
        targets.length > 0 ? targets : undefined,
      );
      sums = addSums(sums, head.evaluate!(batch, Float32Array.from(ids.flatMap((id) => fixture.vectors[id]!))));
    }
    return head.values(sums!);
  };

  test("recall and reciprocal rank are those of sentence-transformers' evaluator, whatever shares a micro-batch", () => {
    const head = headOf({});
    const { loss, metrics } = valuesOf(head, fixture.examples, 7);
    expect(Object.keys(metrics)).toEqual(["recall@1", "recall@5", "recall@10", "mrr"]);
    for (const [name, value] of Object.entries(fixture.retrieval)) expect(metrics[name]).toBeCloseTo(value, 10);
    const whole = valuesOf(head, fixture.examples, 1000);
    expect(whole).toEqual({ loss, metrics });
    // The loss is that of all of them as one micro-batch.
    const ids = fixture.examples.flatMap((each) => each.ids);
    const batch = batchOf(
      fixture.examples.map((each) => each.ids.length),
      ids,
    );
    const judged = head.judge(batch, Float32Array.from(ids.flatMap((id) => fixture.vectors[id]!)));
    expect(loss).toBeCloseTo(head.values(judged.sums).loss, 10);
  });

  test("the rank correlation of cosines with scores is that of sentence-transformers' evaluator", () => {
    const { metrics } = valuesOf(headOf({ embedLoss: "cosent" }), fixture.pairs, 5);
    expect(metrics["spearman"]).toBeCloseTo(fixture.spearman, 6);
    // All scores alike have no order.
    const alike = fixture.pairs.map(({ ids }) => ({ ids, score: 1 }));
    expect(valuesOf(headOf({ embedLoss: "cosine" }), alike, 5).metrics).toEqual({});
  });
});

describe("examples", () => {
  const read = (record: unknown) => parseExample(JSON.stringify(record), "d.jsonl:7");
  const kind = "contrast" as const;
  const where = "d.jsonl:7";
  test("in the forms of sentence-transformers and of FlagEmbedding", () => {
    expect(read({ anchor: "a", positive: "p" })).toEqual({ kind, anchor: "a", positives: ["p"], negatives: [], where });
    expect(read({ anchor: "a", positive: "p", negative: "[n" })).toMatchObject({ negatives: ["[n"] });
    expect(read({ anchor: "a", positive: "p", negative: ["n", "m"] })).toMatchObject({ negatives: ["n", "m"] });
    expect(read({ query: "a", pos: ["p"], neg: ["n"] })).toEqual({
      kind,
      anchor: "a",
      positives: ["p"],
      negatives: ["n"],
      where,
    });
  });
  test.each([
    [{ query: "a", pos: [] }, '"pos" has 0 texts'],
    [{ query: "a", pos: [1] }, '"pos" entry 1 must be a text, got a number'],
    [{ query: "a", pos: "p" }, '"pos" must be a list of texts'],
    [{ anchor: "a", positive: " " }, '"positive" is empty'],
    [{ anchor: 3, positive: "p" }, '"anchor" must be a text'],
    [{ anchor: "a", positive: "p", negative: 5 }, '"negative" must be a list of texts'],
    [{ anchor: "a", positive: "p", postive: "q" }, 'unknown key "postive"'],
  ])("%j is refused with its place", (record, message) => {
    expect(() => read(record)).toThrow(message);
    expect(() => read(record)).toThrow(where);
  });
});

test("a full run of an encoder learns which texts belong together, and ends in a folder of sentence-transformers", async () => {
  const output = join(folder, "full");
  const { evaluation } = await train({
    model: encoder,
    data: pairs,
    valid: pairs,
    output,
    objective: "embed",
    method: "full",
    threads: 1,
    sequenceLength: 32,
    batchSize: 8,
    packing: false,
    steps: 30,
    learningRate: 5e-3,
    warmup: 0,
    bestMetric: "mrr",
  });
  expect(evaluation!.metrics).toEqual({ "recall@1": 1, "recall@5": 1, "recall@10": 1, mrr: 1 });
  const read = (name: string) => JSON.parse(readFileSync(join(output, name), "utf8")) as Record<string, unknown>;
  expect((read("modules.json") as unknown as { path: string }[]).map(({ path }) => path)).toEqual([
    "",
    "1_Pooling",
    "2_Normalize",
  ]);
  expect(read("1_Pooling/config.json")).toMatchObject({
    word_embedding_dimension: 16,
    pooling_mode_mean_tokens: true,
    pooling_mode_cls_token: false,
  });
  expect(read("sentence_bert_config.json")).toMatchObject({ max_seq_length: 32 });
  expect(read("config.json")).toMatchObject({ architectures: ["BertModel"] });
  expect(readFileSync(join(output, "SHA256SUMS"), "utf8")).toContain("1_Pooling/config.json");
  const planned = await plan({ model: encoder, objective: "embed", threads: 1, sequenceLength: 32, batchSize: 8 });
  expect(planned.segments.map(({ name }) => name)).toContain("head");
  // What was trained is trained further, and refused by what it is no model for.
  const again = { model: output, data: pairs, output: join(folder, "again"), objective: "embed", method: "full" } as const;
  const notes: string[] = [];
  const sink = (event: { readonly type: string; readonly notes?: readonly string[] }) => void notes.push(...(event.notes ?? []));
  const rest = { threads: 1, sequenceLength: 32, batchSize: 8, packing: false, steps: 1 } as const;
  await train({ ...again, ...rest }, { sink });
  expect(notes.join()).not.toContain("1_Pooling");
  await train({ ...again, ...rest, output: join(folder, "other"), pooling: "cls" }, { sink });
  expect(notes.join()).toContain("1_Pooling says mean, and --pooling is cls");
  const measured = await evaluate({ model: output, data: pairs, objective: "embed", threads: 1, sequenceLength: 32 });
  expect(measured.metrics).toEqual(evaluation!.metrics);
  expect(measured.loss).toBeCloseTo(evaluation!.loss, 5);
  const untrained = await evaluate({ model: encoder, data: pairs, objective: "embed", threads: 1, sequenceLength: 32 });
  expect(untrained.loss).toBeGreaterThan(measured.loss + 1);
  expect(await ok("eval", "--model", output, "--objective", "embed", "--data", pairs, "--threads", "1")).toMatch(
    /^loss 0\.\d+, recall@1 100\.00 %, recall@5 100\.00 %, recall@10 100\.00 %, MRR 1\.0000 \(8 examples, \d+ tokens\)/,
  );
});

test("scored pairs are put in order, with several widths; texts with several matches are several examples", async () => {
  const scored = write(
    "scored.jsonl",
    words.flatMap((word, i) => [
      { sentence1: `What is a ${word}?`, sentence2: `the ${word} of old`, score: 1 },
      { sentence1: `What is a ${word}?`, sentence2: `the ${words[(i + 1) % 8]} of old`, score: 0.2 },
    ]),
  );
  const common = { model: encoder, objective: "embed", threads: 1, sequenceLength: 32 } as const;
  const run = { ...common, method: "full", batchSize: 8, packing: false, learningRate: 5e-3, warmup: 0 } as const;
  const output = join(folder, "scored");
  const { evaluation } = await train({
    ...run,
    data: scored,
    valid: scored,
    output,
    embedLoss: "cosent",
    matryoshka: [16, 4],
    steps: 30,
  });
  expect(Object.keys(evaluation!.metrics)).toEqual(["spearman"]);
  expect(evaluation!.metrics["spearman"]).toBeGreaterThan(0.85);
  const measured = await evaluate({ ...common, model: output, data: scored, embedLoss: "cosine" });
  expect(measured.metrics["spearman"]!).toBeCloseTo(evaluation!.metrics["spearman"]!, 5);
  const many = write("many.jsonl", [
    { query: "king", pos: ["a king", "the king", "kings"], neg: ["stone"] },
    { query: "tree", pos: ["a tree"], neg: ["stone"] },
  ]);
  const { examples } = await evaluate({ ...common, data: many, hardNegatives: 1 });
  expect(examples).toBe(4);
  const flags = ["train", "--model", encoder, "--objective", "embed", "--output", join(folder, "never"), "--data"];
  expect(await refused(...flags, scored)).toContain(
    'got {"sentence1", "sentence2", "score"}; that is for --embed-loss cosent or cosine',
  );
  expect(await refused(...flags, pairs, "--embed-loss", "cosent")).toContain("that is for --embed-loss contrast or triplet");
  expect(await refused(...flags, pairs, "--embed-loss", "triplet")).toContain("--hard-negatives is 0");
  expect(await refused(...flags, pairs, "--matryoshka", "16,17")).toContain("--matryoshka 17: the embeddings of");
  expect(await refused(...flags, pairs, "--matryoshka", "16,x")).toContain("--matryoshka");
  const wide = write("wide.jsonl", [{ sentence1: "a", sentence2: "b", score: 5 }]);
  expect(await refused(...flags, wide, "--embed-loss", "cosine")).toContain("wide.jsonl:1: the score is 5");
  const strange = write("strange.jsonl", [{ sentence1: "a", sentence2: "b", score: "near" }]);
  expect(await refused(...flags, strange, "--embed-loss", "cosent")).toContain('strange.jsonl:1: "score" must say');
});

test("an adapter on a causal model has the task of embeddings and no new head; hard negatives are counted", async () => {
  const model = writeTinyModel(join(folder, "tiny"), {
    num_hidden_layers: 2,
    hidden_size: 16,
    head_dim: 4,
    intermediate_size: 24,
  });
  const data = write(
    "triplets.jsonl",
    words.map((word) => ({ query: `What is a ${word}?`, pos: [`the ${word}`], neg: [`a ${word}s`] })),
  );
  const output = join(folder, "lora");
  const flags = ["--model", model, "--objective", "embed", "--pooling", "last", "--batch-size", "4", "--sequence-length", "32"];
  const common = { model, data, objective: "embed", pooling: "last", hardNegatives: 1, threads: 1, sequenceLength: 32 } as const;
  await train({ ...common, output, batchSize: 4, steps: 2 });
  const adapter = JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8")) as Record<string, unknown>;
  expect(adapter).toMatchObject({ task_type: "FEATURE_EXTRACTION", modules_to_save: null });
  expect(existsSync(join(output, "classifier.json"))).toBe(false);
  const more = ["--output", join(folder, "none")];
  expect(await refused("train", ...flags, ...more, "--data", data)).toContain(
    "triplets.jsonl:1: 1 hard negatives; expected 0, as --hard-negatives says",
  );
  expect(await refused("train", ...flags, ...more, "--data", pairs, "--hard-negatives", "2")).toContain(
    "0 hard negatives; expected 2",
  );
  expect(await refused("train", ...flags, ...more, "--data", pairs, "--targets", "lm_head")).toContain("--targets lm_head");
  expect(await refused("train", "--model", model, ...more, "--data", pairs)).toContain("that is for --objective embed");
  expect(await refused("train", "--model", model, "--objective", "embed", ...more, "--data", pairs, "--no-packing")).toContain(
    "--batch-size 1",
  );
  expect(await refused("train", ...flags, ...more, "--data", pairs, "--grad-cache", "--dropout", "0.1")).toContain("--dropout 0");
  expect(existsSync(join(folder, "none"))).toBe(false);
  const cached = {
    ...common,
    output: join(folder, "cached"),
    batchSize: 1,
    packing: false,
    gradientAccumulation: 8,
    gradCache: true,
  };
  const { evaluation } = await train({ ...cached, valid: data, steps: 20, learningRate: 2e-2, warmup: 0 });
  expect(evaluation!.loss).toBeLessThan(0.5);
});
