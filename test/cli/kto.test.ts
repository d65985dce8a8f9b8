import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { refused, remat, writeTinyModel } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
process.env["REMAT_CACHE"] = join(folder, "cache");
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
const answers = (words: string) =>
  words.split(" ").flatMap((word) => [
    { prompt: `Define ${word}. `, completion: `A thing called ${word}, of which there are many.`, label: true },
    { prompt: `Define ${word}. `, completion: `xqz ${word} zqx`, label: false },
  ]);
const data = write("answers.jsonl", answers("king house water tree sword bread stone night"));
const held = write("held.jsonl", answers("gold lamp"));

const common = "--threads 1 --sequence-length 64 --no-sample --schedule constant --warmup 0 --learning-rate 2e-2".split(" ");

type Line = Record<string, unknown> & { readonly type: string; readonly step: number; readonly loss: number };
const linesOf = (output: string): Line[] =>
  readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
const numbers = (output: string) =>
  linesOf(output).map((line) => Object.entries(line).filter(([key]) => /^(loss|log|rewards|kl|gradientNorm)/.test(key)));
const bytes = (output: string) => readFileSync(join(output, "adapter_model.safetensors"));

/** Trains into a folder of this name; what is shown on standard error. */
async function train(name: string, ...flags: string[]): Promise<{ readonly output: string; readonly shown: string }> {
  const output = join(folder, name);
  const where = ["--model", model, "--data", data, "--output", output, "--method", "lora", "--rank", "2"];
  const { code, stderr } = await remat(["train", "--objective", "kto", ...where, ...common, ...flags]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  return { output, shown: stderr };
}

describe("train --objective kto", () => {
  test("with --kto-loss apo_zero_unpaired answers are held against what they were alone, even a single one", async () => {
    const flags = ["--kto-loss", "apo_zero_unpaired", "--valid", held, "--batch-size", "4"];
    const { output } = await train("apo", "--steps", "20", ...flags);
    const steps = linesOf(output).filter(({ type }) => type === "step");
    expect(steps[0]!.loss).toBeCloseTo(0.5, 6);
    expect(steps[0]!["kl"]).toBeUndefined();
    // Of answers that nobody trained on, the desirable ones gain and the others lose.
    const last = linesOf(output)
      .filter(({ type }) => type === "evaluation")
      .at(-1)!;
    expect(last.loss).toBeLessThan(0.5);
    expect(last["rewards/margins"]).toBeGreaterThan(0);
    const one = write("one.jsonl", answers("gold").slice(0, 1));
    const alone = ["train", "--model", model, "--data", one, "--objective", "kto", "--steps", "1", ...common, "--output"];
    expect(await refused(...alone, join(folder, "no"))).toContain("the only example");
    expect((await remat([...alone, join(folder, "apo-single"), "--kto-loss", "apo_zero_unpaired"])).code).toBe(0);
  });

  test("learns what is desirable, from a model that is its own reference on; eval finds the rewards of the last evaluation", async () => {
    const { output, shown } = await train("learns", "--steps", "20", "--valid", held, "--batch-size", "4");
    const lines = linesOf(output);
    const steps = lines.filter(({ type }) => type === "step");
    expect(steps[0]!.loss).toBeCloseTo(0.5, 6);
    expect(steps[0]!["kl"]).toBe(0);
    expect(steps.at(-1)!.loss).toBeLessThan(0.45);
    const last = lines.filter(({ type }) => type === "evaluation").at(-1)!;
    expect(last["rewards/margins"]).toBeGreaterThan(0.2);
    expect(shown).toMatch(/held-out loss \S+ \(kl \S+\) after step 20/);
    const asked = ["eval", "--model", model, "--adapter", output, "--objective", "kto", "--data", held];
    const { stdout } = await remat([...asked, "--sequence-length", "64", "--threads", "1", "--json"]);
    const score = JSON.parse(stdout.trim().split("\n").at(-1)!) as Line;
    for (const name of ["rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"])
      expect(Math.abs((score[name] as number) / (last[name] as number) - 1)).toBeLessThan(1e-3);
  });

  slowTest("the same to the bit: without gradient checkpointing, resumed", async () => {
    const steps = ["--steps", "6", "--gradient-accumulation", "2", "--batch-size", "2", "--valid", held, "--kto-beta", "0.3"];
    const { output: whole } = await train("whole", ...steps);
    const { output: again, shown: alike } = await train("again", ...steps, "--no-gradient-checkpointing");
    expect(alike).not.toContain("--batch-size");
    const single = await train("single", "--steps", "1", "--batch-size", "1", "--no-packing");
    expect(single.shown).toContain("--batch-size 1: kto estimates from a single example how far the model has moved");
    expect(numbers(again)).toEqual(numbers(whole));
    expect(bytes(again)).toEqual(bytes(whole));
    const { output: part } = await train("part", ...steps, "--save-every", "2");
    const newest = readdirSync(join(part, "checkpoints")).find((name) => /-0*6$/.test(name))!;
    rmSync(join(part, "checkpoints", newest), { recursive: true });
    const { shown } = await train("part", ...steps, "--save-every", "2", "--resume");
    expect(shown).toMatch(/resumed +after step 4/);
    expect(numbers(part)).toEqual(numbers(whole));
    expect(bytes(part)).toEqual(bytes(whole));
  });

  test("bad data, too little of it, and a metric that it does not have are one error each", async () => {
    const asked = ["train", "--model", model, "--objective", "kto", ...common, "--output", join(folder, "x"), "--steps", "2"];
    const bad = write("bad.jsonl", [...answers("king"), { prompt: "p", completion: "c", label: "maybe" }]);
    expect(await refused(...asked, "--data", bad)).toMatch(/bad\.jsonl:3: "label" must be true .*, got "maybe"/);
    expect(await refused(...asked, "--data", data, "--dpo-beta", "0.3")).toMatch(/--dpo-beta is a setting of --objective dpo/);
    const single = write("single.jsonl", answers("king").slice(0, 1));
    expect(await refused(...asked, "--data", single)).toMatch(/single\.jsonl:1: the only example/);
    const good = write(
      "good.jsonl",
      answers("king house").filter(({ label }) => label),
    );
    const { code, stderr } = await remat([...asked, "--data", data, "--valid", good, "--best-metric", "rewards/margins"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/remat: --best-metric rewards\/margins: the held-out examples do not have what it is made of/);
  });
});
