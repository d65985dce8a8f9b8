import { expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fromFloat32, toFloat32 } from "../../src/base/float16.ts";
import { encode, typeFor } from "../../src/gguf/encode.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { exportGguf } from "../../src/library/export-gguf.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import { copyFolder, writeTinyModel } from "../support/cli.ts";
import { createExporter } from "../support/gguf-models.ts";
import { readTensors } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);
const tiny = writeTinyModel(join(folder, "tiny"));

test("matrices round once to f16 and bf16, and to q8_0 within 1/2 of a step of 1/127 of the block's greatest", async () => {
  const stored = readTensors(tiny);
  for (const type of ["f16", "bf16", "q8_0"] as const) {
    const { file } = await exported({ model: tiny, type });
    const expected = stored.get("model.layers.1.mlp.up_proj.weight")!;
    const values = file.tensors.get("blk.1.ffn_up.weight")!.values();
    if (type !== "q8_0") expect(values).toEqual(toFloat32(fromFloat32(expected, type), type));
    else {
      for (let block = 0; block < values.length; block += 32) {
        const part = expected.subarray(block, block + 32);
        const step = Math.max(...part.map(Math.abs)) / 127;
        // The step is kept as f16, 11 bits.
        part.forEach((value, i) => expect(Math.abs(values[block + i]! - value)).toBeLessThanOrEqual(step * (0.5 + 127 / 2048)));
      }
    }
    expect(file.tensors.get("output_norm.weight")!.type).toBe(0);
    // Rows of 48 are no whole blocks.
    expect(file.tensors.get("blk.0.ffn_down.weight")!.type).toBe(type === "bf16" ? 30 : 1);
    expect(file.tensors.has("output.weight")).toBe(false);
  }
  expect(typeFor("q8_0", [4, 32])).toBe("q8_0");
  expect([
    ...new Int8Array(
      encode(
        Float32Array.from({ length: 32 }, (_, i) => [127, -127, 0.5, -0.5, 2.4][i % 5]!),
        "q8_0",
        "x",
      ).buffer,
    ).slice(2, 7),
  ]).toEqual([127, -127, 1, -1, 2]);
});

test("q8_0 and q4_0 are, to the bit, what llama.cpp makes of the same numbers", () => {
  const golden = JSON.parse(readFileSync(join(import.meta.dir, "../golden/gguf/quants.json"), "utf8"));
  const bytes = (name: string) => Uint8Array.from(Buffer.from(golden[name], "base64"));
  const values = new Float32Array(bytes("values").buffer);
  for (const type of ["q8_0", "q4_0"] as const) expect(encode(values, type, "x")).toEqual(bytes(type));
});

test("q4_0: within a step of 1/8 of the block's greatest; what makes the logits has 8 bits", async () => {
  const stored = readTensors(tiny);
  const { file } = await exported({ model: tiny, type: "q4_0" });
  expect(file.metadata.get("general.file_type")).toBe(2);
  const expected = stored.get("model.layers.1.mlp.up_proj.weight")!;
  const tensor = file.tensors.get("blk.1.ffn_up.weight")!;
  expect(tensor.type).toBe(2);
  tensor.values().forEach((value, i) => {
    const greatest = Math.max(...expected.subarray(i - (i % 32), i - (i % 32) + 32).map(Math.abs));
    // The greatest is -8 steps, so on its other side the 7 steps fall short by one; the step is kept as f16, 11 bits.
    expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual((greatest / 8) * (1 + 8 / 2048));
  });
  expect(file.tensors.get("token_embd.weight")!.type).toBe(8);
});

test("a number that a type does not hold is refused, and nothing written", async () => {
  const path = copyFolder(tiny, join(folder, "great"));
  const name = "model.layers.1.mlp.up_proj.weight";
  const source = openSafetensors(path);
  const { offset } = source.tensors.get(name)!;
  source.close();
  const bytes = readFileSync(join(path, "model.safetensors"));
  bytes.writeFloatLE(-65520, offset + 4);
  writeFileSync(join(path, "model.safetensors"), bytes);
  const out = join(folder, "great-out", "m.gguf");
  expect(await rejection(exportGguf({ model: path, type: "f16", out }))).toBe(
    `${name} holds -65520, which f16 does not: take --type bf16 or f32`,
  );
  expect(readdirSync(join(folder, "great-out"))).toEqual([]);
  expect((await exported({ model: path, type: "bf16" })).file.tensors.get("blk.1.ffn_up.weight")!.values()[1]).toBe(-65536);
});

test("the Modelfile has the chat template and the ends of turns", async () => {
  const { modelfile, file } = await exported({ model: tiny });
  expect(modelfile).toContain("FROM ./m.gguf\n");
  expect(modelfile).toContain('TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n');
  expect(modelfile).toContain('PARAMETER stop "<|im_end|>"');
  expect(file.metadata.get("tokenizer.chat_template")).toContain("<|im_start|>");
  expect(file.metadata.get("tokenizer.ggml.eos_token_id")).toBe(2);
});

test("sampling is as the model's generation_config.json says", async () => {
  const path = copyFolder(tiny, join(folder, "sampling"));
  const before = await exported({ model: path });
  const config = {
    temperature: 0.6,
    top_k: 20,
    top_p: 0.8,
    repetition_penalty: 1.05,
    do_sample: true,
    max_new_tokens: 9,
    min_p: 7,
  };
  writeFileSync(join(path, "generation_config.json"), JSON.stringify(config));
  const { file, modelfile } = await exported({ model: path });
  const added = [...file.metadata].filter(([key]) => !before.file.metadata.has(key));
  expect(Object.fromEntries(added)).toEqual({
    "general.sampling.temp": Math.fround(0.6),
    "general.sampling.top_k": 20,
    "general.sampling.top_p": Math.fround(0.8),
    "general.sampling.penalty_repeat": Math.fround(1.05),
  });
  expect(modelfile.match(/PARAMETER (?!stop).*/g)).toEqual([
    "PARAMETER temperature 0.6",
    "PARAMETER top_p 0.8",
    "PARAMETER top_k 20",
    "PARAMETER repeat_penalty 1.05",
  ]);
});
