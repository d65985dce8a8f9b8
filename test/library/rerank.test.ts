import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { rerank } from "../../src/library/texts/rerank.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused, remat } from "../support/cli.ts";
import { RERANK_FOLDER } from "../support/rerank.ts";
import { makeRerankFolders, RERANK_QUERY, RERANK_TEXTS } from "../support/rerank-folders.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const of = (name: string) => join(folder, name);
const write = (name: string, text: string): string => {
  writeFileSync(of(name), text);
  return of(name);
};

const { query, texts, relevance } = JSON.parse(readFileSync(join(RERANK_FOLDER, "folders.json"), "utf8")) as {
  readonly query: string;
  readonly texts: readonly string[];
  readonly relevance: Readonly<Record<string, readonly number[]>>;
};

beforeAll(() => makeRerankFolders(folder));

test("the fixture is of these texts (test/golden/rerank/folders.py makes it anew)", () => {
  expect({ query, texts }).toEqual({ query: RERANK_QUERY, texts: [...RERANK_TEXTS] });
});

describe("relevances are those of sentence-transformers' CrossEncoder within 1e-5, the best text first", () => {
  test.each(Object.entries(relevance))("%s", async (model, expected) => {
    const { queries } = await rerank({ model: of(model), query, texts: [...texts], threads: 1 });
    const [{ results }] = queries as [(typeof queries)[number]];
    expect(results.map(({ index }) => index)).toEqual(texts.map((_, i) => i).sort((a, b) => expected[b]! - expected[a]!));
    for (const { index, text, relevance_score } of results) {
      expect(text).toBe(texts[index]!);
      expect(Math.abs(relevance_score - expected[index]!)).toBeLessThan(1e-5);
    }
  });
});

test("a folder may say that scores stay as they are, in the words of any version of sentence-transformers", async () => {
  const other = of("identity");
  cpSync(of("full"), other, { recursive: true });
  for (const file of ["SHA256SUMS", "classifier.json"]) rmSync(join(other, file));
  const { sentence_transformers: _, ...config } = JSON.parse(readFileSync(join(other, "config.json"), "utf8")) as Record<
    string,
    unknown
  >;
  const identity = "torch.nn.modules.linear.Identity";
  for (const said of [
    { sentence_transformers: { activation_fn: identity } },
    { sbert_ce_default_activation_function: identity },
  ]) {
    writeFileSync(join(other, "config.json"), JSON.stringify({ ...config, ...said }));
    const { queries } = await rerank({ model: other, query, texts: [...texts], threads: 1 });
    for (const { score, relevance_score, index } of queries[0]!.results) {
      expect(relevance_score).toBe(score);
      expect(1 / (1 + Math.exp(-score))).toBeCloseTo(relevance["full"]![index]!, 5);
    }
  }
  writeFileSync(join(other, "config.json"), JSON.stringify({ ...config, sentence_transformers: { activation_fn: "my.Own" } }));
  expect(rerank({ model: other, query, texts: [...texts], threads: 1 })).rejects.toThrow(
    'activation_fn "my.Own" is not supported',
  );
});

describe("remat rerank", () => {
  const lines = (out: string) =>
    out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { query: string; results: { index: number; text: string }[] });

  test("queries with their texts in records of any form, one query of many texts, standard output or a file", async () => {
    const expected = await rerank({ model: of("lora"), query, texts: [...texts], threads: 1 });
    const flags = ["rerank", "--model", of("lora"), "--threads", "1"];
    const plain = write("texts.txt", texts.join("\n"));
    const run = await remat([...flags, "--data", plain, "--query", query]);
    expect(run.code).toBe(0);
    expect(lines(run.stdout)).toEqual(JSON.parse(JSON.stringify(expected.queries)));
    const records = [
      { query, docs: texts.slice(0, 2) },
      { query: "another", pos: ["the tree"], neg: ["a stone"] },
      { query, text: texts[2] },
      { query, text: texts[3], label: 1 },
    ];
    const data = write("queries.jsonl", records.map((record) => `${JSON.stringify(record)}\n`).join(""));
    const out = of("ranked.jsonl");
    expect((await remat([...flags, "--data", data, "--top", "2", "--out", out])).code).toBe(0);
    const [first, second] = lines(readFileSync(out, "utf8"));
    expect(first!.results.map(({ index }) => index)).toEqual(expected.queries[0]!.results.slice(0, 2).map(({ index }) => index));
    expect([second!.query, second!.results.length]).toEqual(["another", 2]);
    expect(await refused(...flags, "--data", data, "--out", out)).toContain("exists; choose another file");
  });

  test("what makes no sense is refused, and nothing is written", async () => {
    const never = of("never.jsonl");
    const flags = ["rerank", "--threads", "1", "--out", never, "--model"];
    const plain = write("plain.txt", "a text");
    expect(await refused(...flags, of("lora"), "--data", plain)).toContain("the objective rerank learns from");
    expect(await refused(...flags, of("lora"), "--data", of("queries.jsonl"), "--query", "q")).toContain(
      "have queries of their own",
    );
    expect(await refused(...flags, of("bert"), "--data", plain, "--query", "q")).toContain(
      "ranks no texts; train a model with --objective rerank",
    );
    const long = write("long.txt", "a text ".repeat(200));
    expect(await refused(...flags, of("full"), "--data", long, "--query", "q")).toContain("long.txt:1: the example has");
    expect(existsSync(never)).toBe(false);
    expect((await remat([...flags, of("full"), "--data", long, "--query", "q", "--truncate"])).code).toBe(0);
  });
});
