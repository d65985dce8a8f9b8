import { expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkData } from "../../src/data/samples/check.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tokenizer = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/smollm"));
const maker = createSampleMaker(tokenizer, { maxLength: Infinity, vocabSize: tokenizer.size });

test("counts, lengths, duplicates, over-long samples and every error with its line", async () => {
  const path = join(folder, "data.jsonl");
  const chat = (content: string) =>
    JSON.stringify({
      messages: [
        { role: "user", content: "hi" },
        { role: "assistant", content },
      ],
    });
  const lines = [
    '{"text":"The river"}',
    chat("hello"),
    '{"text":',
    '{"prompt":"a","completion":"b"}',
    '{ "text": "The river" }',
    "",
    '{"messages":[{"role":"user","content":"hi"}]}',
    chat("the mill ".repeat(40)),
    '{"txt":1}',
  ];
  writeFileSync(path, lines.join("\n"));
  const report = await checkData(path, { maxLength: 100, maker });
  expect(report.examples).toBe(5);
  expect(report.kinds).toEqual({
    chat: 2,
    completion: 1,
    text: 2,
    preference: 0,
    unpaired: 0,
    labelled: 0,
    contrast: 0,
    ranked: 0,
    scored: 0,
    told: 0,
  });
  expect(report.roles).toEqual({ assistant: 2, user: 2 });
  expect(report.errors.count).toBe(3);
  expect(report.errors.first.map(({ where }) => where)).toEqual([`${path}:3`, `${path}:7`, `${path}:9`]);
  expect(report.errors.first[0]!.message).toStartWith("is not valid JSON");
  expect(report.errors.first[1]!.message).toBe("the example has no trainable token: no message is an assistant's to train on");
  expect(report.duplicates).toEqual({ count: 1, first: [{ where: `${path}:5`, message: `the same as ${path}:1` }] });
  expect(report.overLong.count).toBe(1);
  expect(report.overLong.first[0]!.where).toBe(`${path}:8`);
  const { tokens } = report;
  expect(tokens!.samples).toBe(5);
  expect(tokens!.lengths.min).toBe(2);
  expect(tokens!.lengths.p50).toBe(tokenizer.encode("The river").length + 1);
  expect(tokens!.lengths.max).toBe(tokens!.lengths.p99);
  expect(tokens!.total).toBe(Math.round(tokens!.lengths.mean * 5));
  expect(tokens!.trained).toBeLessThan(tokens!.total);
});

test("a line that is not UTF-8 is an error of its own, and the lines behind it count", async () => {
  const path = join(folder, "bytes.jsonl");
  writeFileSync(path, Buffer.from('{"text":"a"}\n{"text":"caf\xe9"}\n{"text":"b"}\n', "latin1"));
  const report = await checkData(path, { maxLength: 10 });
  expect(report.examples).toBe(2);
  expect(report.errors).toEqual({
    count: 1,
    first: [{ where: `${path}:2`, message: "the line is not UTF-8 text; save the file in UTF-8" }],
  });
});

test("without a tokenizer only the formats are checked, the list of problems is short, the count whole", async () => {
  const path = join(folder, "broken.jsonl");
  writeFileSync(path, "{\n".repeat(50));
  const report = await checkData(path, { maxLength: 10, listed: 3 });
  expect([report.errors.count, report.errors.first.length, report.examples, report.tokens]).toEqual([50, 3, 0, null]);
  expect(await rejection(checkData(join(folder, "none.jsonl"), { maxLength: 10 }))).toContain("no such file");
});
