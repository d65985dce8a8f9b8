import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const HIDDEN = 64;
const MLP = 192;
const LAYERS = 2;
const model = writeTinyModel(join(folder, "model"), {
  hidden_size: HIDDEN,
  head_dim: 16,
  intermediate_size: MLP,
  num_hidden_layers: LAYERS,
});
const data = join(folder, "data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water", "tree"]
    .map((word) => `${JSON.stringify({ prompt: `Define ${word}. `, completion: `A thing called ${word}.` })}\n`)
    .join(""),
);
const common = ["--model", model, "--threads", "1", "--sequence-length", "64"];
const train = (output: string, ...flags: string[]) =>
  remat(
    ["train", ...common, "--data", data, "--valid", data, "--output", join(folder, output), "--steps", "6"].concat(
      ["--no-sample", "--learning-rate", "1e-2", "--save-every", "2", "--keep", "9", "--matmul", "wasm"],
      flags,
    ),
  );

async function json<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await remat(args);
  expect({ code, stderr }).toMatchObject({ code: 0 });
  return JSON.parse(stdout) as T;
}

describe("plan --quantize", () => {
  test("counts frozen weights to the byte", async () => {
    const frozen = async (...flags: string[]) =>
      (await json<{ memory: { frozen: number } }>("plan", ...common, "--json", ...flags)).memory.frozen;
    // Heads and key-value heads of 4 x 16 and 2 x 16: everything is a multiple of 64 bytes.
    const linear = LAYERS * (2 * HIDDEN * HIDDEN + 2 * 32 * HIDDEN + 3 * HIDDEN * MLP);
    const plain = await frozen();
    expect(plain - (await frozen("--quantize", "q8"))).toBe(linear * (4 - 1 - 4 / 64));
    expect(plain - (await frozen("--quantize", "nf4"))).toBe(linear * (4 - 1 / 2 - 4 / 64));
    // Embedding and head are one matrix.
    expect(plain - (await frozen("--quantize-embedding"))).toBe(2048 * HIDDEN * (4 - 1 - 4 / 64));
  });
});

