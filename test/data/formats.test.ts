import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readExamples } from "../../src/data/examples/dataset.ts";
import { findSplits, trainingFiles } from "../../src/data/examples/sources.ts";
import { parseExample, type ChatExample, type Example } from "../../src/data/examples/formats.ts";
import { readLines } from "../../src/data/examples/lines.ts";
import { rejection, temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();

const parse = (data: unknown) => parseExample(JSON.stringify(data), "d.jsonl:7");

/** `role: content`, a star where the message is trained on. */
function brief(example: Example): string[] {
  return (example as ChatExample).messages.map(
    ({ role, weight, fields }) => `${role}${weight > 0 ? "*" : ""}: ${fields.content as string}`,
  );
}

describe("formats", () => {
  test("messages keep every field for the template, without null values and weights", () => {
    const call = { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: "{}" } }] };
    const example = parse({
      messages: [{ role: "user", content: "q", name: "Ann" }, call, { role: "assistant", content: "a", weight: 0 }],
      tools: [{ name: "f" }],
    }) as ChatExample;
    expect(example.messages).toEqual([
      { role: "user", weight: 0, fields: { role: "user", content: "q", name: "Ann" } },
      { role: "assistant", weight: 1, fields: { role: "assistant", tool_calls: call.tool_calls } },
      { role: "assistant", weight: 0, fields: { role: "assistant", content: "a" } },
    ]);
    expect(example.tools).toEqual([{ name: "f" }]);
    expect(example.where).toBe("d.jsonl:7");
  });

  test("a message's weight is any number from 0 on; another role has none", () => {
    const turn = (weight?: number | null) => ({ role: "assistant", content: "a", weight });
    const weights = (data: unknown) => (parse(data) as ChatExample).messages.map(({ weight }) => weight);
    const user = { role: "user", content: "q", weight: 0.5 };
    expect(weights({ messages: [user, turn(0.25), turn(2), turn(0), turn(null), turn()] })).toEqual([0, 0.25, 2, 0, 1, 1]);
    expect(
      weights({
        conversations: [
          { from: "human", value: "q" },
          { from: "gpt", value: "a", weight: 0.5 },
        ],
      }),
    ).toEqual([0, 0.5]);
  });

  test("prompt and completion as texts and as messages; text", () => {
    expect(parse({ prompt: "p", completion: "c" })).toEqual({
      kind: "completion",
      prompt: "p",
      completion: "c",
      where: "d.jsonl:7",
    });
    const prompt = [
      { role: "user", content: "q" },
      { role: "assistant", content: "example" },
    ];
    expect(brief(parse({ prompt, completion: [{ role: "assistant", content: "a" }] }))).toEqual([
      "user: q",
      "assistant: example",
      "assistant*: a",
    ]);
    expect(parse({ text: "t" })).toEqual({ kind: "text", text: "t", where: "d.jsonl:7" });
  });

  test("Alpaca", () => {
    expect(brief(parse({ instruction: "do", input: "", output: "done" }))).toEqual(["user: do", "assistant*: done"]);
    expect(brief(parse({ instruction: "do", input: "this", output: "done", system: "s", history: [["a", "b"]] }))).toEqual([
      "system: s",
      "user: a",
      "assistant*: b",
      "user: do\nthis",
      "assistant*: done",
    ]);
  });

  test("ShareGPT", () => {
    const conversations = [
      { from: "human", value: "q" },
      { from: "gpt", value: "a" },
      { from: "tool", value: "t" },
      { from: "model", value: "b", weight: 0 },
    ];
    expect(brief(parse({ conversations, system: "s", tools: "[]" }))).toEqual([
      "system: s",
      "user: q",
      "assistant*: a",
      "tool: t",
      "assistant: b",
    ]);
    expect((parse({ conversations, tools: '[{"name":"f"}]' }) as ChatExample).tools).toEqual([{ name: "f" }]);
  });

  test("XTuner", () => {
    const conversation = [
      { system: "s", input: "q", output: "a" },
      { input: "r", output: "b", output_with_loss: false },
    ];
    expect(brief(parse({ conversation }))).toEqual(["system: s", "user: q", "assistant*: a", "user: r", "assistant: b"]);
    expect(parse({ conversation: [{ input: "", output: "a book" }] })).toEqual({
      kind: "text",
      text: "a book",
      where: "d.jsonl:7",
    });
  });

  test("each fault says where it is and what was expected", () => {
    const cases: [unknown, string][] = [
      [[1], "expected a JSON object, got an array"],
      [{}, "got the keys []"],
      [{ txt: "a" }, 'got the keys ["txt"]'],
      [{ text: 3 }, '"text" must be a text, got a number'],
      [{ text: "a", notes: 3 }, 'unknown key "notes" beside "text"; remove it, or leave it out with --columns ignore=notes'],
      [{ messages: [] }, '"messages" is empty'],
      [{ messages: "hi" }, '"messages" must be a list, got a string'],
      [{ messages: ["hi"] }, '"messages" entry 1 must be an object'],
      [{ messages: [{ content: "a" }] }, 'message 1: "role" must be a text, got nothing'],
      [{ messages: [{ role: "user" }] }, 'message 1: "content" must be a text or a list of parts, got nothing'],
      [{ messages: [{ role: "user", content: null }] }, 'message 1: "content" must be a text or a list of parts, got null'],
      [{ messages: [{ role: "user", content: ["a"] }] }, 'message 1: part 1 of "content" must be an object, got a string'],
      [{ messages: [{ role: "user", content: [{ type: "text" }] }] }, 'part 1 of "content" must have a "text", got nothing'],
      [
        {
          messages: [
            {
              role: "user",
              content: [
                { type: "text", text: "a" },
                { type: "image", url: "x" },
              ],
            },
          ],
        },
        'part 2 of "content" has the type "image"; only parts of type "text" can be trained on',
      ],
      [{ messages: [{ role: "assistant", tool_calls: true }] }, 'message 1: "tool_calls" must be a list, got a boolean'],
      [{ messages: [{ role: "assistant", tool_calls: ["f"] }] }, 'call 1 of "tool_calls" must be an object, got a string'],
      [{ messages: [{ role: "user", content: 5 }] }, '"content" must be a text or a list of parts, got a number'],
      [{ messages: [{ role: "assistant", content: "a", weight: -0.5 }] }, '"weight" must be a number from 0 to 1000, got -0.5'],
      [{ messages: [{ role: "assistant", content: "a", weight: "1" }] }, '"weight" must be a number from 0 to 1000, got "1"'],
      [{ conversations: [{ from: "gpt", value: "a", weight: 1e9 }] }, '"weight" must be a number from 0 to 1000, got 1000000000'],
      [{ messages: [{ role: "user", content: "a" }], tools: 1 }, '"tools" must be a list, got a number'],
      [{ prompt: "p", completion: null }, '"completion" must be a text, got null'],
      [{ prompt: "p", completion: "c", tools: [] }, '"tools" needs'],
      [{ instruction: "a", output: "b", history: 3 }, '"history" must be a list'],
      [{ instruction: "a", output: "b", history: [["x"]] }, "list of [question, answer]"],
      [{ conversations: [{ from: "martian", value: "x" }] }, '"from" is "martian", expected one of system, human'],
      [{ conversations: [{ from: "constructor", value: "x" }] }, '"from" is "constructor"'],
      [{ conversations: [{ from: "gpt", text: "x" }] }, 'unknown key "text"'],
      [{ conversations: [{ from: "gpt", value: "x" }], tools: "{" }, '"tools", a text, is not valid JSON'],
      [{ conversation: [{ input: "x" }] }, '"output" must be a text, got nothing'],
      [{ conversation: [{ input: "x", output: "y", loss: 1 }] }, 'unknown key "loss"'],
    ];
    for (const [data, expected] of cases) {
      const message = userError(() => parse(data));
      expect(message).toStartWith("d.jsonl:7");
      expect(message).toContain(expected);
    }
    expect(userError(() => parseExample('{"text": "a', "d.jsonl:7"))).toStartWith("d.jsonl:7 is not valid JSON");
  });
});

