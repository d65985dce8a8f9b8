import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkExportable } from "../../src/gguf/names.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { exportGguf } from "../../src/library/export-gguf.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ggufDecoder, writeGgufDecoder } from "../support/gguf-decoders.ts";
import { changeConfig, createExporter } from "../support/gguf-models.ts";
import { readTensors } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

const MATRICES = { gate: "gate_proj", up: "up_proj", down: "down_proj" } as const;
const [COUNT, SIZE] = [4, 32];

test("a gpt-oss: sinks, the router's bias, biases of experts by turns", async () => {
  const path = writeGgufDecoder(join(folder, "plain"), "gpt-oss");
  const stored = readTensors(join(path, "model.safetensors"));
  const { file } = await exported({ model: path, type: "f32" });
  const of = (name: string) => file.tensors.get(`blk.1.${name}`)!;
  const own = (name: string) => stored.get(`model.layers.1.${name}`)!;
  expect(of("attn_sinks.weight").values()).toEqual(own("self_attn.sinks"));
  expect(of("ffn_gate_inp.bias").values()).toEqual(own("mlp.router.bias"));
  expect(of("ffn_down_exps.bias").values()).toEqual(own("mlp.experts.down_proj_bias"));
  const both = own("mlp.experts.gate_up_proj_bias");
  expect(of("ffn_gate_exps.bias").shape).toEqual([COUNT, SIZE]);
  expect(of("ffn_gate_exps.bias").values()).toEqual(both.filter((_, i) => i % 2 === 0));
  expect(of("ffn_up_exps.bias").values()).toEqual(both.filter((_, i) => i % 2 === 1));
  for (const [kind, matrix] of Object.entries(MATRICES))
    expect(
      of(`ffn_${kind}_exps.weight`)
        .values()
        .subarray(SIZE * SIZE, 2 * SIZE * SIZE),
    ).toEqual(own(`mlp.experts.1.${matrix}.weight`));
  const setting = (key: string) => file.metadata.get(`gpt-oss.${key}`);
  expect(["attention.sliding_window", "expert_count", "expert_used_count", "expert_feed_forward_length"].map(setting)).toEqual([
    8, 4, 2, 32,
  ]);
  expect(setting("rope.scaling.type")).toBe("yarn");
});

test("experts in MXFP4 stay so in files of every type: the numbers are those that the checkpoint means", async () => {
  const path = writeGgufDecoder(join(folder, "packed"), "gpt-oss-mxfp4");
  const source = openModelWeights(path, loadConfig(path));
  const { file } = await exported({ model: path, type: "f16" });
  for (const layer of [0, 1]) {
    for (const [kind, matrix] of Object.entries(MATRICES)) {
      const tensor = file.tensors.get(`blk.${layer}.ffn_${kind}_exps.weight`)!;
      expect([tensor.type, tensor.shape]).toEqual([39, [COUNT, SIZE, SIZE]]);
      const values = tensor.values();
      for (let expert = 0; expert < COUNT; expert++) {
        const name = `model.layers.${layer}.mlp.experts.${expert}.${matrix}.weight`;
        expect(values.subarray(expert * SIZE * SIZE, (expert + 1) * SIZE * SIZE)).toEqual(
          readFloat32(source, name, [SIZE, SIZE]),
        );
      }
    }
  }
  source.close();
  expect(file.tensors.get("blk.0.attn_q.weight")!.type).toBe(1);
});

test("YaRN as published models have it is written, with a note that llama.cpp rounds it", async () => {
  const path = writeGgufDecoder(join(folder, "yarn"), "gpt-oss");
  changeConfig(path, ({ rope_parameters: rope }) => ({ rope_parameters: { ...rope, truncate: false } }));
  const notes: string[] = [];
  const sink = (event: { type: string; text?: string }) => void (event.type === "note" && notes.push(event.text!));
  await exportGguf({ model: path, out: join(folder, "yarn.gguf") }, { sink });
  expect(notes.join()).toContain("llama.cpp rounds the dimensions between which YaRN goes");
});

test("what llama.cpp would compute otherwise is refused", () => {
  for (const [changes, message] of [
    [{ swiglu_limit: 1.5 }, "swiglu_alpha 1.702 and swiglu_limit 7, not 1.702 and 1.5"],
    [{ layer_types: ["full_attention", "sliding_attention"] }, "a sliding window in every second layer"],
    [{ attention_bias: false }, "biases in attention, and this one has none"],
  ] as const) {
    expect(() => checkExportable(ggufDecoder("gpt-oss", changes))).toThrow(message);
  }
});
