import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RunEvent, VerbEvent } from "../../src/train/run/events.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const main = join(import.meta.dir, "../../src/cli/main.ts");
const examples = (words: readonly string[], answer: (word: string) => string) =>
  words.map((word) => `${JSON.stringify({ prompt: `Define ${word}. `, completion: answer(word) })}\n`).join("");
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];
writeFileSync(
  join(folder, "train.jsonl"),
  examples(words, (word) => `A thing called ${word}.`),
);
// What is learned makes these worse.
writeFileSync(
  join(folder, "other.jsonl"),
  examples(["gold"], () => "zq xj vk wq jx"),
);

async function train(output: string, ...flags: string[]): Promise<{ events: RunEvent[]; stderr: string }> {
  const { code, stdout, stderr } = await remat(
    `train --model ${model} --data ${join(folder, "train.jsonl")} --output ${join(folder, output)} --threads 1 --sequence-length 64 --rank 2 --learning-rate 5e-2 --json`
      .split(" ")
      .concat(flags),
  );
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const events = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunEvent);
  return { events, stderr };
}

const of = <T extends RunEvent["type"]>(events: readonly RunEvent[], type: T) =>
  events.filter((event): event is Extract<RunEvent, { type: T }> => event.type === type);

describe("--json", () => {
  test("every event is a line, and metrics.jsonl has those of steps and evaluations", async () => {
    const flags = [
      "--valid",
      join(folder, "train.jsonl"),
      "--steps",
      "4",
      "--eval-every",
      "2",
      "--save-every",
      "2",
      "--tensorboard",
    ];
    const { events } = await train("events", ...flags);
    expect(events.map(({ type }) => type)).toEqual([
      "start",
      "evaluation",
      "step",
      "step",
      "evaluation",
      "checkpoint",
      "step",
      "step",
      "evaluation",
      "checkpoint",
      "sample",
      "done",
    ]);
    const [start] = of(events, "start");
    expect(start).toMatchObject({ examples: 8, heldOut: 8, method: "lora", strategy: "auto", automatic: { by: "everything" } });
    const [done] = of(events, "done");
    expect(done).toMatchObject({ step: 4, reason: "finished", bestStep: null });
    expect(done!.measuredPeak).toBe(done!.predictedPeak);
    // A rule needs no times, so there are none to predict by.
    for (const { seconds, forwardBackward } of [...of(events, "step"), done!]) {
      expect(forwardBackward!.measured).toBeGreaterThan(0);
      expect(forwardBackward!.measured).toBeLessThan(seconds);
      expect(forwardBackward!.predicted).toBeNull();
    }
    // Metrics stand beside the other keys.
    for (const { loss, ...rest } of of(events, "evaluation"))
      expect(rest).toMatchObject({ perplexity: expect.closeTo(Math.exp(loss), 6), accuracy: expect.any(Number) });
    const metrics = readFileSync(join(folder, "events/metrics.jsonl"), "utf8").trim().split("\n");
    expect(metrics.map((line) => JSON.parse(line))).toEqual(
      events.filter(({ type }) => type === "step" || type === "evaluation"),
    );
    expect(readdirSync(join(folder, "events")).filter((name) => name.startsWith("events.out.tfevents.")).length).toBe(1);
  });

  test("whoever reads the events may leave: the run goes on to its end", async () => {
    const output = join(folder, "unread");
    const flags = [
      "--data",
      join(folder, "train.jsonl"),
      "--output",
      output,
      "--steps",
      "6",
      "--threads",
      "1",
      "--no-sample",
      "--json",
    ];
    const command = `"$@" | head -n 1; exit "\${PIPESTATUS[0]}"`;
    const child = Bun.spawn(["bash", "-c", command, "bash", process.execPath, main, "train", "--model", model, ...flags], {
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    expect({ code: await child.exited, stderr }).toEqual({ code: 0, stderr: "" });
    expect(
      stdout
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as RunEvent).type),
    ).toEqual(["start"]);
    const metrics = readFileSync(join(output, "metrics.jsonl"), "utf8");
    expect(metrics.match(/"type":"step"/g)?.length).toBe(6);
  });
});

