import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { classify } from "../../src/library/texts/classify.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { CLASSIFY_FOLDER } from "../support/classify.ts";
import { ok, refused, remat } from "../support/cli.ts";
import { JUDGED_TEXTS, makeJudgedExports } from "../support/judged-exports.ts";
import { expectWithin } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const fixture = JSON.parse(readFileSync(join(CLASSIFY_FOLDER, "exports.json"), "utf8")) as Record<
  "lora" | "merged" | "full",
  number[][]
> &
  Record<"texts" | "merged labels" | "full labels", string[]>;
const lora = join(folder, "lora");

beforeAll(() => makeJudgedExports(folder));

const lines = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe("what a run of classify exports", () => {
  test.each(["lora", "merged", "full"] as const)(
    "%s: PEFT and Transformers load the folder and give the probabilities that are given here, within 1e-4",
    async (name) => {
      const { texts } = await classify({ model: join(folder, name), texts: [...JUDGED_TEXTS], threads: 1 });
      const labels = fixture[name === "full" ? "full labels" : "merged labels"];
      expect(fixture.texts).toEqual([...JUDGED_TEXTS]);
      for (const [i, expected] of fixture[name].entries()) {
        const { probabilities, label, text } = texts[i]!;
        expect(text).toBe(JUDGED_TEXTS[i]!);
        expect(Object.keys(probabilities!)).toEqual(labels);
        for (const [c, value] of expected.entries())
          expectWithin(`class ${c} of text ${i}`, Math.abs(probabilities![labels[c]!]! - value), 1e-4);
        if (name === "full") expect(label).toEqual(labels.filter((_, c) => expected[c]! >= 0.5));
        else expect(label).toBe(labels[expected.indexOf(Math.max(...expected))]!);
      }
    },
  );
});

describe("remat classify", () => {
  test("takes lines of text, JSONL and tables, with labels or without; pairs and conversations; writes a line for each", async () => {
    const { texts: expected } = await classify({ adapter: lora, texts: [...JUDGED_TEXTS], threads: 1 });
    const plain = join(folder, "texts.txt");
    writeFileSync(plain, `${JUDGED_TEXTS.join("\n\n")}\n`);
    const flags = ["classify", "--model", lora, "--threads", "1", "--data"];
    expect(lines(await ok(...flags, plain))).toEqual(expected as unknown as Record<string, unknown>[]);
    const table = join(folder, "texts.csv");
    writeFileSync(table, `text,label,id\n${JUDGED_TEXTS.map((text, i) => `"${text}",none,${i}\n`).join("")}`);
    const out = join(folder, "judged.jsonl");
    const { code, stderr } = await remat([...flags, table, "--out", out]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/4 texts, \d+ tokens in/);
    expect(lines(readFileSync(out, "utf8"))).toEqual(expected as unknown as Record<string, unknown>[]);
    expect(await refused(...flags, table, "--out", out)).toContain(`${out} exists; choose another file, or give --overwrite`);
    const mixed = join(folder, "mixed.jsonl");
    const messages = [{ role: "user", content: "the king was fine" }];
    writeFileSync(mixed, [{ text: "a", text_pair: "b" }, { messages }].map((line) => JSON.stringify(line)).join("\n"));
    const judged = lines(await ok(...flags, mixed));
    expect(judged.map(Object.keys)).toEqual([
      ["text", "text_pair", "label", "probabilities"],
      ["messages", "label", "probabilities"],
    ]);
    expect(judged[1]!["messages"]).toEqual(messages);
  });

  test("reads standard input", async () => {
    const child = Bun.spawn(["bun", "src/cli/main.ts", "classify", "--model", lora, "--threads", "1", "--data", "-"], {
      stdin: Buffer.from(`{"text":${JSON.stringify(JUDGED_TEXTS[0])}}\n`),
      cwd: join(import.meta.dir, "../.."),
      stderr: "pipe",
    });
    const [line, ...more] = lines(await new Response(child.stdout).text());
    expect(more).toEqual([]);
    expect(line!["label"]).toBe("fine");
  });

  test("a text is judged the same alone and among hundreds, but for rounding", async () => {
    const many = Array.from({ length: 300 }, (_, i) => `${JUDGED_TEXTS[i % 4]!} ${"and ".repeat(i % 7)}`);
    const { texts } = await classify({ adapter: lora, texts: many, threads: 1 });
    const alone = await classify({ adapter: lora, texts: [many[37]!], threads: 1 });
    expect(texts.map(({ text }) => text)).toEqual(many);
    for (const [label, probability] of Object.entries(alone.texts[0]!.probabilities!))
      expectWithin(label, Math.abs(texts[37]!.probabilities![label]! - probability), 1e-6);
  });

  test("says what it does not take, with its place, and writes nothing then", async () => {
    const flags = ["classify", "--threads", "1", "--out", join(folder, "never.jsonl")];
    const file = (name: string, text: string) => {
      writeFileSync(join(folder, name), text);
      return join(folder, name);
    };
    const prompts = file("prompts.jsonl", '{"text":"a"}\n{"question":"a","answer":"b"}\n');
    expect(await refused(...flags, "--model", lora, "--data", prompts)).toContain(`${prompts}:2: expected {"text"}`);
    const long = file("long.txt", `a\n${"a b ".repeat(300)}\n`);
    expect(await refused(...flags, "--model", lora, "--data", long)).toContain(`${long}:2: the example has`);
    expect(await refused(...flags, "--model", lora, "--data", file("none.txt", "\n"))).toContain("there is no text to judge");
    expect(await refused(...flags, "--model", join(folder, "model"), "--data", prompts)).toContain(
      `${join(folder, "model")} predicts tokens and judges no texts`,
    );
    expect(existsSync(join(folder, "never.jsonl"))).toBe(false);
    const { code } = await remat(["classify", "--model", lora, "--threads", "1", "--data", long, "--truncate"]);
    expect(code).toBe(0);
  });
});
