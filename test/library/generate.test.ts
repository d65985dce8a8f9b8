import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { appendFileSync, existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { generate, type VerbEvent } from "../../src/index.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, root, writeTinyModel } from "../support/cli.ts";
import { SLOW, slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
// Its weights are random: it hardly ever ends an answer by itself.
const model = writeTinyModel(join(folder, "tiny"), { num_hidden_layers: 1 });
const data = join(folder, "prompts.jsonl");
const COUNT = 12;
writeFileSync(
  data,
  Array.from({ length: COUNT }, (_, i) => `${JSON.stringify({ prompt: `Define ${"king ".repeat(i + 1)}` })}\n`).join(""),
);

const asked = { model, data, threads: 1, maxNewTokens: 30, batchSize: 4, seed: 3, temperature: 1 };
const path = (name: string) => join(folder, name);
const linesOf = (name: string) => readFileSync(path(name), "utf8").split("\n").slice(0, -1);
const recordOf = (name: string) => path(`.${name}.progress`);

/** What a call that is never ended early writes. */
const whole = (async () => {
  const result = await generate({ ...asked, out: path("whole.jsonl") });
  return { result, text: readFileSync(path("whole.jsonl"), "utf8") };
})();

/** Ends a call after so many answers. */
async function endAfter(answers: number, name: string, more: object = {}): Promise<void> {
  const controller = new AbortController();
  const sink = (event: VerbEvent) => event.type === "answer" && event.number === answers && controller.abort(new Error("enough"));
  await expect(generate({ ...asked, ...more, out: path(name) }, { sink, signal: controller.signal })).rejects.toThrow("enough");
}

describe("a generate that was ended early", () => {
  test("goes on behind its whole lines, to the same file and result", async () => {
    const { result, text } = await whole;
    expect(existsSync(recordOf("whole.jsonl"))).toBe(false);
    const name = "ended.jsonl";
    await endAfter(3, name);
    const before = linesOf(name).length;
    expect(before).toBeGreaterThanOrEqual(3);
    expect(before).toBeLessThan(COUNT);
    // Again, in the middle of a line this time.
    await endAfter(before + 2, name);
    appendFileSync(path(name), '{"prompt":"Def');
    const kept = linesOf(name).length;
    const told: VerbEvent[] = [];
    const again = await generate({ ...asked, out: path(name) }, { sink: (event) => told.push(event) });
    expect(readFileSync(path(name), "utf8")).toBe(text);
    expect(again).toEqual({ ...result, kept, seconds: expect.any(Number) });
    expect(told.filter(({ type }) => type === "answer").length).toBe(COUNT - kept);
    const note = `${kept} of ${COUNT} answers are there from a call that was ended early; it goes on behind them`;
    expect(told).toContainEqual({ type: "note", text: note });
    expect(existsSync(recordOf(name))).toBe(false);
    await expect(generate({ ...asked, out: path(name) })).rejects.toThrow("exists; choose another file, or give --overwrite");
  });

  test("goes on where the last lines, or the record of them, did not reach the disk", async () => {
    const { text } = await whole;
    for (const lose of [
      (name: string) => truncateSync(path(name), linesOf(name)[0]!.length + 10),
      (name: string) => truncateSync(recordOf(name), readFileSync(recordOf(name)).length - 5),
      (name: string) => truncateSync(path(name), 0),
    ]) {
      const name = `lost-${lose.length}-${Math.random()}.jsonl`;
      await endAfter(3, name);
      lose(name);
      await generate({ ...asked, out: path(name) });
      expect(readFileSync(path(name), "utf8")).toBe(text);
    }
  });

  test("of other prompts, another model or other settings is refused by name, and begun anew with --overwrite", async () => {
    const name = "other.jsonl";
    await endAfter(3, name);
    const bytes = readFileSync(path(name));
    const others = path("others.jsonl");
    writeFileSync(others, readFileSync(data, "utf8").replace("king", "queen"));
    const another = writeTinyModel(path("another"), { num_hidden_layers: 2 });
    for (const [changed, named] of [
      [{ data: others }, "of other prompts:"],
      [{ model: another }, "of other model:"],
      [{ seed: 4 }, "of other settings:"],
      [{ maxNewTokens: 31, data: others }, "of other prompts and other settings:"],
      [{ dtype: "bf16" as const }, "of other settings:"],
    ] as const) {
      await expect(generate({ ...asked, ...changed, out: path(name) })).rejects.toThrow(named);
      expect(readFileSync(path(name))).toEqual(bytes);
    }
    // Of these the answers are not.
    await endAfter(5, name, { threads: 2, batchSize: 1 });
    await generate({ ...asked, out: path(name), seed: 4, overwrite: true });
    expect(linesOf(name).length).toBe(COUNT);
    expect(readFileSync(path(name), "utf8")).not.toBe((await whole).text);
    expect(readdirSync(folder).filter((entry) => entry.includes("other.jsonl"))).toEqual([name]);
  });

  test("is not gone on with when a line was changed, or while another process writes", async () => {
    const name = "changed.jsonl";
    await endAfter(3, name);
    const text = readFileSync(path(name), "utf8");
    writeFileSync(path(name), text.replace("king", "kinG"));
    await expect(generate({ ...asked, out: path(name) })).rejects.toThrow(/was changed since a call was ended early: line 1 is /);
    writeFileSync(path(name), text);
    const record = readFileSync(recordOf(name), "utf8");
    writeFileSync(recordOf(name), record.replace(`"process":"${process.pid}-`, `"process":"${process.ppid}-`));
    await expect(generate({ ...asked, out: path(name) })).rejects.toThrow("is being written by another process");
    expect(readFileSync(path(name), "utf8")).toBe(text);
  });
});

describe("the verb", () => {
  const flags = ["--model", model, "--data", data, "--threads", "1", "--seed", "3", "--temperature", "1"];
  const command = (name: string, tokens: number) => [
    "generate",
    ...flags,
    "--max-new-tokens",
    String(tokens),
    "--batch-size",
    "2",
    "--out",
    path(name),
  ];

  /** Runs it until its first answer, and then sends a signal. */
  async function signalled(name: string, tokens: number, signal: NodeJS.Signals) {
    const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...command(name, tokens), "--json"], {
      stdout: "pipe",
      stderr: "pipe",
    });
    let text = "";
    for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
      if (!text.includes('"answer"') && (text + piece).includes('"answer"')) child.kill(signal);
      text += piece;
    }
    return { code: await child.exited, text, stderr: await new Response(child.stderr).text() };
  }

  const SIGNALS = SLOW ? (["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGKILL"] as const) : (["SIGHUP", "SIGKILL"] as const);
  slowTest("signals end it in good order between two tokens; SIGKILL costs the lines under way", async () => {
    const tokens = 220;
    expect((await remat(command("all.jsonl", tokens))).code).toBe(0);
    const all = readFileSync(path("all.jsonl"), "utf8");
    for (const signal of SIGNALS) {
      const name = `${signal}.jsonl`;
      const { code, text, stderr } = await signalled(name, tokens, signal);
      expect(code).toBe(128 + constants.signals[signal]);
      expect(stderr).toBe("");
      if (signal !== "SIGKILL") expect(text).toContain(`interrupted: the answers so far are in ${path(name)}`);
      const there = linesOf(name);
      expect(there.length).toBeGreaterThan(0);
      expect(there.length).toBeLessThan(COUNT);
      expect(all).toStartWith(there.map((line) => `${line}\n`).join(""));
      const again = await remat(command(name, tokens));
      expect(again.code).toBe(0);
      expect(again.stderr).toMatch(/note: \d+ of 12 answers are there from a call that was ended early/);
      expect(readFileSync(path(name), "utf8")).toBe(all);
      expect(existsSync(recordOf(name))).toBe(false);
    }
  });
});