test("a planner's schedule has a predicted time, in events and in words", async () => {
  const flags = ["--activation-memory", "100%", "--steps", "3", "--no-sample"];
  const { events } = await train("planned", ...flags);
  for (const { forwardBackward } of [...of(events, "step"), ...of(events, "done")]) {
    expect(forwardBackward!.predicted).toBeGreaterThan(0);
    expect(forwardBackward!.measured).toBeGreaterThan(0);
  }
  const [, second, third] = of(events, "step").map(({ forwardBackward }) => forwardBackward.measured);
  expect(of(events, "done")[0]!.forwardBackward!.measured).toBeCloseTo((second! + third!) / 2, 9);
  const data = ["--data", join(folder, "train.jsonl"), "--output", join(folder, "words"), "--sequence-length", "64"];
  const { code, stderr } = await remat(["train", "--model", model, ...data, ...flags]);
  expect(code).toBe(0);
  expect(stderr).toMatch(/\ntime +\d+ s; forward and backward of a step predicted [\d.]+ m?s, measured [\d.]+ m?s\n/);
});

describe("--load-best", () => {
  const weights = (output: string) => readFileSync(join(folder, output, "adapter_model.safetensors"));
  const flags = (steps: number) => [
    "--valid",
    join(folder, "other.jsonl"),
    "--steps",
    String(steps),
    "--eval-every",
    "1",
    "--no-sample",
  ];

  test("exports the weights with the least held-out loss, whatever is kept otherwise", async () => {
    const { events } = await train("best", ...flags(12), "--load-best", "--keep", "1");
    const evaluations = of(events, "evaluation");
    const best = evaluations.reduce((least, one) => (one.loss < least.loss ? one : least));
    expect(best.step).toBeLessThan(12);
    expect(of(events, "done")[0]!.bestStep).toBe(best.step);
    const without = await train("last", ...flags(12));
    expect(of(without.events, "done")[0]!.bestStep).toBeNull();
    expect(of(without.events, "step").map(({ loss }) => loss)).toEqual(of(events, "step").map(({ loss }) => loss));
    expect(weights("best").equals(weights("last"))).toBe(false);
    // What the exported adapter is worth is what was measured then.
    const score = await remat(["eval", "--model", join(folder, "best"), "--data", join(folder, "other.jsonl"), "--json"]);
    expect(Math.abs((JSON.parse(score.stdout) as { loss: number }).loss / best.loss - 1)).toBeLessThan(1e-5);
  });

  test("with --resume, the best of the whole run counts", async () => {
    await train("halves", ...flags(6), "--load-best", "--save-every", "1", "--schedule", "constant", "--warmup", "0");
    const second = ["--valid", join(folder, "other.jsonl"), "--eval-every", "1", "--no-sample", "--load-best", "--resume"];
    const output = readdirSync(join(folder, "halves/checkpoints"));
    expect(output.length).toBeGreaterThan(0);
    // The same run again, at its end already: nothing is trained, and the same weights are exported.
    const before = weights("halves");
    const { events } = await train("halves", ...second, "--steps", "6", "--schedule", "constant", "--warmup", "0");
    expect(of(events, "step")).toEqual([]);
    expect(weights("halves").equals(before)).toBe(true);
  });

  test("with --patience: stops, exports the best, and a resumed run neither trains on nor forgets which was best", async () => {
    const more = [
      "--load-best",
      "--patience",
      "2",
      "--save-every",
      "1",
      "--keep",
      "1",
      "--schedule",
      "constant",
      "--warmup",
      "0",
    ];
    const { events } = await train("patient", ...flags(30), ...more);
    const evaluations = of(events, "evaluation");
    const best = evaluations.reduce((least, one) => (one.loss < least.loss ? one : least));
    const last = best.step + 2;
    expect(last).toBeLessThan(30);
    expect(of(events, "stop")).toEqual([{ type: "stop", step: last, reason: "patience" }]);
    expect(of(events, "done")[0]).toMatchObject({ step: last, reason: "patience", bestStep: best.step });
    const kept = readdirSync(join(folder, "patient/checkpoints")).map((name) => Number(name.slice("step-".length)));
    expect(kept.sort((a, b) => a - b)).toEqual([best.step, last]);
    const before = weights("patient");
    const metrics = readFileSync(join(folder, "patient/metrics.jsonl"), "utf8");
    const again = await train("patient", ...flags(30), ...more, "--resume");
    expect(of(again.events, "step")).toEqual([]);
    expect(of(again.events, "done")[0]).toMatchObject({ step: last, reason: "patience", bestStep: best.step });
    expect(weights("patient").equals(before)).toBe(true);
    expect(readFileSync(join(folder, "patient/metrics.jsonl"), "utf8")).toBe(metrics);
  });

  test("when the best weights were not kept, the best ones that were are exported, with a warning", async () => {
    const more = ["--save-every", "7", "--keep", "1", "--schedule", "constant", "--warmup", "0"];
    const { events } = await train("late", ...flags(14), ...more);
    const evaluations = of(events, "evaluation");
    const best = evaluations.reduce((least, one) => (one.loss < least.loss ? one : least));
    expect([7, 14]).not.toContain(best.step);
    const again = await train("late", ...flags(14), ...more, "--load-best", "--resume");
    expect(of(again.events, "warning")).toEqual([
      { type: "warning", text: `the best weights (held-out loss ${best.loss}) are in no checkpoint` },
    ]);
    const kept = evaluations.filter(({ step }) => step === 7 || step === 14);
    const least = kept.reduce((one, other) => (other.loss < one.loss ? other : one));
    expect(of(again.events, "done")[0]!.bestStep).toBe(least.step);
  });

  test("without held-out examples it is an error", async () => {
    mkdirSync(join(folder, "alone"));
    writeFileSync(
      join(folder, "alone/mine.jsonl"),
      examples(words, (word) => word),
    );
    const result = await remat([
      "train",
      "--model",
      model,
      "--data",
      join(folder, "alone/mine.jsonl"),
      "--output",
      join(folder, "no"),
      "--load-best",
    ]);
    expect(result.code).toBe(2);
    expect(result.stderr).toContain("--load-best needs held-out examples");
  });
});

