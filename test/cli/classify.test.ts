import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { ok, refused, remat, writeTinyModel } from "../support/cli.ts";
import { judgedRows, WORDS } from "../support/judged-rows.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 24,
});
const write = (name: string, lines: readonly unknown[]) => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => `${typeof line === "string" ? line : JSON.stringify(line)}\n`).join(""));
  return path;
};
const data = write("texts.jsonl", judgedRows(24));
const held = write("held.jsonl", judgedRows(9));

const common = ["--model", model, "--objective", "classify", "--threads", "1", "--sequence-length", "128"];
const fast = ["--schedule", "constant", "--warmup", "0", "--learning-rate", "3e-2"];
const read = (...path: string[]) => JSON.parse(readFileSync(join(folder, ...path), "utf8")) as Record<string, unknown>;
/** Returns what a training says. */
const told = async (...args: string[]) => {
  const { code, stderr } = await remat(["train", ...common, ...fast, ...args]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  return stderr;
};
const train = (name: string, ...flags: string[]) => told("--data", data, "--output", join(folder, name), ...flags);
const evaluate = async (...flags: string[]) =>
  JSON.parse(await ok("eval", "--objective", "classify", "--data", held, "--json", "--threads", "1", ...flags)) as {
    readonly loss: number;
    readonly class_accuracy: number;
    readonly f1_macro: number;
    readonly details: {
      readonly confusion: { readonly labels: string[]; readonly counts: number[][] };
      readonly calibrated: { readonly temperature: number; readonly loss: number };
    };
  };

describe("train --objective classify", () => {
  test("learns classes with LoRA: an adapter of PEFT for SEQ_CLS with its head; eval measures it, merged too", async () => {
    const said = await train(
      "lora",
      "--valid",
      held,
      "--steps",
      "40",
      "--best-metric",
      "f1_macro",
      "--load-best",
      "--eval-every",
      "10",
    );
    expect(said).toContain("3 classes, one for each text, with so many training examples: bad 8, dull 8, good 8");
    expect(said).toContain("texts judged as a whole; 9 held out");
    const config = read("lora", "adapter_config.json");
    expect(config).toMatchObject({ task_type: "SEQ_CLS", modules_to_save: ["score"], peft_type: "LORA" });
    expect(said).toMatch(/temperature [\d.]+, fitted on 9 held-out texts: calibration error [\d.]+ to [\d.]+, Brier score/);
    const { temperature, ...classifier } = read("lora", "classifier.json");
    expect(classifier).toEqual({
      problem_type: "single_label_classification",
      id2label: { 0: "bad", 1: "dull", 2: "good" },
      label2id: { bad: 0, dull: 1, good: 2 },
      pad_token_id: 0,
    });
    const source = openSafetensors(join(folder, "lora", "adapter_model.safetensors"));
    expect(source.tensors.get("base_model.model.score.weight")!.shape).toEqual([3, 16]);
    source.close();

    const result = await evaluate("--model", join(folder, "lora"));
    expect(result.class_accuracy).toBe(1);
    expect(result.f1_macro).toBe(1);
    expect(result.details.confusion).toEqual({
      labels: ["bad", "dull", "good"],
      counts: [
        [3, 0, 0],
        [0, 3, 0],
        [0, 0, 3],
      ],
    });
    expect(result.details.calibrated.temperature).toBe(temperature as number);
    expect(result.details.calibrated.loss).toBeLessThanOrEqual(result.loss);
    const [judged] = (await ok("classify", "--model", join(folder, "lora"), "--data", held, "--threads", "1")).split("\n");
    const { probabilities } = JSON.parse(judged!) as { readonly probabilities: Record<string, number> };
    expect(Object.values(probabilities).reduce((sum, each) => sum + each, 0)).toBeCloseTo(1, 9);
    await ok("merge", "--adapter", join(folder, "lora"), "--out", join(folder, "merged"));
    expect(read("merged", "classifier.json")["temperature"]).toBe(temperature);
    expect(read("merged", "config.json")).toMatchObject({
      architectures: ["LlamaForSequenceClassification"],
      id2label: { 0: "bad", 1: "dull", 2: "good" },
      problem_type: "single_label_classification",
    });
    const merged = await evaluate("--model", join(folder, "merged"));
    expect(Math.abs(merged.loss - result.loss)).toBeLessThan(1e-4);
  });

  test("learns with all weights, goes on where it was, and its folder is a model's", async () => {
    const flags = ["--method", "full", "--class-weights", "balanced", "--label-smoothing", "0.1"];
    await train("whole", ...flags, "--steps", "20");
    await train("parts", ...flags, "--steps", "20", "--save-every", "10");
    const config = read("whole", "config.json");
    expect(config).toMatchObject({ architectures: ["LlamaForSequenceClassification"], pad_token_id: 0 });
    const source = openSafetensors(join(folder, "whole"));
    expect([...source.tensors.keys()].filter((name) => !name.startsWith("model."))).toEqual(["score.weight"]);
    source.close();
    expect((await evaluate("--model", join(folder, "whole"))).class_accuracy).toBe(1);
    // Further classes are taken by a further run only where they are the same.
    const further = ["train", "--model", join(folder, "whole"), "--objective", "classify", "--threads", "1", "--steps", "1"];
    await ok(...further, "--data", data, "--sequence-length", "64", "--output", join(folder, "further"));
    const other = write("other.jsonl", [...judgedRows(3), { text: "a b", label: "ugly" }]);
    expect(await refused(...further, "--data", other, "--output", join(folder, "no"))).toContain(
      `${other}:4: label "ugly" is none of the classes bad, dull, good`,
    );
    expect(existsSync(join(folder, "no"))).toBe(false);
  });

  test("a run that was stopped goes on, bit for bit", async () => {
    const hash = (name: string) =>
      new Bun.CryptoHasher("sha256").update(readFileSync(join(folder, name, "adapter_model.safetensors"))).digest("hex");
    await train("straight", "--steps", "6");
    await train("stopped", "--steps", "3");
    await train("stopped", "--steps", "6", "--resume");
    expect(hash("stopped")).toBe(hash("straight"));
    await train("streamed", "--steps", "6", "--stream", "all");
    expect(hash("streamed")).toBe(hash("straight"));
  });

  test("several classes, values and conversations; tables and pairs of texts", async () => {
    const several = judgedRows(24).map(({ text, label }, i) => ({ text, label: i % 2 === 0 ? [label] : [label, "odd"] }));
    const many = write("several.jsonl", several);
    const run = ["--steps", "2"];
    expect(await told(...run, "--data", many, "--valid", many, "--output", join(folder, "several"))).toContain("micro F1");
    expect(read("several", "classifier.json")).toMatchObject({ problem_type: "multi_label_classification" });
    const values = write("values.csv", [
      "text,text_pair,label",
      ...judgedRows(8).map(({ text }, i) => `${text},${WORDS[i]},${i / 2}`),
    ]);
    expect(await told(...run, "--data", values, "--valid", values, "--output", join(folder, "values"))).toContain("Spearman");
    expect(read("values", "classifier.json")).toMatchObject({ problem_type: "regression", id2label: { 0: "LABEL_0" } });
    const chats = write(
      "chats.jsonl",
      judgedRows(6).map(({ text, label }) => ({ messages: [{ role: "user", content: text }], label })),
    );
    expect(await told(...run, "--data", chats, "--output", join(folder, "chats"))).toContain("3 classes");
  });
});

describe("one clear error", () => {
  const run = ["train", ...common, "--steps", "1", "--output", join(folder, "never"), "--data"];
  const bad = async (name: string, lines: readonly unknown[], ...flags: string[]) => {
    const path = write(name, lines);
    const said = await refused(...run, path, ...flags);
    expect(existsSync(join(folder, "never"))).toBe(false);
    return said.replaceAll(path, "FILE");
  };

  test("labels that are missing, of several kinds, unknown or one alone", async () => {
    expect(await bad("none.jsonl", [...judgedRows(2), { text: "a" }])).toContain(
      'FILE:3: the objective classify learns from {"text", "label"}, got {"text"}',
    );
    expect(await bad("null.csv", ["text,label", "a b,x", "c d,"])).toContain("FILE:3: the objective classify learns from");
    expect(await bad("mixed.jsonl", [...judgedRows(2), { text: "a", label: ["x"] }])).toContain(
      'FILE:3: "label" is ["x"], and "good" at FILE:1',
    );
    expect(await bad("empty.jsonl", [{ text: "a", label: " " }])).toContain('FILE:1: "label" is empty');
    expect(await bad("object.jsonl", [{ text: "a", label: {} }])).toContain('FILE:1: "label" must be a text, a number or a list');
    expect(await bad("alone.jsonl", judgedRows(1))).toContain(
      'all training examples have the label "good"; expected at least two classes',
    );
    await train("named", "--labels", "good,dull,bad", "--steps", "1");
    expect(read("named", "classifier.json")["label2id"]).toEqual({ good: 0, dull: 1, bad: 2 });
    expect(await bad("given.jsonl", judgedRows(3), "--labels", "good,bad")).toContain(
      'FILE:3: label "dull" is none of the classes good, bad',
    );
    const unknown = write("held-out.jsonl", [...judgedRows(3), { text: "a", label: "ugly" }]);
    expect(await bad("known.jsonl", judgedRows(6), "--valid", unknown)).toContain(
      'held-out.jsonl:4: label "ugly" is none of the classes',
    );
    expect(await bad("long.jsonl", [...judgedRows(3), { text: "a ".repeat(200), label: "good" }])).toContain(
      "FILE:4: the example has",
    );
  });

  test("settings that mean nothing", async () => {
    expect(await bad("w.jsonl", judgedRows(6), "--class-weights", "ugly=2")).toContain(
      '"ugly" is none of the classes bad, dull, good',
    );
    expect(await bad("w.jsonl", judgedRows(6), "--class-weights", "good=0")).toContain(
      "expected NAME=NUMBER with a number above 0",
    );
    expect(await bad("w.jsonl", judgedRows(6), "--targets", "lm_head")).toContain(
      "--targets lm_head: --objective classify puts the module score",
    );
    expect(await bad("w.jsonl", judgedRows(6), "--best-metric", "pearson")).toContain(
      "has the metrics loss, class_accuracy, f1_macro, brier, ece",
    );
    const values = [0.5, 1, 1.5].map((label) => ({ text: "a b", label }));
    expect(await bad("v.jsonl", values, "--label-smoothing", "0.1")).toContain("--label-smoothing is for labels of one class");
    expect(await bad("v.jsonl", values, "--labels", "a,b")).toContain("--labels is for classes; the labels are numbers");
    expect(await refused("train", "--model", model, "--data", data, "--output", join(folder, "never"))).toContain(
      'the objective next-token learns from {"messages"} or {"prompt", "completion"} or {"text"}, got {"text", "label"}; that is for --objective classify',
    );
    // A column that is not to be read makes it a text like any other.
    await ok(
      "train",
      "--model",
      model,
      "--data",
      data,
      "--columns",
      "ignore=label",
      "--steps",
      "1",
      "--no-sample",
      "--threads",
      "1",
      "--output",
      join(folder, "texts"),
    );
  });

  test("what a model that judges texts cannot do", async () => {
    await train("judge", "--steps", "1");
    const judge = join(folder, "judge");
    const said = `${judge} judges whole texts`;
    const prompts = write("prompts.jsonl", [{ prompt: "a", completion: "b" }]);
    expect(await refused("generate", "--model", judge, "--data", prompts, "--out", join(folder, "out.jsonl"))).toContain(said);
    expect(await refused("eval", "--model", judge, "--data", prompts)).toContain(said);
    expect(await refused("train", "--model", judge, "--data", prompts, "--output", join(folder, "never"))).toContain(said);
    expect(await refused("export", "gguf", "--model", judge, "--out", join(folder, "x.gguf"))).toContain(said);
    expect(await refused("eval", "--model", model, "--objective", "classify", "--data", held)).toContain(
      `${model} predicts tokens; train it with --objective classify first`,
    );
    const other = ["eval", "--model", judge, "--objective", "classify", "--data", held, "--labels", "good,bad,dull"];
    expect(await refused(...other)).toContain("the model has the labels bad,dull,good, in this order");
  });
});
