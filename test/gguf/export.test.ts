import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import { GGUF_DECODERS } from "../support/gguf-decoders.ts";
import { changeConfig, createExporter, dropTensors, modelWithTokenizer, MODULES, separateRows } from "../support/gguf-models.ts";
import { FAMILIES, type GoldenFamily, modelFolder, readTensors, relativeError } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

/** The settings that llama.cpp expects of every Gemma and SmolLM3; the fixtures have others in order to tell more from one another. */
const USUAL: Partial<Record<GoldenFamily, object | ((config: Record<string, any>) => object)>> = {
  gemma2: { query_pre_attn_scalar: 14 },
  gemma3: { query_pre_attn_scalar: 16, sliding_window_pattern: 6, rope_local_base_freq: 10_000 },
  // No bias on the output.
  "seed-oss": { attention_out_bias: false },
  smollm3: { no_rope_layer_interval: 4, use_sliding_window: false },
  exaone4: { sliding_window: null },
  olmo3: { rope_theta: 500_000 },
  // No biases.
  olmo2: { attention_bias: false },
  hunyuan: { attention_bias: false },
  ernie45: { use_bias: false },
  "gemma3-vision"({ text_config: text }) {
    text.rope_parameters.sliding_attention.rope_theta = 10_000;
    return { text_config: { ...text, layer_types: undefined } };
  },
};

/** A family's golden model with a tokenizer and the usual settings. */
function model(family: GoldenFamily, tokenizer = "smollm"): string {
  const target = modelWithTokenizer(family, join(folder, `${family}-${tokenizer}`), tokenizer);
  changeConfig(target, USUAL[family] ?? {});
  if (family === "seed-oss") dropTensors(target, ".o_proj.bias");
  if (["olmo2", "hunyuan", "ernie45"].includes(family)) dropTensors(target, ".bias");
  return target;
}

const GEMMA_MODULES: Readonly<Record<string, string>> = {
  ...MODULES,
  ffn_norm: "pre_feedforward_layernorm",
  post_attention_norm: "post_attention_layernorm",
  post_ffw_norm: "post_feedforward_layernorm",
};

const { attn_norm: _, ffn_norm: __, ...INNER } = MODULES;
const POST_NORM_MODULES: Readonly<Record<string, string>> = {
  ...INNER,
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
  olmo2: "olmo2",
  olmo3: "olmo2",
  exaone4: "exaone4",
  hunyuan: "hunyuan-dense",
  ernie45: "ernie4_5",
  glm4: "glm4",
  cohere2: "cohere2",
  phi: "phi2",
  stablelm: "stablelm",
  starcoder2: "starcoder2",
  nemotron: "nemotron",
};

/** Families whose rows of queries and keys are reordered. */
const rotatesNeighbours = (architecture: string): boolean => ["llama", "smollm3", "granite", "mistral3"].includes(architecture);

function modulesOf(family: GoldenFamily): Readonly<Record<string, string>> {
  const { ffn_norm: norm, ...others } = MODULES;
  if (family === "seed-oss") return { ...others, post_attention_norm: norm! };
  if (["olmo2", "olmo3", "exaone4"].includes(family)) return POST_NORM_MODULES;
  if (family === "hunyuan")
    return { ...MODULES, attn_q_norm: "self_attn.query_layernorm", attn_k_norm: "self_attn.key_layernorm" };
  if (family === "phi") return { ...MODULES, attn_output: "self_attn.dense", ffn_up: "mlp.fc1", ffn_down: "mlp.fc2" };
  if (family === "starcoder2") return { ...MODULES, ffn_up: "mlp.c_fc", ffn_down: "mlp.c_proj" };
  if (family === "glm4")
    return {
      ...MODULES,
      post_attention_norm: "post_self_attn_layernorm",
      post_ffw_norm: "post_mlp_layernorm",
      ffn_up: "mlp.gate_up_proj",
    };
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
    ...Object.fromEntries(
      ["weight", "bias"].map((kind) => [
        `output_norm.${kind}`,
        `${prefix}${family === "phi" ? "final_layernorm" : "norm"}.${kind}`,
      ]),
    ),
    "output.bias": "lm_head.bias",
    "output.weight": family === "mistral3" ? "language_model.lm_head.weight" : "lm_head.weight",
  }[name]!;
}

const isVisionTensor = (name: string): boolean => /^(vision_tower|multi_modal_projector|(model\.)?visual)\./.test(name);

/** Their modules have other names, or are made of several tensors (other files of this folder); OPT is not known to llama.cpp. */
const OTHERS: readonly GoldenFamily[] = [
  "gemma4",
  "gemma4-multimodal",
  "gemma4-moe",
  "phi3",
  "phi4-mini",
  "internlm2",
  "lfm2",
  "lfm2-bias",
  "glm",
  "granite4",
  "gpt-neox",
  "gpt-neox-serial",
  "qwen3.5",
  "qwen3.5-text",
  "qwen3.5-moe",
  "qwen3-next",
  "qwen3-moe",
  "olmoe",
  "lfm2-moe",
  "gpt-oss",
  "gpt-oss-mxfp4",
  "gpt2",
  "opt",
];

