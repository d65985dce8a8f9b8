import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { filesIn, temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"));
const chats = (words: readonly string[]) =>
  words
    .map(
      (word) =>
        `${JSON.stringify({
          messages: [
            { role: "user", content: `Define ${word}.` },
            { role: "assistant", content: `n. A thing called ${word}.` },
          ],
        })}\n`,
    )
    .join("");
const data = join(folder, "data.jsonl");
writeFileSync(data, chats(["king", "house", "water", "tree", "sword", "bread", "stone", "night", "horse", "lamp"]));
writeFileSync(join(folder, "valid.jsonl"), chats(["river", "bird"]));

interface Metric {
  readonly type: "step" | "evaluation";
  readonly step: number;
  readonly loss: number;
  readonly memory: number;
}

let runs = 0;
async function train(
  flags: readonly string[],
): Promise<{ output: string; stderr: string; steps: Metric[]; evaluations: Metric[] }> {
  const output = join(folder, `run-${runs++}`);
  const common = [
    "--model",
    model,
    "--data",
    data,
    "--output",
    output,
    "--threads",
    "1",
    "--sequence-length",
    "64",
    "--batch-size",
    "2",
    "--learning-rate",
    "1e-2",
  ];
  const { code, stderr } = await remat(["train", ...common, ...flags]);
  expect(stderr).not.toMatch(/error/i);
  expect(code).toBe(0);
  const metrics = readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Metric);
  return {
    output,
    stderr,
    steps: metrics.filter((metric) => metric.type === "step"),
    evaluations: metrics.filter((metric) => metric.type === "evaluation"),
  };
}

describe("train", () => {
  test("LoRA: the loss falls, and the run folder holds adapter, metrics, segment models and configuration", async () => {
    const { output, stderr, steps, evaluations } = await train(["--steps", "12", "--rank", "4"]);
    expect(filesIn(output)).toEqual([
      "SHA256SUMS",
      "adapter_config.json",
      "adapter_model.safetensors",
      "checkpoints",
      "metrics.jsonl",
      "report.html",
      "segments",
      "train-config.json",
    ]);
    expect(filesIn(join(output, "segments"))).toContain("block.forward-taped.onnx");
    expect(steps.map((step) => step.step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
    expect(evaluations.map((evaluation) => evaluation.step)).toEqual([0, 12]);
    expect(evaluations[1]!.loss).toBeLessThan(evaluations[0]!.loss - 0.1);
    expect(stderr).toMatch(/peak memory +predicted [\d.]+ \w+, measured [\d.]+ \w+, without gradient checkpointing [\d.]+ \w+/);
    expect(stderr).toMatch(/step 12\/12 +loss [\d.]+ .* tokens\/s .* memory .* left/);
    expect(stderr).toMatch(/\[.*Define \w+\..*\]n\. A thing called \w+\./);
    expect(stderr).toMatch(/prompt +Define river\./);
  });

  test("the same seed gives the same losses, another seed others", async () => {
    const losses = async (...flags: string[]) =>
      (await train(["--steps", "4", "--dropout", "0.1", ...flags])).steps.map((step) => step.loss);
    const first = await losses();
    expect(await losses()).toEqual(first);
    expect(await losses("--threads", "2")).toEqual(first);
    expect(await losses("--seed", "7")).not.toEqual(first);
  });

  test("gradient checkpointing off: the same losses with more memory", async () => {
    const on = await train(["--steps", "3", "--gradient-accumulation", "2"]);
    const off = await train(["--steps", "3", "--gradient-accumulation", "2", "--no-gradient-checkpointing"]);
    expect(off.steps.map((step) => step.loss)).toEqual(on.steps.map((step) => step.loss));
    expect(off.steps[0]!.memory).toBeGreaterThan(on.steps[0]!.memory);
    expect(off.stderr).toMatch(/gradient checkpointing off/);
  });

  test("full: writes a model folder that can be trained again", async () => {
    const { output, evaluations } = await train(["--steps", "8", "--method", "full"]);
    expect(filesIn(output)).toEqual(
      expect.arrayContaining([
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
      ]),
    );
    expect(evaluations[1]!.loss).toBeLessThan(evaluations[0]!.loss);
    expect(loadConfig(output)).toEqual(loadConfig(model));
    const again = await train(["--steps", "1", "--model", output]);
    // The next run starts where this one ended.
    expect(again.evaluations[0]!.loss).toBeCloseTo(evaluations[1]!.loss, 5);
  });

  test("padded batches and every data format train", async () => {
    const files = {
      "text.jsonl": { text: "In the beginning God created the heaven and the earth." },
      "completion.jsonl": { prompt: "Define king. ", completion: "n. A male person." },
    };
    for (const [name, example] of Object.entries(files)) {
      const path = join(folder, name);
      writeFileSync(path, `${JSON.stringify(example)}\n`.repeat(3));
      const { steps } = await train(["--data", path, "--steps", "2", "--no-packing"]);
      expect(steps).toHaveLength(2);
    }
  });

  test("Ctrl-C finishes the step, writes the adapter and exits", async () => {
    const output = join(folder, "interrupted");
    const main = join(import.meta.dir, "../../src/cli/main.ts");
    const child = Bun.spawn(
      [
        process.execPath,
        main,
        "train",
        "--model",
        model,
        "--data",
        data,
        "--output",
        output,
        "--threads",
        "1",
        "--sequence-length",
        "64",
        "--steps",
        "100000",
      ],
      { stderr: "pipe", stdout: "ignore" },
    );
    const metrics = join(output, "metrics.jsonl");
    while (!(existsSync(metrics) && readFileSync(metrics, "utf8").includes('"step":3'))) await Bun.sleep(50);
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect(existsSync(join(output, "adapter_config.json"))).toBe(true);
  });
});

describe("step", () => {
  test("writes the loss and a gradient per trainable parameter, for a trained adapter as for a full model", async () => {
    const { output } = await train(["--steps", "2", "--rank", "4", "--targets", "q_proj,down_proj"]);
    const batch = join(folder, "batch.safetensors");
    const ids = BigInt64Array.from({ length: 24 }, (_, i) => BigInt(3 + ((i * 37) % 900)));
    const tensor = (name: string): TensorData => ({ name, dtype: "i64", shape: [2, 12], data: ids });
    writeSafetensors(batch, [tensor("input_ids"), tensor("labels")]);
    const out = join(folder, "gradients.safetensors");
    const { code, stdout } = await remat(["step", "--model", model, "--adapter", output, "--batch", batch, "--out", out]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/loss [\d.]+ over 22 tokens; 12 gradients/);
    const names = (path: string) => {
      const source = openSafetensors(path);
      source.close();
      return [...source.tensors.keys()].sort();
    };
    expect(names(out)).toEqual([...names(join(output, "adapter_model.safetensors")), "loss"].sort());
    expect((await remat(["step", "--model", model, "--method", "full", "--batch", batch, "--out", out])).code).toBe(0);
    expect(names(out)).toEqual([...names(join(model, "model.safetensors")), "loss"].sort());
  });
});
