import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, remat, writeTinyModel } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const cache = join(folder, "cache");
process.env["REMAT_CACHE"] = cache;
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 24,
});
const write = (name: string, records: readonly object[]) => {
  const path = join(folder, name);
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return path;
};
const pair = (word: string) => ({
  prompt: `Define ${word}. `,
  chosen: `A thing called ${word}, of which there are many.`,
  rejected: `xqz ${word} zqx`,
});
const data = write("pairs.jsonl", ["king", "house", "water", "tree", "sword", "bread", "stone", "night"].map(pair));
const held = write("held.jsonl", ["gold", "lamp"].map(pair));
const answers = write("answers.jsonl", [
  { prompt: "Define gold. ", completion: "A thing called gold." },
  { prompt: "Define lamp. ", completion: "A thing called lamp." },
]);

const common = "--threads 1 --sequence-length 64 --no-sample --schedule constant --warmup 0 --learning-rate 2e-2".split(" ");
const lora = ["--method", "lora", "--rank", "2"];

type Line = Record<string, unknown> & { readonly type: string; readonly step: number; readonly loss: number };
const linesOf = (output: string): Line[] =>
  readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
const numbers = (output: string) =>
  linesOf(output).map((line) => Object.entries(line).filter(([key]) => /^(loss|log|rewards|gradientNorm)/.test(key)));
const bytes = (output: string, file = "adapter_model.safetensors") => readFileSync(join(output, file));

/** What a run in a folder of this name shows on standard error. */
async function shownBy(name: string, ...flags: string[]): Promise<string> {
  const method = flags.includes("full") ? [] : lora;
  const where = ["--data", data, "--output", join(folder, name)];
  const { code, stderr } = await remat([
    "train",
    "--model",
    model,
    "--objective",
    "dpo",
    ...common,
    ...method,
    ...where,
    ...flags,
  ]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  return stderr;
}

async function train(name: string, ...flags: string[]): Promise<string> {
  await shownBy(name, ...flags);
  return join(folder, name);
}

const kept = () => readdirSync(join(cache, "references"));

describe("train --objective dpo", () => {
  test("learns what is preferred, from the loss of a model that is its own reference on; eval finds what the last evaluation found", async () => {
    const output = await train("learns", "--steps", "20", "--valid", held, "--batch-size", "2");
    const lines = linesOf(output);
    const steps = lines.filter(({ type }) => type === "step");
    expect(steps[0]!.loss).toBeCloseTo(Math.log(2), 6);
    expect(steps[0]!["rewards/margins"]).toBe(0);
    expect(steps.at(-1)!.loss).toBeLessThan(0.6);
    expect(steps.at(-1)!["rewards/accuracies"]).toBe(1);
    const last = lines.filter(({ type }) => type === "evaluation").at(-1)!;
    expect(last["rewards/accuracies"]).toBe(1);
    const asked = [
      "eval",
      "--model",
      model,
      "--adapter",
      output,
      "--objective",
      "dpo",
      "--data",
      held,
      "--sequence-length",
      "64",
    ];
    const { stdout } = await remat([...asked, "--threads", "1", "--json"]);
    const score = JSON.parse(stdout.trim().split("\n").at(-1)!) as Line;
    expect(Math.abs(score.loss / last.loss - 1)).toBeLessThan(1e-4);
    expect(Math.abs((score["rewards/margins"] as number) / (last["rewards/margins"] as number) - 1)).toBeLessThan(1e-3);
    expect(await refused("eval", "--model", model, "--objective", "dpo", "--data", held)).toMatch(
      /measures an adapter against its base model, and this model has none/,
    );
  });

  slowTest(
    "the same to the bit: without gradient checkpointing, with the reference from the cache or made anew, resumed",
    async () => {
      const whole = await train("whole", "--steps", "6", "--gradient-accumulation", "2", "--save-every", "2", "--valid", held);
      const files = kept().length;
      const again = await train(
        "again",
        "--steps",
        "6",
        "--gradient-accumulation",
        "2",
        "--valid",
        held,
        "--no-gradient-checkpointing",
      );
      expect(kept()).toHaveLength(files);
      expect(numbers(again)).toEqual(numbers(whole));
      expect(bytes(again)).toEqual(bytes(whole));
      // Another beta has the same reference.
      await train("beta", "--steps", "6", "--gradient-accumulation", "2", "--valid", held, "--dpo-beta", "0.3");
      expect(kept()).toHaveLength(files);

      const part = ["--steps", "6", "--gradient-accumulation", "2", "--save-every", "2", "--valid", held];
      const output = join(folder, "part");
      await train("part", ...part);
      const newest = readdirSync(join(output, "checkpoints")).find((name) => /-0*6$/.test(name))!;
      rmSync(join(output, "checkpoints", newest), { recursive: true });
      // What is kept is damaged: it is made anew, of the model as it was before training.
      for (const name of kept()) writeFileSync(join(cache, "references", name), "no numbers");
      const shown = await shownBy("part", ...part, "--resume");
      expect(shown).toMatch(/resumed +after step 4/);
      expect(numbers(output)).toEqual(numbers(whole));
      expect(bytes(output)).toEqual(bytes(whole));
    },
  );

  test("full, with every loss; an adapter that is trained further is held against itself", async () => {
    for (const loss of ["hinge", "ipo"]) {
      const output = await train(`full-${loss}`, "--method", "full", "--steps", "4", "--dpo-loss", loss, "--batch-size", "4");
      const [first, ...rest] = linesOf(output).filter(({ type }) => type === "step");
      expect(first!["rewards/margins"]).toBe(0);
      expect(rest.at(-1)!.loss).toBeLessThan(first!.loss);
    }
    const taught = join(folder, "taught");
    await ok("train", "--model", model, ...common, ...lora, "--data", answers, "--steps", "8", "--output", taught);
    const output = join(folder, "further");
    await ok(
      "train",
      "--model",
      model,
      "--adapter",
      taught,
      "--objective",
      "dpo",
      ...common,
      "--data",
      data,
      "--steps",
      "3",
      "--output",
      output,
    );
    const [first] = linesOf(output).filter(({ type }) => type === "step");
    expect(first!["rewards/margins"]).toBe(0);
    expect(first!.loss).toBeCloseTo(Math.log(2), 6);
  });

  test("a dry run computes no reference; settings of other objectives are refused", async () => {
    const files = kept().length;
    await train("dry", "--dry-run", "--steps", "7");
    expect(kept()).toHaveLength(files);
    expect(await refused("train", "--model", model, "--data", data, "--objective", "dpo", "--simpo-beta", "3")).toMatch(
      /--simpo-beta is a setting of --objective simpo/,
    );
    expect(
      await refused("train", "--model", model, "--data", answers, "--objective", "dpo", "--output", join(folder, "x")),
    ).toMatch(/the objective dpo learns from/);
  });
});
