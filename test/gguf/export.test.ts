import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { exportAdapter } from "../../src/gguf/adapter.ts";
import { encode, interleaveRows, typeFor } from "../../src/gguf/encode.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { fromFloat32, toFloat32 } from "../../src/base/float16.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { openAdapter } from "../../src/hf/peft/peft.ts";
import { inverseFrequencies } from "../../src/load/rotary-tables.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { createRandom } from "../../src/base/random.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, remat, writeTinyModel } from "../support/cli.ts";
import { type GgufFile, readGguf } from "../support/gguf.ts";
import { adapterFolder, FAMILIES, type GoldenFamily, modelFolder, readTensors, relativeError } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tokenizers = join(import.meta.dir, "../golden/tokenizers");

/** The settings that llama.cpp expects of every Gemma and SmolLM3; the fixtures have others in order to tell more from one another. */
const USUAL: Partial<Record<GoldenFamily, (config: Record<string, any>) => void>> = {
  gemma2: (config) => (config["query_pre_attn_scalar"] = 14),
  gemma3: (config) =>
    Object.assign(config, { query_pre_attn_scalar: 16, sliding_window_pattern: 6, rope_local_base_freq: 10_000 }),
  // No bias on the output.
  "seed-oss": (config) => (config["attention_out_bias"] = false),
  smollm3: (config) => Object.assign(config, { no_rope_layer_interval: 4, use_sliding_window: false }),
  "gemma3-vision"({ text_config: text }) {
    delete text.layer_types;
    text.rope_parameters.sliding_attention.rope_theta = 10_000;
  },
};

/** A family's golden model with a tokenizer, which the fixtures lack. */
function model(family: GoldenFamily, tokenizer: string): string {
  const target = copyFolder(modelFolder(family), join(folder, `${family}-${tokenizer}`));
  const path = join(target, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  USUAL[family]?.(config);
  writeFileSync(path, JSON.stringify(config));
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(tokenizers, tokenizer, file), join(target, file));
  if (family === "seed-oss") dropTensors(join(target, "model.safetensors"), ".o_proj.bias");
  return target;
}

/** Takes tensors out of a file that its changed configuration no longer has. */
function dropTensors(path: string, ending: string): void {
  const source = openSafetensors(path);
  const kept = [...source.tensors.values()].filter(({ name }) => !name.endsWith(ending));
  const tensors = kept.map((entry) => ({
    name: entry.name,
    dtype: entry.dtype!,
    shape: entry.shape,
    data: readBytes(source, entry),
  }));
  source.close();
  writeSafetensors(path, tensors);
}

let exports = 0;
async function exported(...args: string[]) {
  const out = join(folder, `export-${exports++}`, "m.gguf");
  const { code, stderr } = await remat(["export", "gguf", "--out", out, ...args]);
  expect(`${code} ${stderr.replace(/^note:.*\n/gm, "")}`).toBe("0 ");
  return { file: readGguf(out), modelfile: readFileSync(out.replace(/\.gguf$/, ".Modelfile"), "utf8") };
}

const MODULES: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

