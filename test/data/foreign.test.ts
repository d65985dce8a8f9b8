import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { readExamples } from "../../src/data/examples/dataset.ts";
import { findSplits, trainingFiles } from "../../src/data/examples/sources.ts";
import { kindOf } from "../../src/data/examples/wrong-files.ts";
import { loadSamples } from "../../src/data/samples/prepare.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
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
    [
      "a.jsonl.gz",
      gzipSync(line),
      "is compressed with gzip; expected JSON objects (one a line, or an array of them), CSV or Parquet: unpack it first: gunzip ",
    ],
    ["gz.jsonl", gzipSync(line), "is compressed with gzip"],
    ["a.zst", Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, 1), "zstd"],
    ["a.zip", "PK\x03\x04\x14\0", "a ZIP archive"],
    ["a.parquet", "id,text\n", "is named .parquet but does not begin as a Parquet file does"],
    ["one-object.json", '{"data": [\n{"text": "a"}\n]}', "is one JSON object over several lines"],
    ["pretty.json", '{\n  "text": "a"\n}\n', "if its examples are under a key: jq -c "],
    ["secret.parquet", "PARE\x15\x04", "is an encrypted Parquet file"],
    ["a.arrow", Uint8Array.of(255, 255, 255, 255, 0x78, 2), 'load_dataset("arrow"'],
    [
      "notes.txt",
      "The river\n",
      'is plain text; expected JSON objects (one a line, or an array of them), CSV or Parquet: {"text": "..."} for each passage, such as each line: jq -cR ',
    ],
    [
      "a16.jsonl",
      Buffer.from(`\ufeff${line}`, "utf16le"),
      "is UTF-16 text; expected JSON objects (one a line, or an array of them), CSV or Parquet: convert it to UTF-8",
    ],
  ])("%s", async (name, content, expected) => {
    const path = file(name, content);
    const message = await rejection(Array.fromAsync(readExamples(path)));
    expect(message).toStartWith(`${path} `);
    expect(message).toContain(expected);
    expect(message).toContain("; expected JSON objects");
  });

  test("standard input and pipes, which can be read only once", () => {
    expect(userError(() => findSplits("-"))).toStartWith("standard input can be read only once, and data are read several times");
    const pipe = join(folder, "pipe");
    expect(Bun.spawnSync(["mkfifo", pipe]).exitCode).toBe(0);
    // Opening it would wait for a writer that never comes.
    expect(userError(() => kindOf(pipe))).toStartWith(`${pipe} can be read only once`);
  });

  test("folders of datasets", () => {
    const saved = join(folder, "saved");
    mkdirSync(saved);
    file("saved/dataset_dict.json", "{}");
    expect(userError(() => trainingFiles(saved))).toContain(
      `datasets.load_from_disk("${saved}")["train"].to_json("train.jsonl")`,
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

test("text that only looks like it is read: a mark of byte order, white space first, a name without an ending, .json", async () => {
  for (const [name, content] of [
    ["bom.jsonl", `\ufeff${line}`],
    ["space.jsonl", `  \n ${line}`],
    ["plain", line],
    ["one.json", `[${line}]`],
    ["array.jsonl", ` [${line}]`],
    ["lines.json", line],
  ] as const) {
    expect((await Array.fromAsync(readExamples(file(name, content)))).map((example) => example.kind)).toEqual(["text"]);
  }
});

test("the held-out split by any of its usual names", () => {
  for (const name of ["valid", "validation", "val"]) {
    const data = join(folder, `split-${name}`);
    mkdirSync(data);
    for (const split of ["train", name]) writeFileSync(join(data, `${split}.jsonl`), line);
    expect(findSplits(data).valid).toEqual([join(data, `${name}.jsonl`)]);
  }
});
