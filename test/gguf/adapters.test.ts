import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { exportAdapter } from "../../src/gguf/adapter.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import type { LowRankSettings } from "../../src/models/adapters/low-rank-settings.ts";
import { openAdapter } from "../../src/hf/peft/peft.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { createExporter, modelWithTokenizer, MODULES, separateRows } from "../support/gguf-models.ts";
import { adapterFolder, modelFolder, readTensors } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);
const path = modelWithTokenizer("llama", join(folder, "llama"));

test("merged in: the tensors of the merged model", async () => {
  const merged = join(folder, "merged");
  mergeAdapter({ base: path, adapter: adapterFolder("llama"), output: merged });
  const whole = await exported({ model: merged, type: "f32" });
  const onTheWay = await exported({ model: path, adapter: adapterFolder("llama"), type: "f32" });
  for (const [name, tensor] of whole.file.tensors) expect(onTheWay.file.tensors.get(name)!.values()).toEqual(tensor.values());
});

test("alone: alpha / rank times B A is the update, rows reordered as the base's", async () => {
  const { file, modelfile } = await exported({ model: path, adapter: adapterFolder("llama"), adapterOnly: true, type: "f32" });
  const config = loadConfig(path);
  const adapter = openAdapter(adapterFolder("llama"), loadConfig(adapterFolder("llama") + "/.."));
  adapter.source.close();
  const tensors = readTensors(join(adapterFolder("llama"), "adapter_model.safetensors"));
  expect(file.metadata.get("general.type")).toBe("adapter");
  const { rank, alpha } = adapter.own as LowRankSettings;
  expect(file.metadata.get("adapter.lora.alpha")).toBeCloseTo(alpha, 6);
  expect(file.tensors.size).toBe(2 * adapter.modules.size);
  for (const module of adapter.modules.keys()) {
    const [, layer, inner] = /^model\.layers\.(\d+)\.(.+)$/.exec(module)!;
    const name = `blk.${layer}.${Object.entries(MODULES).find(([, original]) => original === inner)![0]}.weight`;
    const [a, b] = [file.tensors.get(`${name}.lora_a`)!, file.tensors.get(`${name}.lora_b`)!];
    expect(a.shape[0]).toBe(rank);
    expect(a.values()).toEqual(tensors.get(`base_model.model.${module}.lora_A.weight`)!);
    const expected = tensors.get(`base_model.model.${module}.lora_B.weight`)!;
    const heads = inner === "self_attn.q_proj" ? config.heads : inner === "self_attn.k_proj" ? config.kvHeads : 0;
    expect(heads ? separateRows(b.values(), heads, rank) : b.values()).toEqual(expected);
  }
  expect(modelfile).toContain("ADAPTER ./m.gguf");
});

test("one in 4 bits, and one of a head that is the embedding, are refused", () => {
  const config = loadConfig(modelFolder("smollm2"));
  const adapter = openAdapter(adapterFolder("llama"), loadConfig(adapterFolder("llama") + "/.."));
  const [first] = adapter.modules.values();
  const out = join(folder, "refused.gguf");
  expect(() => exportAdapter(out, adapter, config, "q4_0")).toThrow("an adapter alone is not written as q4_0");
  const ofHead = { ...adapter, modules: new Map([["lm_head", first!]]) };
  expect(() => exportAdapter(out, ofHead, config, "f16")).toThrow(
    "no place for lm_head, which is shared with the embedding; write the model with the adapter merged in",
  );
  adapter.source.close();
  expect(existsSync(out)).toBe(false);
});