const GEMMA_MODULES: Readonly<Record<string, string>> = {
  ...MODULES,
  ffn_norm: "pre_feedforward_layernorm",
  post_attention_norm: "post_attention_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

const ARCHITECTURES: Partial<Record<GoldenFamily, string>> = {
  smollm3: "smollm3",
  ministral3: "mistral3",
  "seed-oss": "seed_oss",
  granite: "granite",
  qwen2: "qwen2",
  qwen3: "qwen3",
  "qwen3-bare": "qwen3",
  "qwen2.5-vl": "qwen2",
  "qwen3-vl": "qwen3",
  gemma: "gemma",
  gemma2: "gemma2",
  gemma3: "gemma3",
  "gemma3-vision": "gemma3",
};

/** Families whose rows of queries and keys are reordered. */
const rotatesNeighbours = (architecture: string): boolean => ["llama", "smollm3", "granite", "mistral3"].includes(architecture);

function modulesOf(family: GoldenFamily): Readonly<Record<string, string>> {
  const { ffn_norm: norm, ...others } = MODULES;
  if (family === "seed-oss") return { ...others, post_attention_norm: norm! };
  return family.startsWith("gemma") && family !== "gemma" ? GEMMA_MODULES : MODULES;
}

/** The begins of the names of modules in files. */
const PREFIXES: Partial<Record<GoldenFamily, string>> = {
  "gemma3-vision": "language_model.model.",
  mistral3: "language_model.model.",
  "qwen3-bare": "",
  "qwen3-vl": "model.language_model.",
};

/** The checkpoint's name of a GGUF tensor. */
function originalName(name: string, family: GoldenFamily): string {
  const prefix = PREFIXES[family] ?? "model.";
  const modules = modulesOf(family);
  const [, layer, module, kind] = /^blk\.(\d+)\.(\w+)\.(\w+)$/.exec(name) ?? [];
  if (layer !== undefined) return `${prefix}layers.${layer}.${modules[module!]}.${kind}`;
  return {
    "token_embd.weight": `${prefix}embed_tokens.weight`,
    "output_norm.weight": `${prefix}norm.weight`,
    "output.weight": family === "mistral3" ? "language_model.lm_head.weight" : "lm_head.weight",
  }[name]!;
}

const isVisionTensor = (name: string): boolean => /^(vision_tower|multi_modal_projector|(model\.)?visual)\./.test(name);

/** Undoes the reordering of a head's rows. */
function separateRows(values: Float32Array, heads: number, columns: number): Float32Array {
  const dim = values.length / columns / heads;
  return Float32Array.from(values, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const [head, inside] = [Math.floor(row / dim), row % dim];
    return values[(head * dim + 2 * (inside % (dim / 2)) + Math.floor(inside / (dim / 2))) * columns + column]!;
  });
}

function readModel(path: string): Map<string, Float32Array> {
  const source = openSafetensors(path);
  try {
    return new Map([...source.tensors.values()].map(({ name, shape }) => [name, readFloat32(source, name, shape)]));
  } finally {
    source.close();
  }
}

/** Their modules have other names: fused.test.ts. */
const FUSED: readonly GoldenFamily[] = ["phi3", "phi4-mini", "internlm2"];

