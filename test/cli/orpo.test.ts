import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, remat, writeTinyModel } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 24,
});
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
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
const data = write("pairs.jsonl", words.map(pair));
const held = write("held.jsonl", ["gold", "lamp"].map(pair));
const texts = write("texts.jsonl", [{ prompt: "a", completion: "b" }]);

const common = [
  "--model",
  model,
  "--objective",
  "orpo",
  "--threads",
  "1",
  "--sequence-length",
  "64",
  "--rank",
  "2",
  "--no-sample",
];
const constant = ["--schedule", "constant", "--warmup", "0", "--learning-rate", "2e-2"];

type Line = Record<string, unknown> & { readonly type: string; readonly step: number; readonly loss: number };

async function train(name: string, ...flags: string[]): Promise<{ output: string; lines: Line[]; adapter: string }> {
  const output = join(folder, name);
  await ok("train", ...common, ...constant, "--data", data, "--output", output, ...flags);
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  const adapter = join(output, "adapter_model.safetensors");
  const hash = existsSync(adapter) ? new Bun.CryptoHasher("sha256").update(readFileSync(adapter)).digest("hex") : "";
  return { output, lines: lines.map((line) => JSON.parse(line) as Line), adapter: hash };
}

const numbers = (lines: readonly Line[]) =>
  lines.map((line) => Object.entries(line).filter(([key]) => /^(loss|nll|log|rewards|gradientNorm)/.test(key)));