describe("other verbs with --json", () => {
  const lines = (text: string) =>
    text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as VerbEvent);

  test("eval, generate, merge and export print events alone on standard output", async () => {
    await train("verbs", "--steps", "1", "--no-sample");
    const adapter = join(folder, "verbs");
    const data = join(folder, "train.jsonl");
    const run = async (...args: string[]) => {
      const { code, stdout, stderr } = await remat([...args, "--json"]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      return lines(stdout) as readonly Readonly<Record<string, unknown>>[];
    };
    expect(await run("eval", "--model", adapter, "--data", data)).toMatchObject([{ type: "score", examples: 8 }]);
    const answers = join(folder, "answers.jsonl");
    const generated = await run("generate", "--model", adapter, "--data", data, "--out", answers, "--max-new-tokens", "3");
    expect(generated.map(({ type }) => type)).toEqual([...words.map(() => "answer"), "written"]);
    expect(generated[1]).toMatchObject({ number: 2, of: 8, where: `${data}:2` });
    expect(generated.at(-1)).toMatchObject({ files: [answers] });
    const merged = join(folder, "merged");
    expect(await run("merge", "--adapter", adapter, "--out", merged)).toMatchObject([{ type: "written", files: [merged] }]);
    const out = join(folder, "gguf", "model.gguf");
    const exported = await run("export", "gguf", "--model", merged, "--out", out);
    expect(exported).toMatchObject([{ type: "written", files: [out, out.replace(/\.gguf$/, ".Modelfile")] }]);
  });

  test("a verb that fails says so in its last line, and in words on standard error", async () => {
    for (const args of [
      ["train", "--model", model, "--data", join(folder, "none.jsonl")],
      ["eval", "--modle", model],
      ["data", "check", join(folder, "none.jsonl")],
      ["plan", "--model", join(folder, "none")],
    ].flatMap((args) => [
      [...args, "--json"],
      [...args, "--json=true"],
    ])) {
      const { code, stdout, stderr } = await remat(args);
      const event = lines(stdout).at(-1)!;
      expect(event).toMatchObject({ type: "error", exitCode: code });
      expect(code).toBe(2);
      expect(event.type === "error" && stderr.includes(event.message)).toBe(true);
    }
  });
});