describe("files", () => {
  test("lines come back with their number and byte offset whatever the size of the pieces", () => {
    const path = join(folder, "lines.jsonl");
    const content = '\ufeff{"a":1}\r\n\n   \n{"é":"😀"}\n\n{"last":true}';
    writeFileSync(path, content);
    for (const piece of [1, 2, 3, 7, 4096]) {
      const lines = [...readLines(path, piece)];
      expect(lines.map((line) => [line.number, line.text])).toEqual([
        [1, '{"a":1}'],
        [4, '{"é":"😀"}'],
        [6, '{"last":true}'],
      ]);
      expect(
        lines.map((line) => Buffer.from(content).subarray(line.offset).toString().replace("\ufeff", "").startsWith(line.text!)),
      ).toEqual([true, true, true]);
    }
  });

  test("errors name file and line: broken JSON, bytes that are not UTF-8, no file, a folder", async () => {
    const path = join(folder, "bad.jsonl");
    writeFileSync(path, '{"text":"a"}\n\n{"text":\n');
    expect(await rejection(Array.fromAsync(readExamples(path)))).toStartWith(`${path}:3 is not valid JSON`);
    writeFileSync(path, Buffer.concat([Buffer.from('{"text":"a"}\n'), Buffer.from([0x22, 0xff, 0xfe, 0x0a])]));
    expect(await rejection(Array.fromAsync(readExamples(path)))).toBe(
      `${path}:2: the line is not UTF-8 text; save the file in UTF-8`,
    );
    expect(await rejection(Array.fromAsync(readExamples(join(folder, "none.jsonl"))))).toContain("no such file");
    expect(await rejection(Array.fromAsync(readExamples(folder)))).toContain("it is a folder");
  });

  test("a file that begins with a bracket holds one array, others an object a line, whatever their names", async () => {
    const path = join(folder, "alpaca.json");
    writeFileSync(path, JSON.stringify([{ instruction: "a", output: "b" }, { text: "c" }]));
    expect((await Array.fromAsync(readExamples(path))).map((example) => example.where)).toEqual([
      `${path}:1, item 1`,
      `${path}:1, item 2`,
    ]);
    writeFileSync(path, JSON.stringify([{ text: "c" }, 5]));
    expect(await rejection(Array.fromAsync(readExamples(path)))).toContain("item 2: expected a JSON object, got a number");
    writeFileSync(path, '{"text":"a"}\n{"text":"b"}');
    expect((await Array.fromAsync(readExamples(path))).map((example) => example.where)).toEqual([`${path}:1`, `${path}:2`]);
  });

  test("splits of a folder and beside a file", () => {
    const data = join(folder, "data");
    mkdirSync(data);
    expect(userError(() => trainingFiles(data))).toContain("must hold train.jsonl");
    expect(userError(() => findSplits(join(folder, "nothing")))).toContain("no such file");
    writeFileSync(join(data, "train.jsonl"), "");
    expect(findSplits(data)).toEqual({ train: [join(data, "train.jsonl")], valid: [], test: [] });
    writeFileSync(join(data, "valid.jsonl"), "");
    expect(findSplits(join(data, "train.jsonl"))).toEqual({
      train: [join(data, "train.jsonl")],
      valid: [join(data, "valid.jsonl")],
      test: [],
    });
    expect(findSplits(join(data, "valid.jsonl")).valid).toEqual([]);
  });
});
