import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, remat, writeTinyModel } from "../support/cli.ts";
import { readGguf } from "../support/gguf.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"));
const data = join(folder, "data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water", "tree"]
    .map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`)
    .join(""),
);

const training = [
  "train",
  "--model",
  model,
  "--data",
  data,
  "--learning-rate",
  "2e-2",
  "--sequence-length",
  "64",
  "--threads",
  "1",
];
const loss = async (path: string) =>
  (JSON.parse(await ok("eval", "--data", data, "--json", "--threads", "1", "--model", path)) as { loss: number }).loss;

function tensors(path: string): Map<string, Buffer> {
  const source = openSafetensors(path);
  const read = new Map([...source.tensors.values()].map((entry) => [entry.name, Buffer.from(readBytes(source, entry))]));
  source.close();
  return read;
}

describe("--last-layers 1 of 3", () => {
  const output = join(folder, "lora");

  test("lora: trained, resumed, evaluated, merged, exported", async () => {
    const lora = [...training, "--output", output, "--steps", "24", "--save-every", "12"];
    await ok(...lora, "--last-layers", "1");
    const whole = tensors(join(output, "adapter_model.safetensors"));
    expect([...whole.keys()].every((name) => name.includes(".layers.2."))).toBe(true);
    expect(JSON.parse(readFileSync(join(output, "adapter_config.json"), "utf8"))).toMatchObject({ layers_to_transform: [2] });

    rmSync(join(output, "checkpoints", "step-00000024"), { recursive: true });
    rmSync(join(output, "adapter_model.safetensors"));
    await ok(...lora, "--last-layers", "1", "--resume");
    expect(tensors(join(output, "adapter_model.safetensors"))).toEqual(whole);
    const other = await remat([...lora, "--last-layers", "2", "--resume"]);
    expect(other.code).toBe(2);
    expect(other.stderr).toContain("it had lastLayers 1, this one has lastLayers 2");

    const adapted = await loss(output);
    expect(adapted).toBeLessThan((await loss(model)) - 0.1);
    const merged = join(folder, "merged");
    await ok("merge", "--adapter", output, "--out", merged);
    expect(Math.abs((await loss(merged)) / adapted - 1)).toBeLessThan(1e-4);
    const chat = ["--prompt", "Define king.", "--raw", "--temperature", "0", "--max-new-tokens", "8", "--threads", "1"];
    expect(await ok("chat", "--model", output, ...chat)).toBe(await ok("chat", "--model", merged, ...chat));
    const [base, sum] = [model, merged].map((path) => tensors(join(path, "model.safetensors")));
    const changed = [...base!].filter(([name, bytes]) => !bytes.equals(sum!.get(name)!)).map(([name]) => name);
    expect(changed.length).toBe(7);
    expect(changed.every((name) => name.includes(".layers.2."))).toBe(true);

    const file = join(folder, "gguf", "adapter.gguf");
    const exported = await remat(["export", "gguf", "--adapter", output, "--adapter-only", "--out", file]);
    expect(exported.code).toBe(0);
    expect([...readGguf(file).tensors.keys()].every((name) => name.startsWith("blk.2."))).toBe(true);
  });

  test("full: the model folder has the frozen weights byte for byte, and others in the trained block and the norm", async () => {
    const full = join(folder, "full");
    await ok(...training, "--output", full, "--method", "full", "--last-layers", "1", "--steps", "4", "--no-sample");
    const [base, trained] = [model, full].map((path) => tensors(join(path, "model.safetensors")));
    expect([...trained!.keys()].sort()).toEqual([...base!.keys()].sort());
    for (const [name, bytes] of base!)
      expect([name, bytes.equals(trained!.get(name)!)]).toEqual([name, !/\.layers\.2\.|model\.norm/.test(name)]);
    expect(await loss(full)).toBeLessThan(await loss(model));
  });

  test("more than the model has are refused before anything is written", async () => {
    const { code, stderr } = await remat([...training, "--output", join(folder, "no"), "--last-layers", "4"]);
    expect([code, stderr]).toEqual([2, "remat: --last-layers 4: the model has 3 layers\n"]);
  });
});