describe("train --quantize", () => {
  test.each(["q8", "nf4"])("%s: the loss falls, eval gives the same loss on the same weights", async (format) => {
    const { code, stderr } = await train(format, "--quantize", format);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const lines = readFileSync(join(folder, format, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n");
    const events = lines.map((line) => JSON.parse(line) as { type: string; loss: number });
    const evals = events.filter(({ type }) => type === "evaluation");
    expect(evals.at(-1)!.loss).toBeLessThan(evals[0]!.loss - 0.1);
    expect(JSON.parse(readFileSync(join(folder, format, "train-config.json"), "utf8"))).toMatchObject({ quantize: format });
    const score = (...flags: string[]) =>
      json<{ loss: number }>(
        ...["eval", "--model", model, "--adapter", join(folder, format), "--data", data, "--json"].concat(
          ["--threads", "1", "--sequence-length", "64"],
          flags,
        ),
      );
    const [same, whole] = [await score("--quantize", format), await score()];
    expect(Math.abs(same.loss / evals.at(-1)!.loss - 1)).toBeLessThan(1e-5);
    expect(whole.loss).not.toBe(same.loss);
    expect(Math.abs(whole.loss / same.loss - 1)).toBeLessThan(0.02);
    const out = join(folder, `${format}.jsonl`);
    const answers = ["generate", "--model", model, "--adapter", join(folder, format), "--data", data, "--out", out];
    expect(await remat([...answers, "--quantize", format, "--max-new-tokens", "4"])).toMatchObject({ code: 0 });
    expect(readFileSync(out, "utf8").trim().split("\n")).toHaveLength(4);
  });

  test("a resumed run goes on bit for bit, and only with the same weights", async () => {
    const whole = join(folder, "nf4");
    const output = join(folder, "resumed");
    cpSync(whole, output, { recursive: true });
    for (const file of ["adapter_model.safetensors", "adapter_config.json"]) rmSync(join(output, file));
    const saved = readdirSync(join(output, "checkpoints")).filter((name) => /6/.test(name));
    expect(saved.length).toBeGreaterThan(0);
    for (const name of saved) rmSync(join(output, "checkpoints", name), { recursive: true });
    const other = await train("resumed", "--quantize", "q8", "--resume");
    expect(other.code).toBe(2);
    expect(other.stderr).toMatch(/quantize nf4.*quantize q8/s);
    expect(await train("resumed", "--quantize", "nf4", "--resume")).toMatchObject({ code: 0 });
    const adapter = (run: string) => readFileSync(join(run, "adapter_model.safetensors"));
    expect(adapter(output).equals(adapter(whole))).toBe(true);
  });

  test("below the blocks that --last-layers trains whole, weights are quantised in memory and exported as they were", async () => {
    const { code, stderr } = await train(
      "last",
      "--method",
      "full",
      "--last-layers",
      "1",
      "--quantize",
      "nf4",
      "--quantize-embedding",
    );
    expect({ code, stderr }).toMatchObject({ code: 0 });
    const [base, trained] = [openSafetensors(model), openSafetensors(join(folder, "last"))];
    const differs = (name: string) => {
      const [before, after] = [base, trained].map((source) => readBytes(source, source.tensors.get(name)!));
      return !Buffer.from(before!).equals(Buffer.from(after!));
    };
    expect(differs("model.embed_tokens.weight")).toBe(false);
    expect(differs("model.layers.0.mlp.up_proj.weight")).toBe(false);
    expect(differs("model.layers.1.mlp.up_proj.weight")).toBe(true);
    base.close();
    trained.close();
  });

  test("weights that are trained are refused, before anything is read or written", async () => {
    const flags = [...common, "--method", "full", "--quantize", "q8", "--output", join(folder, "no")];
    expect(await remat(["plan", ...common, "--method", "full", "--quantize-embedding"])).toMatchObject({ code: 2 });
    for (const args of [["train", "--data", data], ["plan"]]) {
      expect(await remat([...args, ...flags])).toMatchObject({
        code: 2,
        stderr: "remat: --quantize q8 is for frozen weights and needs --method lora; got --method full, which trains them all\n",
      });
    }
    expect(existsSync(join(folder, "no"))).toBe(false);
  });

  test("products in int8 without weights of 8 bits are refused, before anything is read or written", async () => {
    for (const [flags, got] of [
      [[], "none"],
      [["--quantize", "nf4"], "--quantize nf4"],
      [["--quantize-embedding"], "none"],
    ] as const) {
      const args = [...common, "--matmul", "int8", ...flags];
      for (const verb of [["train", "--data", data, "--output", join(folder, "no")], ["plan"]])
        expect(await remat([...verb, ...args])).toMatchObject({
          code: 2,
          stderr: `remat: --matmul int8 multiplies weights that are 8-bit integers and needs --quantize q8; got ${got}\n`,
        });
    }
    expect(existsSync(join(folder, "no"))).toBe(false);
  });

  test("a weight that is not finite is refused by name", async () => {
    const bad = join(folder, "bad");
    cpSync(model, bad, { recursive: true });
    const source = openSafetensors(model);
    const name = "model.layers.1.mlp.up_proj.weight";
    const tensors = [...source.tensors.values()].map((entry) => ({
      name: entry.name,
      dtype: "f32" as const,
      shape: entry.shape,
      data: readFloat32(source, entry.name, entry.shape),
    }));
    source.close();
    tensors.find((tensor) => tensor.name === name)!.data[77] = NaN;
    writeSafetensors(join(bad, "model.safetensors"), tensors);
    copyFileSync(join(model, "config.json"), join(bad, "config.json"));
    const { code, stderr } = await train("nan", "--model", bad, "--quantize", "nf4");
    expect(code).toBe(2);
    expect(stderr).toContain(`tensor "${name}" holds a value that is infinite or no number`);
    expect(existsSync(join(folder, "nan"))).toBe(false);
  });
});
