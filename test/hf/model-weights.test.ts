import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { isVision, visionNote } from "../../src/hf/weights/model-weights.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { exportTrained, keepCompanions } from "../../src/train/run/export/export.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { copyFolder, remat } from "../support/cli.ts";
import { adapterFolder, batchFile, modelFolder, readExpected, readTensors, relativeError } from "../support/golden.ts";
import { filesIn, temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const FAMILY = "gemma3-vision";
const path = (name: string) => join(folder, name);

/** The model under the names that Transformers' modules have, as some of its versions saved them. */
function newLayout(): string {
  const target = copyFolder(modelFolder(FAMILY), path("new"));
  const source = openModelWeights(modelFolder(FAMILY), loadConfig(modelFolder(FAMILY)));
  const tensors = Array.from(source.tensors, ([name, entry]) => ({
    name,
    dtype: entry.dtype!,
    shape: entry.shape,
    data: () => readBytes(source, entry),
  }));
  writeSafetensors(join(target, "model.safetensors"), tensors);
  source.close();
  return target;
}

const renamed = newLayout();

test("both layouts of names hold the same modules; those that see images are told apart", () => {
  const [stored, other] = [modelFolder(FAMILY), renamed].map((place) => openModelWeights(place, loadConfig(place)));
  expect([...other!.tensors.keys()].sort()).toEqual([...stored!.tensors.keys()].sort());
  expect(stored!.tensors.get("model.language_model.norm.weight")!.name).toBe("language_model.model.norm.weight");
  const text = [...stored!.tensors.keys()].filter((name) => !isVision(name));
  expect(text.every((name) => name.startsWith("model.language_model."))).toBe(true);
  const count = stored!.tensors.size - text.length;
  expect(visionNote(stored!)).toBe(`only the text part of this model is used; its ${count} vision tensors stay as they are`);
  const plain = openModelWeights(modelFolder("gemma3"), loadConfig(modelFolder("gemma3")));
  expect(visionNote(plain)).toBeNull();
  for (const source of [stored!, other!, plain]) source.close();
});

test("a step on the new layout gives PyTorch's loss and gradients within 1e-4, and says what it leaves out", async () => {
  const out = path("step.safetensors");
  const model = ["--model", renamed, "--method", "lora", "--adapter", adapterFolder(FAMILY)];
  const { code, stderr } = await remat(["step", ...model, "--batch", batchFile(FAMILY, "padded"), "--out", out]);
  expect(`${code} ${stderr}`).toMatch(/^0 note: only the text part of this model is used/);
  const expected = readExpected(FAMILY, "lora", "padded");
  const gradients = readTensors(out);
  for (const [name, gradient] of expected.gradients) expect(relativeError(gradients.get(name)!, gradient)).toBeLessThan(1e-4);
});

test.each([
  ["older versions of Transformers", "language_model.model.layers."],
  ["the text part alone", "model.layers."],
])("an adapter under the names of %s: the same loss, gradients and merged weights", async (_, prefix) => {
  rmSync(path("older"), { recursive: true, force: true });
  for (const name of ["a", "b"]) rmSync(path(`merged-${name}`), { recursive: true, force: true });
  const target = copyFolder(adapterFolder(FAMILY), path("older"));
  const source = openSafetensors(join(adapterFolder(FAMILY), "adapter_model.safetensors"));
  const older = Array.from(source.tensors.values(), (entry) => ({
    name: entry.name.replace("model.language_model.layers.", prefix),
    dtype: entry.dtype!,
    shape: entry.shape,
    data: () => readBytes(source, entry),
  }));
  expect(older.every(({ name }) => name.startsWith(`base_model.model.${prefix}`))).toBe(true);
  rmSync(join(target, "adapter_model.safetensors"));
  writeSafetensors(join(target, "adapter_model.safetensors"), older);
  source.close();
  for (const [name, adapter] of Object.entries({ a: adapterFolder(FAMILY), b: target })) {
    const flags = ["--batch", batchFile(FAMILY, "padded"), "--out", path(`step-${name}`)];
    const { code } = await remat(["step", "--model", modelFolder(FAMILY), "--adapter", adapter, ...flags, "--threads", "1"]);
    expect(code).toBe(0);
    mergeAdapter({ base: renamed, adapter, output: path(`merged-${name}`) });
  }
  const read = (name: string) => readTensors(path(name));
  for (const file of ["step-", "merged-"]) expect(read(`${file}b`)).toEqual(read(`${file}a`));
});

test.each([FAMILY, "qwen3-bare"] as const)("full training writes the whole of %s under the base's names", async (family) => {
  const config = loadConfig(modelFolder(family));
  const source = openModelWeights(modelFolder(family), config);
  const executor = await createWasmExecutor({ threads: 1 });
  const tuning = { method: "full" } as const;
  const engine = createEngine(executor, { config, source, tuning, strategy: { name: "off" }, tokens: [8], optimizer: null });
  const output = path(`trained-${family}`);
  mkdirSync(output);
  const settings = trainConfigSchema.parse({ model: family, data: "none", method: "full" });
  keepCompanions(modelFolder(family), output);
  exportTrained(output, engine, settings);
  executor.close();
  source.close();
  const [base, trained] = [openSafetensors(modelFolder(family)), openSafetensors(output)];
  expect([...trained.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
  for (const [name, entry] of base.tensors)
    expect(readBytes(trained, trained.tensors.get(name)!)).toEqual(readBytes(base, entry));
  for (const opened of [base, trained]) opened.close();
});

test("merging keeps the names of the base", () => {
  mergeAdapter({ base: modelFolder(FAMILY), adapter: adapterFolder(FAMILY), output: path("merged") });
  const [base, merged] = [openSafetensors(modelFolder(FAMILY)), openSafetensors(path("merged"))];
  expect([...merged.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
  const changed = [...base.tensors.values()].filter(
    ({ name, shape }) => relativeError(readFloat32(merged, name, shape), readFloat32(base, name, shape)) > 0,
  );
  expect(changed.length).toBe(14);
  expect(changed.every(({ name }) => name.includes("_proj.weight"))).toBe(true);
  expect(filesIn(path("merged"))).toContain("config.json");
  for (const source of [base, merged]) source.close();
});

test("a model without a head: its files' names, adapters that leave out `model.`, merged under the base's names", () => {
  const config = loadConfig(modelFolder("qwen3-bare"));
  const source = openModelWeights(modelFolder("qwen3-bare"), config);
  expect([...source.tensors.keys()].every((name) => name.startsWith("model."))).toBe(true);
  expect(source.tensors.get("model.layers.1.self_attn.q_proj.weight")!.name).toBe("layers.1.self_attn.q_proj.weight");
  source.close();
  const bare = copyFolder(adapterFolder("qwen3-bare"), path("bare-adapter"));
  const adapter = openSafetensors(join(adapterFolder("qwen3-bare"), "adapter_model.safetensors"));
  const tensors = Array.from(adapter.tensors.values(), (entry) => ({
    name: entry.name.replace("base_model.model.model.", "base_model.model."),
    dtype: entry.dtype!,
    shape: entry.shape,
    data: () => readBytes(adapter, entry),
  }));
  rmSync(join(bare, "adapter_model.safetensors"));
  writeSafetensors(join(bare, "adapter_model.safetensors"), tensors);
  adapter.close();
  mergeAdapter({ base: modelFolder("qwen3-bare"), adapter: adapterFolder("qwen3-bare"), output: path("bare-a") });
  mergeAdapter({ base: modelFolder("qwen3-bare"), adapter: bare, output: path("bare-b") });
  const [before, a, b] = [modelFolder("qwen3-bare"), path("bare-a"), path("bare-b")].map(readTensors);
  expect([...a!.keys()].sort()).toEqual([...before!.keys()].sort());
  expect(a!).toEqual(b!);
  const name = "layers.0.mlp.up_proj.weight";
  expect(relativeError(a!.get(name)!, before!.get(name)!)).toBeGreaterThan(1e-3);
});

test("a shared matrix may be in the file under the head's name alone", () => {
  const target = copyFolder(modelFolder("smollm2"), path("head-only"));
  const source = openSafetensors(modelFolder("smollm2"));
  const tensors = Array.from(source.tensors.values(), (entry) => ({
    name: entry.name === "model.embed_tokens.weight" ? "lm_head.weight" : entry.name,
    dtype: entry.dtype!,
    shape: entry.shape,
    data: () => readBytes(source, entry),
  }));
  rmSync(join(target, "model.safetensors"));
  writeSafetensors(join(target, "model.safetensors"), tensors);
  const opened = openModelWeights(target, loadConfig(target));
  expect(opened.tensors.has("lm_head.weight")).toBe(false);
  const entry = opened.tensors.get("model.embed_tokens.weight")!;
  expect(readBytes(opened, entry)).toEqual(readBytes(source, source.tensors.get("model.embed_tokens.weight")!));
  for (const one of [source, opened]) one.close();
  // Two matrices that are not shared keep their names.
  const config = { ...loadConfig(target), tieWordEmbeddings: false };
  const untied = openModelWeights(target, config);
  expect(untied.tensors.has("model.embed_tokens.weight")).toBe(false);
  untied.close();
});

test("a configuration of a larger model is refused before anything of its size is built", () => {
  const small = modelFolder("llama");
  const config = loadConfig(small);
  openModelWeights(small, config).close();
  const refused = (change: Partial<ModelConfig>) => userError(() => openModelWeights(small, { ...config, ...change }));
  expect(refused({ layers: 16_000_000 })).toMatch(/holds \d+ tensors, too few for the 16000000 layers of config\.json/);
  for (const key of ["vocabSize", "hiddenSize", "intermediateSize", "headDim", "heads"] as const)
    expect(refused({ [key]: 1_000_000 })).toContain("; do the files belong together?");
});

test("weights of integers or bytes, which other systems quantise to, are refused by name; other integers are not", () => {
  const source = openSafetensors(modelFolder("llama"));
  const tensors = Array.from(source.tensors.values(), (entry) => ({
    name: entry.name,
    dtype: entry.dtype!,
    shape: entry.shape,
    data: () => readBytes(source, entry),
  }));
  const config = loadConfig(modelFolder("llama"));
  const write = (name: string, changed: typeof tensors) => {
    mkdirSync(path(name), { recursive: true });
    writeSafetensors(join(path(name), "model.safetensors"), changed);
    return path(name);
  };
  for (const [dtype, stored] of [
    ["i8", "I8"],
    ["u8", "U8"],
  ] as const) {
    const quantised = tensors.map((tensor) =>
      tensor.name.endsWith("_proj.weight")
        ? { ...tensor, dtype, data: () => new Uint8Array(tensor.shape.reduce((product, size) => product * size, 1)) }
        : tensor,
    );
    expect(userError(() => openModelWeights(write(stored, quantised), config))).toMatch(
      new RegExp(
        `tensor "model\\.layers\\.0\\..*_proj\\.weight" \\(and \\d+ more\\) is ${stored}, a weight that another system has quantised; expected F32, BF16 or F16`,
      ),
    );
  }
  const positions = { name: "model.position_ids", dtype: "i8" as const, shape: [2], data: () => new Uint8Array(2) };
  openModelWeights(write("positions", [...tensors, positions]), config).close();
  source.close();
});