describe("a model as GGUF holds the model's tensors", () => {
  for (const family of FAMILIES.filter((name) => !OTHERS.includes(name))) {
    test(`${family}: all of them, exactly, its settings and its tokenizer`, async () => {
      const path = model(family);
      const config = loadConfig(path);
      const { file } = await exported({ model: path, type: "f32" });
      const stored = readTensors(path);
      const isGemma = family.startsWith("gemma");
      const architecture = ARCHITECTURES[family] ?? "llama";
      const seen = [...file.tensors].filter(([name]) => name !== "rope_freqs.weight");
      for (const [name, tensor] of seen) {
        const original = originalName(name, family);
        const offset = (isGemma || family === "nemotron") && name.endsWith("norm.weight") ? 1 : 0;
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
        (isGemma && family !== "gemma") || family === "olmo3" || family === "cohere2" ? config.slidingWindow : undefined,
      );
      expect(metadata.get("tokenizer.ggml.pre")).toBe("smollm");
      expect((metadata.get("tokenizer.ggml.tokens") as string[]).length).toBe(config.vocabSize);
    });
  }

  test("Gemma 3's scaling is that of the full attention, and its context the scaled one", async () => {
    const { file } = await exported({ model: model("gemma3"), type: "f32" });
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
      const path = modelWithTokenizer(family, join(folder, `odd-${family}`));
      expect(await rejection(exported({ model: path }))).toContain(expected);
    }
  });

  test("Ministral 3's queries grow behind YaRN's context; without YaRN they are refused", async () => {
    const path = model("ministral3");
    const { file } = await exported({ model: path, type: "f32" });
    expect(file.metadata.get("mistral3.attention.temperature_scale")).toBe(Math.fround(0.7));
    expect(file.metadata.get("mistral3.rope.scaling.original_context_length")).toBe(5);
    const rope_parameters = { rope_type: "linear", factor: 2, llama_4_scaling_beta: 0.7, original_max_position_embeddings: 5 };
    changeConfig(path, { rope_parameters });
    expect(await rejection(exported({ model: path }))).toContain("queries that grow with yarn scaling only");
  });

  test("Granite's four factors are settings", async () => {
    const { file } = await exported({ model: model("granite"), type: "f32" });
    for (const [key, value] of Object.entries({
      "attention.scale": 0.17,
      embedding_scale: 5.3,
      residual_scale: 0.43,
      logit_scale: 3.7,
    }))
      expect(file.metadata.get(`granite.${key}`)).toBe(Math.fround(value));
  });

  test("a SmolLM3 that llama.cpp would compute otherwise is refused; a YaRN goes into its settings", async () => {
    const { file } = await exported({ model: model("smollm3"), type: "f32" });
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
      const path = modelWithTokenizer("smollm3", join(folder, `odd-smollm3-${expected.length}`));
      changeConfig(path, changes);
      expect(await rejection(exported({ model: path }))).toContain(expected);
    }
  });

  test("Llama 3's rope scaling is a tensor of divisors, 1 for the fastest wave", async () => {
    const { file } = await exported({ model: model("llama", "llama3"), type: "f32" });
    const factors = file.tensors.get("rope_freqs.weight")!.values();
    const { scaling } = loadConfig(modelFolder("llama")).rope;
    if (scaling.type !== "llama3") throw new Error("the fixture has another scaling");
    expect(factors[0]).toBe(1);
    expect(Math.max(...factors)).toBeLessThanOrEqual(scaling.factor * (1 + 1e-6));
    expect(Array.from(factors).sort((a, b) => a - b)).toEqual([...factors]);
  });

  test("tokenizers are named", async () => {
    for (const [tokenizer, name] of [
      ["llama3", "llama-bpe"],
      ["qwen", "qwen2"],
      ["phi4", "gpt-4o"],
    ] as const) {
      const { file } = await exported({ model: model("smollm2", tokenizer), type: "f16" });
      expect(file.metadata.get("tokenizer.ggml.pre")).toBe(name);
      expect(file.metadata.get("tokenizer.ggml.add_bos_token")).toBe(tokenizer === "llama3");
    }
  });
});

test("what llama.cpp has no place for in these architectures is refused before anything is written", async () => {
  for (const [family, message] of [
    ["olmo2", "olmo2 models have no biases in attention and in the MLP"],
    ["hunyuan", "hunyuan-dense models have no biases"],
    ["ernie45", "ernie4_5 models have no biases"],
    ["exaone4", "exaone4 models are written where all layers have rotary positions and none a sliding window"],
    ["glm", "chatglm models have heads of hidden_size / num_attention_heads features, not 12"],
    ["opt", "GGUF files are not written of OPT, which llama.cpp does not know"],
  ] as const) {
    const target = modelWithTokenizer(family, join(folder, `${family}-refused`));
    expect(await rejection(exported({ model: target, type: "f32" }))).toContain(message);
  }
});

test("llama.cpp was given each small model: the same tokens, probabilities within what it rounds", async () => {
  const { models } = (await Bun.file(join(import.meta.dir, "../golden/gguf/decoder.json")).json()) as {
    models: Record<string, { difference: number; sameTokens: boolean; withAdapter: number }>;
  };
  expect(Object.keys(models).sort()).toEqual(Object.keys(GGUF_DECODERS).sort());
  for (const [name, { difference, sameTokens, withAdapter }] of Object.entries(models)) {
    // Inputs of MXFP4 have 8 bits there, and some families' GELU is from a table in half precision.
    const bound = name.endsWith("mxfp4") ? 0.02 : /^(gemma4|gpt)/.test(name) && name !== "gpt-oss" ? 5e-3 : 2e-5;
    expect(sameTokens).toBe(true);
    expect(Math.max(difference, withAdapter)).toBeLessThan(bound);
  }
});
