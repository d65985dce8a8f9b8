import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { makeFolder } from "../../src/base/files/files.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { readClassifier } from "../../src/hf/config/classifier.ts";
import { exportOnnx } from "../../src/library/export-onnx.ts";
import { classify } from "../../src/library/texts/classify.ts";
import { train } from "../../src/library/train.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused } from "../support/cli.ts";
import { EMBED_FOLDER } from "../support/embed.ts";
import { makeEmbedFolders } from "../support/embed-folders.ts";
import { expectWithin } from "../support/ops.ts";
import { RERANK_FOLDER } from "../support/rerank.ts";
import { makeRerankFolders } from "../support/rerank-folders.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const of = (name: string) => join(folder, name);
const readFixture = (path: string, name: string) => JSON.parse(readFileSync(join(path, name), "utf8")) as Record<string, any>;
const encoded = readFixture(EMBED_FOLDER, "encode.json");
const ranked = readFixture(RERANK_FOLDER, "folders.json");

const makeFolderNamed = (name: string): string => {
  makeFolder(of(name));
  return of(name);
};

beforeAll(async () => {
  await makeEmbedFolders(makeFolderNamed("embed"));
  await makeRerankFolders(makeFolderNamed("rerank"));
});

/** What the exported file makes of texts, or pairs of them, in one padded batch. */
async function runOnnx(exported: string, texts: readonly (readonly string[])[]): Promise<Record<string, Tensor>> {
  const tokenizer = loadTokenizer(exported);
  const rows = texts.map((parts) => {
    const [first, second] = parts.map((text) => tokenizer.encode(text));
    return tokenizer.surround(first!, second);
  });
  const length = Math.max(...rows.map(({ ids }) => ids.length));
  const tensor = (pad: number, valuesOf: (row: (typeof rows)[number]) => Iterable<number>) => {
    const values = rows.flatMap((row) => {
      const own = [...valuesOf(row)];
      return [...own, ...Array.from({ length: length - own.length }, () => pad)];
    });
    return new Tensor("int64", BigInt64Array.from(values, BigInt), [rows.length, length]);
  };
  const session = await InferenceSession.create(join(exported, "onnx/model.onnx"), { logSeverityLevel: 3 });
  return (await session.run({
    input_ids: tensor(tokenizer.padId ?? 0, ({ ids }) => ids),
    attention_mask: tensor(0, ({ ids }) => ids.map(() => 1)),
    ...(session.inputNames.includes("token_type_ids") && { token_type_ids: tensor(0, ({ types }) => types) }),
  })) as Record<string, Tensor>;
}

const rowsOf = ({ data, dims }: Tensor): number[][] => {
  const width = dims.at(-1)!;
  return Array.from({ length: dims[0]! }, (_, i) => [...(data as Float32Array).subarray(i * width, (i + 1) * width)]);
};

function expectClose(found: readonly (readonly number[])[], wanted: readonly (readonly number[])[]): void {
  expect(found.length).toBe(wanted.length);
  for (const [i, values] of wanted.entries()) {
    expect(found[i]!.length).toBe(values.length);
    values.forEach((value, k) => expectWithin(`number ${k} of text ${i}`, Math.abs(found[i]![k]! - value), 1e-5));
  }
}

