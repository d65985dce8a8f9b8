import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import type { DataPreview } from "../../../src/page/api/types.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, chats, openBox, writeBase } from "../../support/box.ts";
import { endedChildrenSeconds } from "../../support/process-tree.ts";
import { slowTest } from "../../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const home = join(folder, "home");
let box: Box;
beforeAll(async () => {
  box = await openBox({ home, model: writeBase(folder) });
});
afterAll(() => box.server.stop());

const ask = (fields: object, init: RequestInit = {}) =>
  box.ask("/v1/fine_tuning/preview", {
    method: "POST",
    body: JSON.stringify({ model: BASE, ...fields }),
    headers: { "content-type": "application/json" },
    ...init,
  });
const preview = async (fields: object): Promise<DataPreview> => {
  const response = await ask(fields);
  expect(response.status).toBe(200);
  return (await response.json()) as DataPreview;
};

describe("a preview", () => {
  test("shows examples as the model sees them, what is learned apart from the rest", async () => {
    const training_file = await box.upload(chats(), "words.jsonl");
    const { rows, columns, report, names, sequence_length } = await preview({ training_file, from: 2, count: 2 });
    expect(rows.map(({ number, error }) => [number, error])).toEqual([
      [2, null],
      [3, null],
    ]);
    const [{ parts, tokens, trained, cut }] = rows[0]!.samples as [DataPreview["rows"][number]["samples"][number]];
    expect(parts.filter((part) => part.trained).map(({ text }) => text)).toEqual(["A thing called house.<|im_end|>"]);
    expect(parts.map(({ text }) => text).join("")).toContain("<|im_start|>user\nDefine house.<|im_end|>");
    expect([tokens > trained, trained > 2, cut, sequence_length]).toEqual([true, true, false, 256]);
    expect(columns.map(({ name }) => name)).toEqual(["messages"]);
    expect(names).toContain("completion");
    expect(report).toBe(null);
    expect(readdirSync(join(home, "runs"))).toEqual([]);
  });

  test("reads columns of other names, and tells which there are", async () => {
    const training_file = await box.upload("question,reply,id\nWho?,Me.,1\n", "questions.csv");
    const before = await preview({ training_file });
    expect(before.rows).toEqual([
      { number: 2, where: "questions.csv:2", samples: [], error: expect.stringContaining("questions.csv:2") },
    ]);
    expect(before.columns).toEqual([
      { name: "question", value: "Who?" },
      { name: "reply", value: "Me." },
      { name: "id", value: "1" },
    ]);
    const { rows, report } = await preview({ training_file, remat: { columns: ["answer=reply"] }, whole: true });
    expect(rows[0]!.error).toBe(null);
    expect(rows[0]!.samples[0]!.parts.find(({ trained }) => trained)!.text).toStartWith("Me.");
    expect(report).toMatchObject({ examples: 1, unused: { id: 1 }, errors: { count: 0 } });
  });

  test("lists what is wrong by line, and reads on", async () => {
    const lines = chats().trimEnd().split("\n");
    lines[1] = '{"messages": [{"role": "user", "content": 3}]}';
    lines[3] = "{";
    lines[4] = lines[0]!;
    const training_file = await box.upload(lines.join("\n"), "my data.jsonl");
    const { rows, report } = await preview({ training_file, whole: true, remat: { sequence_length: 20 } });
    expect(rows.map(({ error }) => error !== null)).toEqual([false, true, false, true, false]);
    expect(report!.errors).toEqual({
      count: 2,
      first: [
        { where: "my data.jsonl:2", message: expect.stringContaining("content") },
        { where: "my data.jsonl:4", message: expect.any(String) },
      ],
    });
    expect(report!.duplicates.first).toEqual([{ where: "my data.jsonl:5", message: "the same as my data.jsonl:1" }]);
    expect(report!.over_long.count + report!.examples).toBeGreaterThan(3);
    expect(JSON.stringify({ rows, report })).not.toContain(folder);
  });

  test("is cut where an example is long", async () => {
    const training_file = await box.upload(`${JSON.stringify({ text: "word ".repeat(20_000) })}\n`);
    const [sample] = (await preview({ training_file })).rows[0]!.samples;
    expect([sample!.cut, sample!.parts.map(({ text }) => text).join("").length]).toEqual([true, 20_000]);
    expect(sample!.tokens).toBeGreaterThan(20_000);
  });

  test("is refused by field", async () => {
    const training_file = await box.upload(chats());
    const refusals = [
      [{ training_file: "file-x" }, "training_file"],
      [{ training_file, model: "none" }, "model"],
      [{ training_file, count: 1000 }, "count"],
      [{ training_file, from: 0 }, "from"],
      [{ training_file, remat: { columns: ["x=y"] } }, "training_file"],
      [{ training_file, remat: { chat_template: "/etc/passwd" } }, "remat.chat_template"],
      [{ training_file, remat: { data: "/etc/passwd" } }, "remat.data"],
      [{ training_file, something: 1 }, "something"],
    ] as const;
    for (const [fields, param] of refusals) {
      const response = await ask(fields);
      const { error } = (await response.json()) as { error: { param: string; message: string } };
      expect([param, response.status, error.param]).toEqual([param, error.message.includes("no model") ? 404 : 400, param]);
    }
  });

  slowTest("of a large file ends when nobody waits for it any more", async () => {
    const training_file = await box.upload(chats(Array.from({ length: 60_000 }, (_, i) => `word${i}`)));
    let before = endedChildrenSeconds();
    await preview({ training_file, whole: true });
    const whole = endedChildrenSeconds() - before;
    before = endedChildrenSeconds();
    const controller = new AbortController();
    const asked = ask({ training_file, whole: true }, { signal: controller.signal }).catch(() => "aborted");
    await Bun.sleep(300);
    controller.abort();
    expect(await asked).toBe("aborted");
    // The next one is made when the process of this one has ended: together they have computed less than all of it.
    await preview({ training_file });
    expect(endedChildrenSeconds() - before).toBeLessThan(0.8 * whole);
  });
});
