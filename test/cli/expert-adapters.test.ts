import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { ok, refused, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (...parts: string[]) => join(folder, ...parts);
const model = writeTinyModel(path("model"), {
  architectures: ["Qwen3MoeForCausalLM"],
  model_type: "qwen3_moe",
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 24,
});
writeRandomWeights(model);
/** Weights for all that a folder's configuration has. */
function writeRandomWeights(target: string): void {
  const source = randomCheckpoint(loadConfig(target), "f32");
  const tensors = [...source.tensors.values()].map(({ name, shape, bytes }): TensorData => {
    const data = new Uint8Array(bytes);
    source.read(source.tensors.get(name)!, data);
    return { name, dtype: "f32", shape, data };
  });
  writeSafetensors(join(target, "model.safetensors"), tensors);
}

const data = path("data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water", "tree"]
    .map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`)
    .join(""),
);
const training = ["--data", data, "--learning-rate", "2e-2", "--sequence-length", "64", "--threads", "1", "--no-sample"];
const BOTH = ["--target-parameters", "mlp.experts.gate_up_proj,experts.down_proj"];
const names = (run: string): string[] => {
  const source = openSafetensors(path(run, "adapter_model.safetensors"));
  source.close();
  return [...source.tensors].map(([name, { shape }]) => `${name} ${shape.join("x")}`);
};
const config = (run: string) => JSON.parse(readFileSync(path(run, "adapter_config.json"), "utf8")) as Record<string, unknown>;
const lossOf = async (name: string) =>
  (JSON.parse(await ok("eval", "--model", name, "--data", data, "--json", "--threads", "1")) as { loss: number }).loss;

test("adapters of experts' parameters: trained, resumed, trained further, evaluated from a checkpoint, merged; PEFT's names and shapes", async () => {
  const train = (...more: string[]) =>
    ok("train", "--model", model, "--output", path("run"), ...training, ...BOTH, "--targets", "q_proj", "--rank", "3", ...more);
  await train("--steps", "8", "--save-every", "4");
  const trained = readFileSync(path("run", "adapter_model.safetensors"));
  const experts = names("run").filter((name) => name.includes("layers.0.mlp"));
  expect(experts.map((name) => name.replace("base_model.model.model.layers.0.mlp.", "")).sort()).toEqual([
    "experts.base_layer.lora_A.weight 12x32",
    "experts.base_layer.lora_B.weight 48x12",
    "experts.lora_A.weight 12x24",
    "experts.lora_B.weight 32x12",
  ]);
  expect(config("run")).toMatchObject({
    target_modules: ["q_proj"],
    target_parameters: ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"],
  });

  const adapted = await lossOf(path("run"));
  expect(await lossOf(path("run", "checkpoints", "step-00000008"))).toBe(adapted);
  rmSync(path("run", "checkpoints", "step-00000008"), { recursive: true });
  rmSync(path("run", "adapter_model.safetensors"));
  await train("--steps", "8", "--save-every", "4", "--resume");
  expect(readFileSync(path("run", "adapter_model.safetensors")).equals(trained)).toBe(true);
  expect(adapted).toBeLessThan((await lossOf(model)) - 0.1);
  await ok("merge", "--adapter", path("run"), "--out", path("merged"));
  expect(Math.abs((await lossOf(path("merged"))) / adapted - 1)).toBeLessThan(1e-4);

  await ok("train", "--model", path("run"), "--output", path("further"), ...training, "--steps", "1", "--learning-rate", "1e-9");
  expect(config("further")).toEqual(config("run"));
  expect(names("further")).toEqual(names("run"));
});

test("one parameter in the last block alone is named whole, and is the list's own adapter", async () => {
  const flags = ["--target-parameters", "experts.gate_up_proj", "--targets", "q_proj", "--last-layers", "1", "--steps", "1"];
  await ok("train", "--model", model, "--output", path("last"), ...training, ...flags);
  expect(config("last")).toMatchObject({ target_parameters: ["model.layers.2.mlp.experts.gate_up_proj"] });
  expect(names("last").filter((name) => name.includes("experts"))).toEqual([
    "base_model.model.model.layers.2.mlp.experts.lora_A.weight 32x32",
    "base_model.model.model.layers.2.mlp.experts.lora_B.weight 48x32",
  ]);
});

test("experts with biases, gate and up by turns: trained, merged, PEFT's names and shapes", async () => {
  const limited = writeTinyModel(path("gpt-oss"), {
    architectures: ["GptOssForCausalLM"],
    model_type: "gpt_oss",
    num_local_experts: 3,
    num_experts_per_tok: 2,
    intermediate_size: 24,
    tie_word_embeddings: false,
  });
  writeRandomWeights(limited);
  const flags = ["--targets", "q_proj", "--rank", "2", "--steps", "4"];
  await ok("train", "--model", limited, "--output", path("limited"), ...training, ...BOTH, ...flags);
  const experts = names("limited").filter((name) => name.includes("layers.0.mlp"));
  expect(experts.map((name) => name.replace("base_model.model.model.layers.0.mlp.", "")).sort()).toEqual([
    "experts.base_layer.lora_A.weight 6x32",
    "experts.base_layer.lora_B.weight 48x6",
    "experts.lora_A.weight 6x24",
    "experts.lora_B.weight 32x6",
  ]);
  const adapted = await lossOf(path("limited"));
  expect(adapted).toBeLessThan((await lossOf(limited)) - 0.1);
  await ok("merge", "--adapter", path("limited"), "--out", path("limited-merged"));
  expect(Math.abs((await lossOf(path("limited-merged"))) / adapted - 1)).toBeLessThan(1e-4);
});

test("what cannot be is refused by name", async () => {
  const run = (...more: string[]) => refused("train", "--output", path("none"), ...training, "--steps", "1", ...more);
  expect(await run("--model", model, "--target-parameters", "experts.gate_proj")).toContain(
    "mlp.experts.gate_up_proj, mlp.experts.down_proj",
  );
  expect(await run("--model", model, ...BOTH, "--method", "dora")).toContain("belongs to --method lora");
  expect(await run("--model", model, ...BOTH, "--dropout", "0.1")).toContain("no dropout");
  expect(await run("--model", writeTinyModel(path("plain")), ...BOTH)).toContain("the model has no experts");
});