describe("train --objective orpo", () => {
  test("learns what is preferred; metrics stand in the lines; eval finds what the last evaluation found", async () => {
    const flags = ["--valid", held, "--steps", "30", "--eval-every", "10"];
    const { output, lines } = await train("learns", ...flags);
    const evaluations = lines.filter(({ type }) => type === "evaluation");
    const steps = lines.filter(({ type }) => type === "step");
    expect(evaluations.map(({ step }) => step)).toEqual([0, 10, 20, 30]);
    const names = ["rewards/accuracies", "rewards/margins", "log_odds_chosen", "log_odds_ratio", "nll_loss", "logps/chosen"];
    for (const line of lines) for (const name of names) expect(line[name], name).toBeFinite();
    const [first, last] = [evaluations[0]!, evaluations.at(-1)!];
    expect(last["rewards/accuracies"]).toBe(1);
    expect(last["rewards/margins"]).toBeGreaterThan(first["rewards/margins"] as number);
    expect(last.loss).toBeLessThan(first.loss);
    expect(steps.at(-1)!.loss).toBeLessThan(steps[0]!.loss);
    const flagsOfEval = ["--objective", "orpo", "--sequence-length", "64", "--threads", "1"];
    const score = JSON.parse(
      await ok("eval", "--model", model, "--adapter", output, "--data", held, ...flagsOfEval, "--json"),
    ) as Line;
    expect(score).toMatchObject({ type: "score", examples: 2 });
    for (const name of ["loss", ...names]) expect(score[name], name).toBeCloseTo(last[name] as number, 5);
    const text = await ok("eval", "--model", model, "--adapter", output, "--data", held, ...flagsOfEval);
    expect(text).toMatch(
      /^loss \d\.\d{4}, chosen preferred 100\.00 %, log odds ratio \d\.\d{4}, nll \d\.\d{5} \(2 examples, \d+ tokens/,
    );
  });

  slowTest(
    "the same to the bit: without gradient checkpointing, within a limit, with replay checks, and resumed in the middle",
    async () => {
      const flags = ["--steps", "6", "--gradient-accumulation", "2", "--dropout", "0.1"];
      const whole = await train("whole", ...flags, "--no-gradient-checkpointing");
      for (const [name, ...more] of [
        ["checked", "--verify-replay"],
        ["limited", "--activation-memory", "1.15MiB"],
        ["revolve", "--slots", "1", "--threads", "2"],
      ] as const) {
        const other = await train(name, ...flags, ...more);
        expect(other.adapter).toBe(whole.adapter);
        expect(numbers(other.lines)).toEqual(numbers(whole.lines));
      }
      await train("resumed", ...flags.with(1, "3"));
      const resumed = await train("resumed", ...flags, "--resume");
      expect(resumed.adapter).toBe(whole.adapter);
      expect(numbers(resumed.lines)).toEqual(numbers(whole.lines));
      const again = ["train", ...common, ...constant, "--data", data, "--output", join(folder, "resumed"), ...flags, "--resume"];
      expect(await refused(...again, "--orpo-lambda", "0.2")).toContain("orpoLambda 0.1");
      expect(await refused(...again, "--orpo-nll", "all")).toContain("orpoNll response");
    },
  );

  test("padded and packed, all pairs in a step: losses, metrics and gradient norms within 1e-5", async () => {
    // Rows with room for one pair, so that both have the same micro-batches, in another order.
    const flags = ["--steps", "3", "--sequence-length", "20", "--gradient-accumulation", "8"];
    const [packed, padded] = [await train("packed", ...flags), await train("padded", ...flags, "--no-packing")];
    expect(packed.lines.length).toBe(3);
    packed.lines.forEach((line, i) => {
      for (const [name, value] of numbers([line])[0]!)
        expect(Math.abs((padded.lines[i]![name] as number) - (value as number)), name).toBeLessThan(1e-5);
    });
  });

  test("on ONNX Runtime: losses and metrics within 1e-4 of the kernels'", async () => {
    const flags = ["--steps", "4", "--valid", held];
    const [kernels, ort] = [await train("kernels", ...flags), await train("ort", ...flags, "--device", "ort-cpu")];
    kernels.lines.forEach((line, i) => {
      for (const [name, value] of numbers([line])[0]!)
        expect(Math.abs((ort.lines[i]![name] as number) - (value as number)), name).toBeLessThan(1e-4);
    });
  });

  test("--best-metric: a metric of which more is better stops the run, and its best weights are exported", async () => {
    const flags = ["--valid", held, "--steps", "12", "--eval-every", "1", "--patience", "3", "--load-best"];
    const output = join(folder, "best");
    const best = ["--best-metric", "rewards/accuracies", "--learning-rate", "1e-2"];
    const said = await remat(["train", ...common, ...constant, "--data", data, "--output", output, ...flags, ...best]);
    expect(said.code).toBe(0);
    const lines = readFileSync(join(output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Line);
    const values = lines.filter(({ type }) => type === "evaluation").map((line) => line["rewards/accuracies"] as number);
    const top = Math.max(...values);
    const at = values.indexOf(top);
    // Once no evaluation is better for three times, the run ends.
    expect(values.length - 1 - at).toBe(3);
    expect(said.stderr).toContain("stopped         after step");
    expect(said.stderr).toContain(`the weights after step ${at} are exported`);
    const score = JSON.parse(
      await ok("eval", "--model", model, "--adapter", output, "--data", held, "--objective", "orpo", "--threads", "1", "--json"),
    ) as Line;
    expect(score["rewards/accuracies"]).toBe(top);
  });

  test("--best-metric: best weights that were not kept are told with the metric's own sign", async () => {
    const flags = ["--valid", held, "--steps", "4", "--eval-every", "1", "--best-metric", "logps/chosen"];
    const more = ["--learning-rate", "0.3", "--save-every", "100"];
    const { output, lines } = await train("late", ...flags, ...more);
    const values = lines.filter(({ type }) => type === "evaluation").map((line) => line["logps/chosen"] as number);
    const top = Math.max(...values);
    expect(values.indexOf(top)).toBeLessThan(4);
    expect(top).toBeLessThan(0);
    const again = ["train", ...common, ...constant, "--data", data, "--output", output, ...flags, ...more];
    const { stderr } = await remat([...again, "--load-best", "--resume"]);
    expect(stderr).toContain(`the best weights (held-out logps/chosen ${top}) are in no checkpoint`);
  });
});

describe("what does not fit is refused", () => {
  const base = ["train", "--model", model, "--output", join(folder, "never")];
  test.each([
    [["--objective", "orpo", "--data", texts], "texts.jsonl:1: the objective orpo learns from"],
    [["--data", data], "pairs.jsonl:1: the objective next-token learns from"],
    [["--data", texts, "--orpo-lambda", "0.2"], "--orpo-lambda is a setting of --objective orpo; got --objective next-token"],
    [["--data", data, "--objective", "orpo", "--best-metric", "accuracy"], "has the metrics loss, rewards/accuracies"],
    [["--data", data, "--objective", "orpo", "--sequence-length", "8"], "more than the sequence length of 8"],
    [["--data", data, "--objective", "orpe"], "orpo"],
  ])("%j", async (flags, message) => {
    expect(await refused(...base, ...flags)).toContain(message);
    expect(existsSync(join(folder, "never"))).toBe(false);
  });
});

test("data check counts preferences and finds the same one again; data show shows both answers", async () => {
  const twice = write("twice.jsonl", [pair("king"), pair("house"), pair("king")]);
  const report = JSON.parse((await ok("data", "check", twice, "--json")).trim().split("\n").at(-1)!) as Line;
  expect(report).toMatchObject({ examples: 3, kinds: { preference: 3 }, duplicates: 1, errors: 0 });
  const shown = await ok("data", "show", data, "--model", model, "--count", "1");
  expect(shown).toContain("[Define king.] A thing called king");
  expect(shown).toContain("[Define king. ]xqz king zqx");
});

test("plan counts rows of two texts, and an open head", async () => {
  // What is kept and computed is that of as many tokens of next-token.
  const plan = async (...flags: string[]) =>
    JSON.parse(await ok("plan", "--model", model, "--sequence-length", "32", ...flags, "--json")) as {
      memory: { batch: number; stash: number; workspace: number };
      segments: { output: number }[];
    };
  const [orpo, double] = [await plan("--objective", "orpo"), await plan("--batch-size", "2")];
  expect(orpo.segments.map(({ output }) => output)).toEqual(double.segments.map(({ output }) => output));
  expect(orpo.memory.stash + orpo.memory.workspace).toBe(double.memory.stash + double.memory.workspace);
  // A scale and a loss for each of 64 tokens, instead of one scale.
  expect(orpo.memory.batch - double.memory.batch).toBe(2 * 64 * 4 - 64);
});