describe("a model as GGUF holds the model's tensors", () => {
  for (const family of FAMILIES.filter((name) => !FUSED.includes(name))) {
    test(`${family}: all of them, exactly, its settings and its tokenizer`, async () => {
      const path = model(family, "smollm");
      const config = loadConfig(path);
      const { file } = await exported("--model", path, "--type", "f32");
      const stored = readModel(path);
      const isGemma = family.startsWith("gemma");
      const architecture = ARCHITECTURES[family] ?? "llama";
      const seen = [...file.tensors].filter(([name]) => name !== "rope_freqs.weight");
      for (const [name, tensor] of seen) {
        const original = originalName(name, family);
        const offset = isGemma && name.endsWith("norm.weight") ? 1 : 0;
        const expected = stored.get(original)!.map((value) => value + offset);
        const values = tensor.values();
        const heads =
          /attn_q\.|attn_k\./.test(name) && rotatesNeighbours(architecture)
            ? name.includes("attn_q")
              ? config.heads
              : config.kvHeads
            : 0;
        const columns = tensor.shape[1] ?? 1;
        expect(`${name} ${relativeError(heads ? separateRows(values, heads, columns) : values, expected)}`).toBe(`${name} 0`);
        expect(tensor.offset % 32).toBe(0);
      }
      const text = [...stored.keys()].filter((name) => !isVisionTensor(name));
      expect(seen.length).toBe(text.length - Number(config.tieWordEmbeddings && stored.has("lm_head.weight")));
      const { metadata } = file;
      expect(metadata.get("general.architecture")).toBe(architecture);
      expect(metadata.get(`${architecture}.block_count`)).toBe(config.layers);
      expect(metadata.get(`${architecture}.attention.head_count_kv`)).toBe(config.kvHeads);
      expect(metadata.get(`${architecture}.attention.key_length`)).toBe(config.headDim);
      expect(metadata.get(`${architecture}.rope.freq_base`)).toBe(Math.fround(config.rope.theta));
      expect(metadata.get(`${architecture}.attn_logit_softcapping`)).toBe(family === "gemma2" ? 2.5 : undefined);
      expect(metadata.get(`${architecture}.final_logit_softcapping`)).toBe(family === "gemma2" ? 4 : undefined);
      expect(metadata.get(`${architecture}.attention.sliding_window`)).toBe(
        isGemma && family !== "gemma" ? config.slidingWindow : undefined,
      );
      expect(metadata.get("tokenizer.ggml.pre")).toBe("smollm");
      expect((metadata.get("tokenizer.ggml.tokens") as string[]).length).toBe(config.vocabSize);
    });
  }

  test("Gemma 3's scaling is that of the full attention, and its context the scaled one", async () => {
    const { file } = await exported("--model", model("gemma3", "smollm"), "--type", "f32");
    expect(file.metadata.get("gemma3.rope.scaling.type")).toBe("linear");
    expect(file.metadata.get("gemma3.rope.scaling.factor")).toBe(4);
    expect(file.metadata.get("gemma3.context_length")).toBe(64);
  });

  test("a Gemma that llama.cpp would compute otherwise is refused", async () => {
    for (const [family, expected] of [
      ["gemma2", "query_pre_attn_scalar 14, not 20"],
      ["gemma3", "query_pre_attn_scalar 16, not 10"],
      ["gemma3-vision", "a sliding window in all but one of each 6 layers"],
    ] as const) {
      const path = copyFolder(modelFolder(family), join(folder, `odd-${family}`));
      for (const file of ["tokenizer.json", "tokenizer_config.json"])
        copyFileSync(join(tokenizers, "smollm", file), join(path, file));
      const { code, stderr } = await remat(["export", "gguf", "--model", path, "--out", join(folder, "odd", "m.gguf")]);
      expect(code).toBe(2);
      expect(stderr).toContain(expected);
    }
  });

  test("Ministral 3's queries grow behind YaRN's context; without YaRN they are refused", async () => {
    const path = model("ministral3", "smollm");
    const { file } = await exported("--model", path, "--type", "f32");
    expect(file.metadata.get("mistral3.attention.temperature_scale")).toBe(Math.fround(0.7));
    expect(file.metadata.get("mistral3.rope.scaling.original_context_length")).toBe(5);
    const config = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
    const rope_parameters = { rope_type: "linear", factor: 2, llama_4_scaling_beta: 0.7, original_max_position_embeddings: 5 };
    writeFileSync(join(path, "config.json"), JSON.stringify({ ...config, rope_parameters }));
    const { code, stderr } = await remat(["export", "gguf", "--model", path, "--out", join(folder, "odd", "m.gguf")]);
    expect(code).toBe(2);
    expect(stderr).toContain("queries that grow with yarn scaling only");
  });

  test("Granite's four factors are settings", async () => {
    const { file } = await exported("--model", model("granite", "smollm"), "--type", "f32");
    for (const [key, value] of Object.entries({
      "attention.scale": 0.17,
      embedding_scale: 5.3,
      residual_scale: 0.43,
      logit_scale: 3.7,
    }))
      expect(file.metadata.get(`granite.${key}`)).toBe(Math.fround(value));
  });

  test("a SmolLM3 that llama.cpp would compute otherwise is refused; a YaRN goes into its settings", async () => {
    const { file } = await exported("--model", model("smollm3", "smollm"), "--type", "f32");
    expect(file.metadata.get("smollm3.rope.scaling.type")).toBe("yarn");
    expect(file.metadata.get("smollm3.rope.scaling.factor")).toBe(4);
    const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
    for (const [changes, expected] of [
      [{}, "no rotary positions in every fourth layer, and this one differs in layer 2"],
      [{ no_rope_layers: [1, 1, 1, 1, 1] }, "differs in layer 4"],
      [{ no_rope_layer_interval: 4, attention_bias: true }, "no biases on the output of attention and in the MLP"],
      [{ no_rope_layer_interval: 4, rope_scaling: llama3 }, "smollm3 models have no llama3 scaling"],
      [{ no_rope_layer_interval: 4, rope_scaling: { type: "yarn", factor: 4, beta_fast: 16 } }, "beta_fast 16"],
    ] as const) {
      const path = copyFolder(modelFolder("smollm3"), join(folder, `odd-smollm3-${expected.length}`));
      for (const name of ["tokenizer.json", "tokenizer_config.json"])
        copyFileSync(join(tokenizers, "smollm", name), join(path, name));
      const config = JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
      writeFileSync(join(path, "config.json"), JSON.stringify({ ...config, ...changes }));
      const { code, stderr } = await remat(["export", "gguf", "--model", path, "--out", join(folder, "odd", "m.gguf")]);
      expect(code).toBe(2);
      expect(stderr).toContain(expected);
    }
  });

  test("Llama 3's rope scaling is a tensor of divisors, 1 for the fastest wave", async () => {
    const { file } = await exported("--model", model("llama", "llama3"), "--type", "f32");
    const factors = file.tensors.get("rope_freqs.weight")!.values();
    const { scaling } = loadConfig(modelFolder("llama")).rope;
    if (scaling.type !== "llama3") throw new Error("the fixture has another scaling");
    expect(factors[0]).toBe(1);
    expect(Math.max(...factors)).toBeLessThanOrEqual(scaling.factor * (1 + 1e-6));
    expect(Array.from(factors).sort((a, b) => a - b)).toEqual([...factors]);
  });

  test("tokenizers are named, others refused", async () => {
    for (const [tokenizer, name] of [
      ["llama3", "llama-bpe"],
      ["qwen", "qwen2"],
      ["phi4", "gpt-4o"],
    ] as const) {
      const { file } = await exported("--model", model("smollm2", tokenizer), "--type", "f16");
      expect(file.metadata.get("tokenizer.ggml.pre")).toBe(name);
      expect(file.metadata.get("tokenizer.ggml.add_bos_token")).toBe(tokenizer === "llama3");
    }
  });
});

