import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { findSplits, readExamples } from "../../src/data/examples/dataset.ts";
import { refuseForeign } from "../../src/data/examples/wrong-files.ts";
import { loadSamples } from "../../src/data/samples/prepare.ts";
import { createSampleMaker } from "../../src/data/samples/sample.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { filesIn, rejection, temporaryFolder, userError } from "../hf/temp.ts";

const folder = temporaryFolder();
const line = '{"text":"The river"}\n';

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

test("a name of the hub where data are wanted", () => {
  expect(userError(() => findSplits("org/name"))).toBe(
    'cannot read the data at org/name: no such file or folder; data of the hub are not fetched; in Python: datasets.load_dataset("org/name", split="train").to_json("train.jsonl")',
  );
  for (const path of ["no/train.jsonl", "nowhere", "a/b/c"]) expect(userError(() => findSplits(path))).not.toContain("the hub");
});

describe("what is taken for training data and is none: one sentence that says what it is and how it becomes JSONL", () => {
  test.each<[string, string | Uint8Array, string]>([
    ["a.jsonl.gz", gzipSync(line), "is compressed with gzip; expected one JSON object a line: unpack it first: gunzip "],
    ["gz.jsonl", gzipSync(line), "is compressed with gzip"],
    ["a.zst", Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, 1), "zstd"],
    ["a.zip", "PK\x03\x04\x14\0", "a ZIP archive"],
    [
      "a.parquet",
      "PAR1\x15\x04",
      'is a Parquet file; expected one JSON object a line: in Python: datasets.load_dataset("parquet"',
    ],
    ["a.arrow", Uint8Array.of(255, 255, 255, 255, 0x78, 2), 'load_dataset("arrow"'],
    ["a.csv", "prompt,completion\na,b\n", "is a table in CSV"],
    [
      "notes.txt",
      "The river\n",
      'is plain text; expected one JSON object a line: {"text": "..."} for each passage, such as each line: jq -cR ',
    ],
    ["A.TSV", "prompt\tcompletion\n", "is a table in TSV"],
    [
      "a16.jsonl",
      Buffer.from(`\ufeff${line}`, "utf16le"),
      "is UTF-16 text; expected one JSON object a line: convert it to UTF-8",
    ],
    [
      "array.jsonl",
      ' [{"text":"a"}]',
      "begins with an array; expected one JSON object a line, or the array in a file named .json",
    ],
  ])("%s", (name, content, expected) => {
    const path = file(name, content);
    const message = userError(() => [...readExamples(path)]);
    expect(message).toStartWith(`${path} `);
    expect(message).toContain(expected);
    expect(message).toContain("; expected one JSON object a line");
  });

  test("standard input and pipes, which can be read only once", () => {
    expect(userError(() => findSplits("-"))).toStartWith("standard input can be read only once, and data are read several times");
    const pipe = join(folder, "pipe");
    expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
    // Opening it would wait for a writer that never comes.
    expect(userError(() => refuseForeign(pipe))).toStartWith(`${pipe} can be read only once`);
  });

  test("folders of datasets and of Parquet files", () => {
    const saved = join(folder, "saved");
    mkdirSync(saved);
    file("saved/dataset_dict.json", "{}");
    expect(userError(() => findSplits(saved))).toContain(`datasets.load_from_disk("${saved}")["train"].to_json("train.jsonl")`);
    const parquet = join(folder, "parquet");
    mkdirSync(parquet);
    file("parquet/train-00000.parquet", "PAR1");
    expect(userError(() => findSplits(parquet))).toContain(
      `it holds Parquet files; in Python: datasets.load_dataset("parquet", data_files="${parquet}/*.parquet"`,
    );
  });

  test("nothing is cached of what is refused", async () => {
    const cache = join(folder, "cache");
    mkdirSync(cache);
    const tokenizer = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/smollm"));
    const maker = createSampleMaker(tokenizer, { maxLength: 64, vocabSize: tokenizer.size });
    expect(await rejection(loadSamples(file("b.jsonl.gz", gzipSync(line)), maker, { cache }))).toContain("gzip");
    expect(filesIn(cache)).toEqual([]);
  });
});

test("text that only looks like it is read: a mark of byte order, white space first, a name without an ending, .json", () => {
  for (const [name, content] of [
    ["bom.jsonl", `\ufeff${line}`],
    ["space.jsonl", `  \n ${line}`],
    ["plain", line],
    ["one.json", `[${line}]`],
  ] as const) {
    expect([...readExamples(file(name, content))].map((example) => example.kind)).toEqual(["text"]);
  }
});

test("the held-out split by any of its usual names", () => {
  for (const name of ["valid", "validation", "val"]) {
    const data = join(folder, `split-${name}`);
    mkdirSync(data);
    for (const split of ["train", name]) writeFileSync(join(data, `${split}.jsonl`), line);
    expect(findSplits(data).valid).toBe(join(data, `${name}.jsonl`));
  }
});
