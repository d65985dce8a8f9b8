import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RunEvent } from "../../src/train/run/events.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const root = join(import.meta.dir, "../..");
const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 1,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const base = join(root, "recipes/base/model");

const csv = join(folder, "qa.csv");
writeFileSync(csv, "id,question,reply,notes\n1,What is it?,A thing.,x\n2,Who is it?,A king.,y\n");
const columns = ["--columns", "prompt=question,completion=reply,ignore=notes"];

async function ok(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await remat(args);
  expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
  return { stdout, stderr };
}

describe("data in tables and patterns, with every verb", () => {
  test("train on CSV with columns of other names: as on the same examples in JSONL, and what is not used is said once", async () => {
    const jsonl = join(folder, "qa.jsonl");
    const pairs = [
      ["What is it?", "A thing."],
      ["Who is it?", "A king."],
    ];
    writeFileSync(jsonl, pairs.map(([prompt, completion]) => `${JSON.stringify({ prompt, completion })}\n`).join(""));
    const train = async (...args: string[]) => {
      const flags = "--threads 1 --sequence-length 32 --no-sample --json --overwrite --steps 2".split(" ");
      const { stdout } = await ok("train", "--model", model, "--output", join(folder, "run"), ...flags, ...args);
      return stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as RunEvent);
    };
    const losses = (events: readonly RunEvent[]) => events.flatMap((event) => (event.type === "step" ? [event.loss] : []));
    const fromTable = await train("--data", csv, ...columns);
    const start = fromTable.find((event) => event.type === "start");
    expect(start).toMatchObject({
      examples: 2,
      notes: expect.arrayContaining([`${csv}: the columns "id", "notes" are not used (2 examples)`]),
    });
    expect(losses(fromTable)).toHaveLength(2);
    expect(losses(fromTable)).toEqual(losses(await train("--data", jsonl)));
  });

  test("train on a pattern of files of several kinds, held-out ones in Parquet", async () => {
    const data = join(folder, "mixed");
    mkdirSync(data);
    writeFileSync(join(data, "a.json"), '[{"question": "q", "answer": "a"},\n{"text": "t"}]');
    writeFileSync(join(data, "b.csv"), "instruction,input,output,text\ndo,this,done,all\n");
    copyFileSync(join(root, "test/golden/tables/long-values.parquet"), join(folder, "held.parquet"));
    const flags = "--threads 1 --sequence-length 256 --truncate --no-sample --json --steps 1".split(" ");
    const sources = ["--data", join(data, "*.{json,csv}"), "--valid", join(folder, "held.parquet")];
    const { stdout } = await ok("train", "--model", model, "--output", join(folder, "run2"), ...sources, ...flags);
    const start = JSON.parse(stdout.split("\n").find((line) => line.includes('"start"'))!) as RunEvent;
    expect(start).toMatchObject({
      examples: 3,
      heldOut: 3,
      notes: expect.arrayContaining([expect.stringMatching(/b\.csv: the column "text" is not used \(1 example\)$/)]),
    });
  });

  test("eval, generate, data check and data show", async () => {
    const score = await ok("eval", "--model", base, "--data", csv, "--threads", "1", "--json", ...columns);
    expect(score.stdout).toContain('"examples":2');
    expect(score.stdout + score.stderr).toContain('the columns \\"id\\", \\"notes\\" are not used (2 examples)');
    const out = join(folder, "answers.jsonl");
    const prompts = join(folder, "prompts.csv");
    writeFileSync(prompts, "question\nDefine love.\nDefine king.\n");
    await ok("generate", "--model", base, "--data", prompts, "--out", out, "--threads", "1", "--max-new-tokens", "2");
    const lines = readFileSync(out, "utf8").trim().split("\n");
    expect(lines.map((line) => (JSON.parse(line) as { messages: { content: string }[] }).messages[0]!.content)).toEqual([
      "Define love.",
      "Define king.",
    ]);
    const check = await ok("data", "check", csv, prompts.replace("prompts", "qa"), "--model", base, ...columns);
    expect(check.stdout).toContain("not used     columns of examples: 2 id, 2 notes\n");
    const shown = await ok("data", "show", csv, "--model", base, ...columns);
    expect(shown.stdout).toContain(`${csv}:2: `);
    expect(shown.stdout).toContain("[What is it?]A thing.");
    expect(shown.stderr).toBe(`note: ${csv}: the columns "id", "notes" are not used (2 examples)\n`);
  });

  test("an unknown column is an error that names --columns, with the place", async () => {
    const { code, stderr } = await remat(["data", "show", csv, "--model", base, "--columns", "prompt=question,completion=reply"]);
    expect(code).toBe(2);
    expect(stderr).toContain(
      `${csv}:2: unknown key "notes" beside "prompt"; remove it, or leave it out with --columns ignore=notes`,
    );
  });

  test("files of a pattern that the shell took apart", async () => {
    const { code, stderr } = await remat(["train", "--model", model, "--data", "a.csv", "b.csv", "c.csv"]);
    expect(code).toBe(2);
    expect(stderr).toBe(
      'remat: b.csv is a file of data, where a configuration is expected; give --data, and quotes around a pattern: --data "more/*.csv"\n',
    );
  });
});
