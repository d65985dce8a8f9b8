import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkExportable } from "../../src/gguf/names.ts";
import { exportGguf } from "../../src/library/export-gguf.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ggufDecoder, writeGgufDecoder } from "../support/gguf-decoders.ts";
import { createExporter } from "../support/gguf-models.ts";
import { readTensors } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

async function write(name: string) {
  const path = writeGgufDecoder(join(folder, name), name);
  const { file } = await exported({ model: path, type: "f32" });
  return { file, stored: readTensors(join(path, "model.safetensors")), tensor: (key: string) => file.tensors.get(key)!.values() };
}

/** A matrix the other way round. */
const turned = (values: Float32Array, columns: number): Float32Array => {
  const rows = values.length / columns;
  return values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!);
};

test("a GPT-2: matrices the other way round, positions in f32, nothing rotated", async () => {
  const { file, stored, tensor } = await write("gpt2");
  for (const [to, from, outputs] of [
    ["attn_qkv", "attn.c_attn", 96],
    ["attn_output", "attn.c_proj", 32],
    ["ffn_up", "mlp.c_fc", 48],
    ["ffn_down", "mlp.c_proj", 32],
  ] as const) {
    const own = stored.get(`transformer.h.1.${from}.weight`)!;
    expect(file.tensors.get(`blk.1.${to}.weight`)!.shape).toEqual([outputs, own.length / outputs]);
    expect(tensor(`blk.1.${to}.weight`)).toEqual(turned(own, outputs));
    expect(tensor(`blk.1.${to}.bias`)).toEqual(stored.get(`transformer.h.1.${from}.bias`)!);
  }
  expect(tensor("position_embd.weight")).toEqual(stored.get("transformer.wpe.weight")!);
  expect(tensor("output_norm.bias")).toEqual(stored.get("transformer.ln_f.bias")!);
  expect(file.tensors.size).toBe(stored.size);
  expect([file.metadata.get("gpt2.context_length"), file.metadata.has("gpt2.rope.dimension_count")]).toEqual([128, false]);
  const { file: half } = await exported({ model: join(folder, "gpt2"), type: "f16" });
  expect([half.tensors.get("position_embd.weight")!.type, half.tensors.get("token_embd.weight")!.type]).toEqual([0, 1]);
});

test("a GPT-NeoX: queries of all heads, then keys, then values; the branches and the exact GELU are told", async () => {
  const { file, stored, tensor } = await write("gpt-neox");
  for (const [kind, columns] of [
    ["weight", 32],
    ["bias", 1],
  ] as const) {
    const own = stored.get(`gpt_neox.layers.0.attention.query_key_value.${kind}`)!;
    // Four heads of 8.
    const head = (part: number, at: number) => [
      ...own.subarray((at * 24 + part * 8) * columns, (at * 24 + part * 8 + 8) * columns),
    ];
    const expected = [0, 1, 2].flatMap((part) => [0, 1, 2, 3].flatMap((at) => head(part, at)));
    expect([...tensor(`blk.0.attn_qkv.${kind}`)]).toEqual(expected);
  }
  expect(tensor("output.weight")).toEqual(stored.get("lm_head.weight")!);
  const of = (key: string) => file.metadata.get(`gptneox.${key}`);
  expect([of("use_parallel_residual"), of("rope.dimension_count"), of("rope.freq_base")]).toEqual([true, 4, 1000]);
  const notes: string[] = [];
  const sink = (event: { type: string; text?: string }) => void (event.type === "note" && notes.push(event.text!));
  const model = writeGgufDecoder(join(folder, "serial"), "gpt-neox-serial");
  await exportGguf({ model, out: join(folder, "serial.gguf") }, { sink });
  expect(notes.join()).toContain("llama.cpp approximates GELU by tanh");
});

test("a GLM-Edge: gate and up are one matrix, biases of queries, keys and values", async () => {
  const { file, stored, tensor } = await write("glm");
  for (const [to, from] of [
    ["ffn_up.weight", "mlp.gate_up_proj.weight"],
    ["attn_q.weight", "self_attn.q_proj.weight"],
    ["attn_k.bias", "self_attn.k_proj.bias"],
    ["ffn_norm.weight", "post_attention_layernorm.weight"],
  ])
    expect(tensor(`blk.1.${to}`)).toEqual(stored.get(`model.layers.1.${from}`)!);
  expect(file.tensors.size).toBe(stored.size);
  expect(file.metadata.get("general.architecture")).toBe("chatglm");
  expect(file.metadata.get("chatglm.rope.dimension_count")).toBe(4);
});

test("what llama.cpp would compute otherwise is refused", () => {
  for (const [name, changes, message] of [
    ["gpt2", { scale_attn_weights: false }, "gpt2 models have scale_attn_weights true"],
    ["gpt-neox", { attention_bias: false }, "gptneox models have biases in attention"],
  ] as const) {
    expect(() => checkExportable(ggufDecoder(name, changes))).toThrow(message);
  }
});
