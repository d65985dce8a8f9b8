import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkExportable } from "../../src/gguf/names.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import { writeRandomAdapter } from "../support/adapters.ts";
import { ggufDecoder, writeGgufDecoder } from "../support/gguf-decoders.ts";
import { createExporter, MODULES } from "../support/gguf-models.ts";
import { readTensors } from "../support/golden.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

const NAMES: Readonly<Record<string, string>> = {
  ...MODULES,
  ffn_norm: "pre_feedforward_layernorm",
  post_attention_norm: "post_attention_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
  inp_gate: "per_layer_input_gate",
  proj: "per_layer_projection",
  post_norm: "post_per_layer_input_norm",
};

/** The checkpoint's name of a GGUF tensor. */
function originalName(name: string): string {
  const [, layer, module] = /^blk\.(\d+)\.(.+)\.weight$/.exec(name) ?? [];
  if (module === "layer_output_scale") return `model.layers.${layer}.layer_scalar`;
  if (layer !== undefined) return `model.layers.${layer}.${NAMES[module!]}.weight`;
  return {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "per_layer_token_embd.weight": "model.embed_tokens_per_layer.weight",
    "per_layer_model_proj.weight": "model.per_layer_model_projection.weight",
    "per_layer_proj_norm.weight": "model.per_layer_projection_norm.weight",
  }[name]!;
}

test("a Gemma 4: all tensors exactly, rows of tokens alone in the table of each layer's vectors, settings of both kinds of layers", async () => {
  const path = writeGgufDecoder(join(folder, "model"), "gemma4");
  const stored = readTensors(join(path, "model.safetensors"));
  const { file } = await exported({ model: path, type: "f32" });
  expect(file.tensors.size).toBe(stored.size + 1);
  for (const [name, tensor] of file.tensors) {
    if (name === "rope_freqs.weight") continue;
    const own = stored.get(originalName(name))!;
    expect(tensor.values()).toEqual(name.startsWith("per_layer_token") ? own.subarray(0, 448 * 6 * 16) : own);
  }
  // Half of each head of 16 rotates.
  expect([...file.tensors.get("rope_freqs.weight")!.values()]).toEqual([1, 1, 1, 1, ...Array(4).fill(Math.fround(1e30))]);
  const of = (key: string) => file.metadata.get(`gemma4.${key}`);
  expect(of("feed_forward_length")).toEqual([48, 48, 48, 48, 96, 96]);
  expect(of("attention.sliding_window_pattern")).toEqual([true, false, true, false, true, false]);
  expect(of("attention.head_count_kv")).toEqual(Array(6).fill(2));
  expect(
    ["attention.key_length", "attention.key_length_swa", "rope.dimension_count", "rope.dimension_count_swa"].map(of),
  ).toEqual([16, 8, 16, 8]);
  expect([of("rope.freq_base"), of("rope.freq_base_swa")]).toEqual([1_000_000, 10_000]);
  expect([of("attention.shared_kv_layers"), of("embedding_length_per_layer_input")]).toEqual([2, 16]);
  expect([of("attention.sliding_window"), of("final_logit_softcapping")]).toEqual([8, 30]);
});

test("layers without a window may have key heads of their own, whose keys are the values", async () => {
  const { file } = await exported({ model: writeGgufDecoder(join(folder, "keys"), "gemma4-keys"), type: "f32" });
  expect(file.metadata.get("gemma4.attention.head_count_kv")).toEqual([2, 1, 2, 1, 2, 1]);
  expect([file.tensors.has("blk.0.attn_v.weight"), file.tensors.has("blk.1.attn_v.weight")]).toEqual([true, false]);
});

slowTest("an adapter alone is written but of what llama.cpp multiplies without one", async () => {
  const model = writeGgufDecoder(join(folder, "adapted"), "gemma4");
  const executor = await createWasmExecutor({ threads: 1 });
  const adapter = (name: string, targets: readonly string[]) =>
    writeRandomAdapter(executor, model, join(folder, name), { rank: 2, targets }, 1);
  const [some, all] = [
    adapter("some", ["q_proj", "per_layer_projection"]),
    adapter("all", ["q_proj", "per_layer_model_projection"]),
  ];
  executor.close();
  const { file } = await exported({ model, adapter: some, adapterOnly: true, type: "f32" });
  expect(file.tensors.has("blk.5.proj.weight.lora_b")).toBe(true);
  expect(await rejection(exported({ model, adapter: all, adapterOnly: true }))).toContain(
    "no place for module model.per_layer_model_projection; write the model with the adapter merged in",
  );
  expect((await exported({ model, adapter: all })).file.tensors.has("per_layer_model_proj.weight")).toBe(true);
});

test("what llama.cpp would compute otherwise is refused", () => {
  for (const [changes, message] of [
    [
      { num_kv_shared_layers: 1 },
      "a layer with a window and one without, in this order, in front of those that share their keys",
    ],
    [{ attention_bias: true }, "gemma4 models have no biases"],
  ] as const) {
    expect(() => checkExportable(ggufDecoder("gemma4", changes))).toThrow(message);
  }
});
