import { expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openAdapterFor } from "../../src/hf/peft/check-adapter.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import type { Adapter } from "../../src/hf/peft/peft.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { tuningOfAdapter } from "../../src/train/step/tuning.ts";
import { type GoldenFamily, modelFolder, readTensors } from "../support/golden.ts";
import { temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const golden = (name: string) => join(import.meta.dir, "../golden", name);

let copies = 0;
/** A fixture with other tensors and settings. */
function changed(
  name: string,
  change: (tensors: TensorData[]) => TensorData[],
  config: object | ((given: Record<string, unknown>) => object) = {},
): string {
  const target = join(folder, `adapter-${copies++}`);
  cpSync(golden(name), target, { recursive: true });
  const file = join(target, "adapter_model.safetensors");
  const source = openSafetensors(file);
  const tensors = [...source.tensors.values()].map((entry): TensorData => ({
    name: entry.name,
    dtype: "f32",
    shape: entry.shape,
    data: readFloat32(source, entry.name, entry.shape),
  }));
  source.close();
  writeSafetensors(file, change(tensors));
  const path = join(target, "adapter_config.json");
  const given = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify({ ...given, ...(typeof config === "function" ? config(given) : config) }));
  return target;
}

function open(base: GoldenFamily, path: string): Adapter {
  const config = loadConfig(modelFolder(base));
  const source = openModelWeights(modelFolder(base), config);
  try {
    const adapter = openAdapterFor(source, path, config);
    adapter.source.close();
    return adapter;
  } finally {
    source.close();
  }
}

const without = (part: string) => (tensors: TensorData[]) => tensors.filter(({ name }) => !name.includes(part));
const same = (tensors: TensorData[]) => tensors;

test("what PEFT saves along of a head is read: the base model's own is nothing, another one counts", () => {
  const name = "base_model.model.lm_head.base_layer.weight";
  expect(open("llama", golden("adapters/head")).copies.size).toBe(0);
  expect(open("llama", changed("adapters/head", without("base_layer"))).copies.size).toBe(0);
  const target = changed("adapters/head", (tensors) =>
    tensors.map((tensor) =>
      tensor.name === name ? { ...tensor, data: (tensor.data as Float32Array).map((x) => x + 1) } : tensor,
    ),
  );
  const adapter = open("llama", target);
  expect([...adapter.copies.keys()]).toEqual(["lm_head.weight"]);
  const output = join(folder, "merged");
  mergeAdapter({ base: modelFolder("llama"), adapter: target, output });
  const merged = readTensors(join(output, "model.safetensors")).get("lm_head.weight")!;
  const expected = readTensors(golden("adapters/head/merged.safetensors")).get("lm_head.weight")!;
  // The update is the same, the weight below it is 1 larger.
  expect(Math.max(...merged.map((value, i) => Math.abs(value - expected[i]! - 1)))).toBeLessThan(1e-6);
  expect(userError(() => tuningOfAdapter(adapter, loadConfig(modelFolder("llama"))))).toContain(
    "holds a lm_head.weight of its own",
  );
});

test("of a head that is the embedding, another copy is both", () => {
  const target = changed("adapters/head-tied", (tensors) =>
    tensors.map((tensor) =>
      tensor.name.endsWith("base_layer.weight") ? { ...tensor, data: (tensor.data as Float32Array).map((x) => -x) } : tensor,
    ),
  );
  expect([...open("gemma2", target).copies.keys()]).toEqual(["model.embed_tokens.weight"]);
});

test("missing parts, by names, patterns, excluded modules, biases and whole modules", () => {
  const refusal = (base: GoldenFamily, path: string) => userError(() => open(base, path));
  const q = "layers.1.self_attn.q_proj";
  const lacks = (name: string) => `lacks base_model.model.model.${name}, which adapter_config.json names`;
  expect(refusal("qwen2", changed("adapters/dora", without(q)))).toContain(lacks(`${q}.lora_A.weight`));
  expect(refusal("mistral", changed("adapters/embedding", without("embed_tokens.lora")))).toContain(
    lacks("embed_tokens.lora_embedding_A"),
  );
  expect(refusal("gemma2", changed("adapters/head-tied", without("lm_head")))).toContain(
    "lacks base_model.model.lm_head.lora_A.weight",
  );
  expect(refusal("smollm2", changed("peft/patterns", without("layers.2.mlp.gate_proj")))).toContain(
    lacks("layers.2.mlp.gate_proj.lora_A.weight"),
  );
  expect(refusal("smollm2", changed("peft/all-linear", without("layers.2.mlp.gate_proj")))).toContain(
    lacks("layers.2.mlp.gate_proj.lora_A.weight"),
  );
  expect(refusal("qwen2", changed("adapters/bias-all", without(`${q}.base_layer.bias`)))).toContain(
    lacks(`${q}.base_layer.bias`),
  );
  expect(refusal("qwen2", changed("adapters/bias-all", without("v_proj.bias")))).toContain(
    lacks("layers.0.self_attn.v_proj.bias"),
  );
  expect(refusal("llama", changed("adapters/saved", without("layers.1.input_layernorm")))).toContain(
    lacks("layers.1.input_layernorm.weight"),
  );
  // What is excluded, or means something that is not understood, is not missed.
  const rest = changed("adapters/head", without(q), ({ target_modules: names }) => ({
    target_modules: names,
    exclude_modules: [q],
  }));
  expect(open("llama", rest).modules.size).toBe(2);
  const unknown = changed("adapters/head", without(q), { target_modules: "(?=.*q_proj|lm_head).*" });
  expect(open("llama", unknown).modules.size).toBe(2);
});

test("another base model, ties that are to be kept, and tensors that belong to nothing", () => {
  expect(userError(() => open("smollm2", golden("adapters/dora")))).toContain("is it the adapter's base model?");
  const tied = changed("adapters/head-tied", same, { ensure_weight_tying: true });
  expect(userError(() => open("gemma2", tied))).toContain("ensure_weight_tying keeps lm_head and model.embed_tokens one matrix");
  expect(open("llama", changed("adapters/head", same, { ensure_weight_tying: true })).modules.size).toBe(3);
  const more = { dtype: "f32", shape: [2], data: new Float32Array(2) } as const;
  for (const name of [
    "model.layers.0.mlp.up_proj.weight",
    "base_model.model.model.norm.weight",
    "base_model.model.lm_head.bias",
  ]) {
    const target = changed("adapters/dora", (tensors) => [...tensors, { ...more, name }]);
    expect(userError(() => open("qwen2", target))).toContain(
      `tensor "${name}" [2] is no part of the adapter that adapter_config.json describes`,
    );
  }
});
