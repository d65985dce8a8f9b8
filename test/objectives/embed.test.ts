import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseExample } from "../../src/data/examples/formats.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { createRandom } from "../../src/base/random.ts";
import { plan } from "../../src/library/plan.ts";
import { train } from "../../src/library/train.ts";
import { embed } from "../../src/objectives/embed/embed.ts";
import type { LogitsHead } from "../../src/objectives/objective.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused, writeTinyModel } from "../support/cli.ts";
import { writeRandomEncoder } from "../support/encoders.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const encoder = writeRandomEncoder(
  join(folder, "bert"),
  {
    architectures: ["BertForMaskedLM"],
    model_type: "bert",
    vocab_size: 800,
    hidden_size: 16,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 24,
    max_position_embeddings: 96,
    torch_dtype: "float32",
  },
  "bert-uncased",
);
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

test("derivatives are those of finite differences in float64, with hard negatives of any number", () => {
  const head = embed.create({ pooling: "mean", embedScale: 5, hardNegatives: 0, gradCache: false }) as LogitsHead;
  const random = createRandom(1, "embed");
  const span = { from: 0, to: 1 };
  const batch = {
    examples: 3,
    spans: [
      [span, span, span],
      [span, span],
      [span, span, span, span],
    ],
  } as unknown as MicroBatch;
  const values = Float32Array.from({ length: 9 * 4 }, () => random.normal());
  const lossOf = (at: Float32Array) => head.values(head.judge(batch, at).sums).loss * head.share(batch);
  const { weights } = head.judge(batch, values);
  for (let i = 0; i < values.length; i++) {
    const [up, down] = [1, -1].map((sign) => lossOf(values.map((value, k) => (k === i ? value + sign / 1024 : value))));
    expect(weights[i]!).toBeCloseTo((up! - down!) * 512, 3);
  }
});

test("an anchor is found if its own positive is nearer than anything else; a draw is no find", () => {
  const head = embed.create({ pooling: "mean", embedScale: 20, hardNegatives: 0, gradCache: false }) as LogitsHead;
  const span = { from: 0, to: 1 };
  const batch = {
    examples: 2,
    spans: [
      [span, span],
      [span, span],
    ],
  } as unknown as MicroBatch;
  const recall = (values: number[]) => head.values(head.judge(batch, Float32Array.from(values)).sums).metrics["recall@1"];
  expect(recall([1, 0, 2, 0, 0, 1, 0, 3])).toBe(1);
  expect(recall([1, 0, 0, 1, 0, 1, 1, 0])).toBe(0);
  expect(recall([1, 0, 1, 1, 0, 1, 1, 1])).toBe(0);
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
    bestMetric: "recall@1",
  });
  expect(evaluation!.metrics["recall@1"]).toBe(1);
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
  expect(await refused("eval", "--model", output, "--objective", "embed", "--data", pairs)).toContain("--valid");
});

test("an adapter on a causal model has the task of its base model and no new head; hard negatives are counted", async () => {
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
  expect(adapter).toMatchObject({ task_type: "CAUSAL_LM", modules_to_save: null });
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
