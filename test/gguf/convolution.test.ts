import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import { changeConfig, createExporter, modelWithTokenizer } from "../support/gguf-models.ts";
import { adapterFolder, readTensors, relativeError } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

const MODULES: Readonly<Record<string, string>> = {
  attn_norm: "operator_norm",
  ffn_norm: "ffn_norm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.out_proj",
  attn_q_norm: "self_attn.q_layernorm",
  attn_k_norm: "self_attn.k_layernorm",
  "shortconv.in_proj": "conv.in_proj",
  "shortconv.conv": "conv.conv",
  "shortconv.out_proj": "conv.out_proj",
  ffn_gate: "feed_forward.w1",
  ffn_up: "feed_forward.w3",
  ffn_down: "feed_forward.w2",
};

function originalName(name: string): string {
  const [, layer, module] = /^blk\.(\d+)\.(.+)\.weight$/.exec(name) ?? [];
  if (layer !== undefined) return `model.layers.${layer}.${MODULES[module!]}.weight`;
  return name === "token_embd_norm.weight" ? "model.embedding_norm.weight" : "model.embed_tokens.weight";
}

test("an LFM2 has its tensors by llama.cpp's names, exactly; filters are matrices in f32 in every file, key heads are said layer by layer", async () => {
  const path = modelWithTokenizer("lfm2", join(folder, "lfm2"));
  const stored = readTensors(path);
  const { file } = await exported({ model: path, type: "f32" });
  expect(file.tensors.size).toBe(stored.size);
  for (const [name, tensor] of file.tensors) {
    expect(`${name} ${relativeError(tensor.values(), stored.get(originalName(name))!)}`).toBe(`${name} 0`);
    if (name.endsWith("shortconv.conv.weight")) expect(tensor.shape).toEqual([26, 3]);
  }
  const { metadata } = file;
  expect(metadata.get("general.architecture")).toBe("lfm2");
  expect(metadata.get("lfm2.attention.head_count_kv")).toEqual([0, 1, 0, 0, 1]);
  expect(metadata.get("lfm2.shortconv.l_cache")).toBe(3);
  // 2/3 of 43, times 1.1, as a multiple of 6.
  expect(metadata.get("lfm2.feed_forward_length")).toBe(30);
  expect(metadata.get("lfm2.attention.layer_norm_rms_epsilon")).toBe(Math.fround(1e-5));
  const { file: half } = await exported({ model: path, type: "f16" });
  expect(half.tensors.get("blk.0.shortconv.conv.weight")!.type).toBe(0);
  expect(half.tensors.get("blk.0.shortconv.in_proj.weight")!.type).toBe(1);
});

test("an adapter alone names the modules of both kinds of layers", async () => {
  const path = modelWithTokenizer("lfm2", join(folder, "adapted"));
  const { file } = await exported({ model: path, adapter: adapterFolder("lfm2"), adapterOnly: true, type: "f32" });
  for (const module of [
    "blk.0.shortconv.in_proj",
    "blk.0.shortconv.out_proj",
    "blk.1.attn_output",
    "blk.4.attn_q",
    "blk.2.ffn_gate",
  ])
    expect(file.tensors.has(`${module}.weight.lora_a`)).toBe(true);
});

test("one that llama.cpp would compute otherwise is refused", async () => {
  const biased = modelWithTokenizer("lfm2-bias", join(folder, "bias"));
  expect(await rejection(exported({ model: biased }))).toContain("llama.cpp's lfm2 models have no biases on the convolution");
  const attending = modelWithTokenizer("lfm2", join(folder, "attending"));
  changeConfig(attending, { full_attn_idxs: [0, 1, 2, 3, 4] });
  expect(await rejection(exported({ model: attending }))).toContain("layers that convolve, and this one has none");
});