describe("onnxruntime-node makes of an exported folder what sentence-transformers makes of the model, within 1e-5", () => {
  // One is exported as what it was trained for, the others as their family usually is.
  test.each(["bert", "roberta", "modern", "full"])("embeddings of %s, texts of all lengths in one batch", async (model) => {
    const { outputs } = await exportOnnx({ model: of(`embed/${model}`), out: of(`out/${model}`) });
    expect(outputs).toEqual(["last_hidden_state", "sentence_embedding"]);
    // The run's folder tells sentence-transformers to cut the last text.
    const texts = (encoded["texts"] as string[]).slice(0, model === "full" ? -1 : undefined);
    const { sentence_embedding: found, last_hidden_state: states } = await runOnnx(
      of(`out/${model}`),
      texts.map((text) => [text]),
    );
    const plain = (encoded["cases"] as { model: string; options: object; embeddings: number[][] }[]).find(
      (each) => each.model === model && Object.keys(each.options).length === 0,
    )!;
    expectClose(rowsOf(found!), plain.embeddings.slice(0, texts.length));
    expect(states!.dims[2]).toBe(found!.dims[1]!);
    expect(existsSync(of(`out/${model}/modules.json`))).toBe(model === "full");
  });

  test.each(["full", "merged", "lora"])("relevances of %s, an adapter merged in on the way", async (model) => {
    const adapter = model === "lora";
    const named = adapter ? { adapter: of("rerank/lora") } : { model: of(`rerank/${model}`) };
    await exportOnnx({ ...named, out: of(`out/rank-${model}`) });
    const { query, texts, relevance } = ranked as { query: string; texts: string[]; relevance: Record<string, number[]> };
    const { logits } = await runOnnx(
      of(`out/rank-${model}`),
      texts.map((text) => [query, text]),
    );
    expectClose(
      rowsOf(logits!).map(([score]) => [1 / (1 + Math.exp(-score!))]),
      relevance[model]!.map((each) => [each]),
    );
    // transformers.js tells two texts apart for a tokenizer of this name alone.
    const tokenizer = readFixture(of(`out/rank-${model}`), "tokenizer_config.json")["tokenizer_class"];
    if (model === "full") expect(tokenizer).toBe("BertTokenizer");
    // What the file's own configuration says of it.
    const said = readClassifier(of(`out/rank-${model}`), null, 1);
    expect([said.kind, said.activation]).toEqual(["number", "sigmoid"]);
    expect(readdirSync(of("out")).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("logits of a classifier on a ModernBERT, with windows and rotary positions of two kinds", async () => {
    const words = ["king", "house", "water", "tree"];
    const data = of("labelled.jsonl");
    await Bun.write(
      data,
      words.map((word, i) => JSON.stringify({ text: `the ${word}`, label: i % 2 ? "odd" : "even" })).join("\n"),
    );
    const run = { model: of("embed/modern"), data, output: of("classifier"), objective: "classify", method: "full" } as const;
    await train({ ...run, threads: 1, sequenceLength: 64, steps: 5, learningRate: 1e-2, sample: false });
    await exportOnnx({ model: of("classifier"), out: of("out/classifier") });
    const texts = [...words, "the king and the house and the water and the tree and the king and the house"];
    const { logits } = await runOnnx(
      of("out/classifier"),
      texts.map((text) => [text]),
    );
    const { texts: judged } = await classify({ model: of("classifier"), texts, threads: 1 });
    const probabilities = rowsOf(logits!).map((row) => {
      const weights = row.map(Math.exp);
      return weights.map((weight) => weight / weights.reduce((sum, each) => sum + each, 0));
    });
    expectClose(
      probabilities,
      judged.map((each) => Object.values(each.probabilities!)),
    );
  });
});

test("remat export onnx: settings of embeddings, and what makes no sense", async () => {
  const flags = ["export", "onnx", "--model", of("embed/bert"), "--out"];
  expect(await ok(...flags, of("out/cli"), "--pooling", "cls", "--normalize", "--dimensions", "5")).toContain(
    "sentence_embedding",
  );
  const { sentence_embedding: found } = await runOnnx(of("out/cli"), [["bread"], ["the water and the stone"]]);
  expect(found!.dims).toEqual([2, 5]);
  for (const row of rowsOf(found!)) expect(Math.hypot(...row)).toBeCloseTo(1, 5);
  expect(await refused(...flags, of("out/cli"))).toContain("is not an empty folder");
  expect(await refused(...flags, of("out/never"), "--type", "f16")).toContain("--type is no flag of export onnx");
  expect(await refused("export", "gguf", "--model", of("embed/bert"), "--out", of("x"), "--pooling", "cls")).toContain(
    "no flag of export gguf",
  );
  const rank = ["export", "onnx", "--model", of("rerank/full"), "--out", of("out/never")];
  expect(await refused(...rank, "--pooling", "cls")).toContain("--pooling is for embeddings");
  expect(await refused("export", "onnx", "--model", of("rerank/tiny"), "--out", of("out/never"))).toContain("generates text");
  expect(await refused("export", "tflite", "--model", of("rerank/tiny"))).toContain("export takes one format, gguf or onnx");
  expect(existsSync(of("out/never"))).toBe(false);
});