describe("types", () => {
  const tiny = writeTinyModel(join(folder, "tiny"));

  test("matrices round once to f16 and bf16, and to q8_0 within 1/2 of a step of 1/127 of the block's greatest", async () => {
    const stored = readModel(tiny);
    for (const type of ["f16", "bf16", "q8_0"] as const) {
      const { file } = await exported("--model", tiny, "--type", type);
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
    const stored = readModel(tiny);
    const { file } = await exported("--model", tiny, "--type", "q4_0");
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
    const { code, stderr } = await remat(["export", "gguf", "--model", path, "--type", "f16", "--out", out]);
    expect(`${code} ${stderr}`).toBe(`2 remat: ${name} holds -65520, which f16 does not: take --type bf16 or f32\n`);
    expect(readdirSync(join(folder, "great-out"))).toEqual([]);
    expect((await exported("--model", path, "--type", "bf16")).file.tensors.get("blk.1.ffn_up.weight")!.values()[1]).toBe(-65536);
  });

  test("the Modelfile has the chat template and the ends of turns", async () => {
    const { modelfile, file } = await exported("--model", tiny);
    expect(modelfile).toContain("FROM ./m.gguf\n");
    expect(modelfile).toContain('TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n');
    expect(modelfile).toContain('PARAMETER stop "<|im_end|>"');
    expect(file.metadata.get("tokenizer.chat_template")).toContain("<|im_start|>");
    expect(file.metadata.get("tokenizer.ggml.eos_token_id")).toBe(2);
  });
});

test("sampling is as the model's generation_config.json says", async () => {
  const path = copyFolder(writeTinyModel(join(folder, "tiny-base")), join(folder, "sampling"));
  const before = await exported("--model", path);
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
  const { file, modelfile } = await exported("--model", path);
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

describe("adapters", () => {
  test("merged in: the tensors of the merged model", async () => {
    const path = model("llama", "smollm");
    const merged = join(folder, "merged");
    mergeAdapter({ base: path, adapter: adapterFolder("llama"), output: merged });
    const whole = await exported("--model", merged, "--type", "f32");
    const onTheWay = await exported("--model", path, "--adapter", adapterFolder("llama"), "--type", "f32");
    for (const [name, tensor] of whole.file.tensors) expect(onTheWay.file.tensors.get(name)!.values()).toEqual(tensor.values());
  });

  test("alone: alpha / rank times B A is the update, rows reordered as the base's", async () => {
    const path = model("llama", "qwen");
    const { file, modelfile } = await exported(
      "--model",
      path,
      "--adapter",
      adapterFolder("llama"),
      "--adapter-only",
      "--type",
      "f32",
    );
    const config = loadConfig(path);
    const adapter = openAdapter(adapterFolder("llama"), loadConfig(adapterFolder("llama") + "/.."));
    adapter.source.close();
    const tensors = readTensors(join(adapterFolder("llama"), "adapter_model.safetensors"));
    expect(file.metadata.get("general.type")).toBe("adapter");
    expect((file.metadata.get("adapter.lora.alpha") as number) / adapter.rank).toBeCloseTo(adapter.scale, 6);
    expect(file.tensors.size).toBe(2 * adapter.modules.size);
    for (const [module, { rank }] of adapter.modules) {
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
});

describe("YaRN", () => {
  const changed = (family: GoldenFamily, name: string, scaling: object): string => {
    const target = copyFolder(model(family, "smollm"), join(folder, name));
    const path = join(target, "config.json");
    const config = JSON.parse(readFileSync(path, "utf8"));
    const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32, ...scaling };
    writeFileSync(path, JSON.stringify({ ...config, rope_theta: 10_000, rope_scaling: yarn }));
    return target;
  };
  const scalingOf = ({ metadata }: GgufFile, architecture: string) =>
    Object.fromEntries(
      [...metadata].flatMap(([key, value]) =>
        key.startsWith(`${architecture}.rope.scaling.`) ? [[key.slice(architecture.length + 14), value]] : [],
      ),
    );

  test("as usual: llama.cpp computes it; its factor on cos and sin is what is left of the model's", async () => {
    const usual = { type: "yarn", factor: 4, original_context_length: 32 };
    const plain = await exported("--model", changed("qwen2", "yarn", {}), "--type", "f16");
    expect(scalingOf(plain.file, "qwen2")).toEqual(usual);
    const factor = await exported("--model", changed("qwen2", "yarn-factor", { attention_factor: 1.5 }), "--type", "f16");
    expect(scalingOf(factor.file, "qwen2")).toEqual({ ...usual, attn_factor: Math.fround(1.5 / (1 + 0.1 * Math.log(4))) });
  });

  test("with other betas: frequencies of its own in a llama, and refused where llama.cpp reads none", async () => {
    const betas = { beta_fast: 2, beta_slow: 0.5 };
    const path = changed("smollm2", "yarn-betas", betas);
    const { file } = await exported("--model", path, "--type", "f16");
    expect(scalingOf(file, "llama")).toEqual({ attn_factor: Math.fround(1 + 0.1 * Math.log(4)) });
    const factors = [...file.tensors.get("rope_freqs.weight")!.values()];
    const { rope, rotaryDim } = loadConfig(path);
    const { inverse } = inverseFrequencies({ rope, rotaryDim });
    factors.forEach((factor, i) => expect(10_000 ** ((-2 * i) / rotaryDim) / factor / inverse[i]!).toBeCloseTo(1, 6));
    expect(new Set(factors).size).toBeGreaterThan(2);
    const refused = await remat([
      "export",
      "gguf",
      "--model",
      changed("qwen2", "yarn-odd", betas),
      "--out",
      join(folder, "odd.gguf"),
    ]);
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain("qwen2 models have YaRN with beta_fast 32");
  });
});

test("reordering of rows: features i and i + dim / 2 become neighbours", () => {
  expect([
    ...interleaveRows(
      Float32Array.from({ length: 12 }, (_, i) => i),
      2,
      1,
    ),
  ]).toEqual([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
  const random = createRandom(3);
  const values = Float32Array.from({ length: 4 * 6 * 5 }, () => random.uniform());
  expect(separateRows(interleaveRows(values, 4, 5), 4, 5)).toEqual(values);
});
