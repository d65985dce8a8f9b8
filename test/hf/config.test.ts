import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { inverseFrequencies } from "../../src/load/rotary-tables.ts";
import { checkContext, contextLimit } from "../../src/models/context.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { batchFile, modelFolder } from "../support/golden.ts";
import { temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const BASE = {
  hidden_size: 64,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 96,
  vocab_size: 128,
};
const llama = (extra: object = {}) =>
  parseConfig({ architectures: ["LlamaForCausalLM"], model_type: "llama", ...BASE, ...extra });
const of = (type: string, extra: object = {}) => parseConfig({ model_type: type, ...BASE, ...extra });

describe("families", () => {
  test("Llama with Transformers' defaults", () => {
    expect(llama()).toEqual({
      family: "llama",
      hiddenSize: 64,
      layers: 4,
      heads: 4,
      kvHeads: 2,
      headDim: 16,
      rotaryDim: 16,
      intermediateSize: 96,
      vocabSize: 128,
      rmsNormEps: 1e-6,
      hiddenAct: "silu",
      tieWordEmbeddings: false,
      maxPositions: 2048,
      rope: { theta: 10000, scaling: { type: "default" } },
      rotaryLayers: [],
      slidingWindow: null,
      windowLayers: [],
      windowRope: null,
      queryRope: null,
      attentionScale: 0.25,
      attentionSoftCap: null,
      logitSoftCap: null,
      normOffset: 0,
      embeddingScale: 1,
      roundsEmbeddingScale: false,
      residualScale: 1,
      logitScale: 1,
      modulePrefix: "model.",
      attentionBias: false,
      attentionOutputBias: false,
      mlpBias: false,
      qkNorm: false,
      bosTokenId: 1,
      eosTokenIds: [2],
      padTokenId: null,
      dtype: "f32",
    });
  });

  test("biases, q/k norm and head size per family", () => {
    expect(llama({ attention_bias: true, mlp_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
      mlpBias: true,
    });
    expect(of("qwen2")).toMatchObject({
      attentionBias: true,
      attentionOutputBias: false,
      mlpBias: false,
      qkNorm: false,
      headDim: 16,
    });
    expect(of("qwen3")).toMatchObject({ attentionBias: false, qkNorm: true, headDim: 128 });
    expect(of("qwen3", { head_dim: 32, attention_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
      headDim: 32,
    });
    expect(of("mistral")).toMatchObject({ attentionBias: false, qkNorm: false, slidingWindow: 4096 });
  });

  test("sliding window: Mistral everywhere, Qwen on request and from a layer on, Llama never", () => {
    expect(of("mistral", { sliding_window: null }).slidingWindow).toBeNull();
    expect(of("mistral", { sliding_window: 7 })).toMatchObject({ slidingWindow: 7, windowLayers: [true, true, true, true] });
    expect(llama({ sliding_window: 7 }).slidingWindow).toBeNull();
    expect(of("qwen2", { sliding_window: 7 }).slidingWindow).toBeNull();
    expect(of("qwen2", { sliding_window: 7, use_sliding_window: true, max_window_layers: 2 })).toMatchObject({
      slidingWindow: 7,
      windowLayers: [false, false, true, true],
    });
    expect(of("qwen2", { sliding_window: 7, use_sliding_window: true, max_window_layers: 4 }).slidingWindow).toBeNull();
    const types = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"];
    expect(of("qwen3", { sliding_window: 7, use_sliding_window: true, layer_types: types })).toMatchObject({
      slidingWindow: 7,
      windowLayers: [false, true, true, true],
    });
    const qwen3 = (layer_types: string[]) => of("qwen3", { sliding_window: 7, use_sliding_window: true, layer_types });
    expect(qwen3(types.toReversed()).windowLayers).toEqual([true, true, true, false]);
    expect(userError(() => qwen3(["chunked_attention", ...types]))).toContain('layer_types has "chunked_attention"');
    expect(userError(() => qwen3(types.slice(1)))).toContain("layer_types has 3 entries");
  });

  test("SmolLM3: layers without rotary positions, by list or interval; a window where the layers' types say, or on request", () => {
    const smollm3 = (extra: object = {}) => of("smollm3", { num_hidden_layers: 5, ...extra });
    expect(smollm3()).toMatchObject({
      rotaryLayers: [true, true, true, false, true],
      slidingWindow: null,
      windowLayers: [],
      tieWordEmbeddings: true,
      attentionBias: false,
      mlpBias: false,
      rope: { theta: 2e6, scaling: { type: "default" } },
      maxPositions: 32_768,
      bosTokenId: 128_000,
      eosTokenIds: [128_001],
      padTokenId: 128_004,
    });
    expect(of("smollm3", { num_key_value_heads: undefined }).kvHeads).toBe(4);
    expect(smollm3({ no_rope_layer_interval: 2 }).rotaryLayers).toEqual([true, false, true, false, true]);
    expect(smollm3({ no_rope_layer_interval: 9 }).rotaryLayers).toEqual([true, true, true, true, true]);
    // A 1 says that there are rotary positions; entries beyond the last layer count for nothing.
    expect(smollm3({ no_rope_layers: [0, 1, 1, 0, 1, 0], no_rope_layer_interval: 2 }).rotaryLayers).toEqual([
      false,
      true,
      true,
      false,
      true,
    ]);
    const window = { sliding_window: 7, use_sliding_window: true };
    expect(smollm3({ sliding_window: 7 }).slidingWindow).toBeNull();
    expect(smollm3(window)).toMatchObject({ slidingWindow: 7, windowLayers: [false, false, false, true, false] });
    expect(smollm3({ ...window, no_rope_layers: [1, 1, 1, 1, 1] }).slidingWindow).toBeNull();
    const types = ["sliding_attention", ...Array<string>(4).fill("full_attention")];
    expect(smollm3({ sliding_window: 7, layer_types: types }).windowLayers).toEqual([true, false, false, false, false]);
    expect(smollm3({ rope_theta: null, attention_bias: true, mlp_bias: true })).toMatchObject({
      rope: { theta: 2e6 },
      attentionOutputBias: true,
      mlpBias: true,
    });
    for (const [extra, message] of [
      [{ no_rope_layers: [1, 1] }, "no_rope_layers has 2 entries; expected one for each of 5 layers"],
      [{ no_rope_layers: [1, 1, 1, 2, 1] }, '"no_rope_layers.3" is 2'],
      [{ no_rope_layer_interval: 0 }, '"no_rope_layer_interval" is 0'],
      [{ layer_types: types }, 'layer_types has "sliding_attention", but there is no sliding_window'],
      [{ sliding_window: 7, layer_types: types.slice(1) }, "layer_types has 4 entries"],
    ] as const)
      expect(userError(() => smollm3(extra))).toContain(message);
  });

  test("Ministral and CWM: windows by type of layer; CWM's usual pattern, scaling and end ids", () => {
    const types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"];
    expect(of("ministral")).toMatchObject({ slidingWindow: 4096, windowLayers: [true, true, true, true], attentionBias: false });
    expect(of("ministral", { sliding_window: 7, layer_types: types })).toMatchObject({
      slidingWindow: 7,
      windowLayers: [true, false, true, false],
    });
    expect(of("ministral", { sliding_window: null }).slidingWindow).toBeNull();
    const scaling = { type: "llama3", factor: 16, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 };
    expect(of("cwm", { num_hidden_layers: 6, mlp_bias: true })).toMatchObject({
      slidingWindow: 8192,
      windowLayers: [false, true, true, true, false, true],
      rope: { theta: 1e6, scaling },
      headDim: 128,
      eosTokenIds: [128_001, 128_008, 128_009],
      bosTokenId: 128_000,
      mlpBias: true,
      attentionBias: false,
      rmsNormEps: 1e-5,
    });
    expect(of("cwm", { rope_theta: 5 }).rope.theta).toBe(1e6);
    expect(of("cwm", { rope_theta: 5, rope_scaling: { type: "linear", factor: 2 } }).rope).toEqual({
      theta: 5,
      scaling: { type: "linear", factor: 2 },
    });
    expect(of("cwm", { eos_token_id: 3 }).eosTokenIds).toEqual([3]);
    for (const type of ["ministral", "cwm"])
      expect(userError(() => of(type, { sliding_window: null, layer_types: types }))).toContain("there is no sliding_window");
  });

  test("Ministral 3: queries that grow, its usual scaling, text parts of either family in one wrapper", () => {
    const usual = of("ministral3", { max_position_embeddings: 262_144 });
    const scaling = { type: "yarn", factor: 16, originalMaxPositions: 16_384, mscale: 1, mscaleAllDim: 1 };
    expect(usual).toMatchObject({
      rope: { theta: 1e6, scaling },
      queryRope: { theta: 1e6, scaling, growth: { beta: 0.1, every: 16_384 } },
      headDim: 128,
      slidingWindow: null,
      rmsNormEps: 1e-5,
      padTokenId: 11,
      attentionBias: false,
    });
    expect(usual.rope.growth).toBeUndefined();
    expect(contextLimit(usual)).toBe(262_144);
    const plain = of("ministral3", {
      head_dim: null,
      rope_parameters: { rope_type: "default", rope_theta: 9 },
      sliding_window: 7,
    });
    expect(plain).toMatchObject({
      queryRope: null,
      rope: { theta: 9, scaling: { type: "default" } },
      headDim: 16,
      slidingWindow: 7,
    });
    const lacking = { rope_parameters: { rope_type: "default", llama_4_scaling_beta: 0.1 } };
    expect(userError(() => of("ministral3", lacking))).toContain("needs original_max_position_embeddings");
    const wrapped = (model_type: string, outer: object = {}, text: object = {}) =>
      parseConfig({ model_type: "mistral3", text_config: { model_type, ...BASE, ...text }, ...outer });
    expect(wrapped("mistral", {}, { sliding_window: null })).toMatchObject({ family: "mistral", slidingWindow: null });
    expect(wrapped("ministral3")).toMatchObject({
      family: "ministral3",
      modulePrefix: "model.language_model.",
      tieWordEmbeddings: true,
    });
    expect(wrapped("ministral3", {}, { tie_word_embeddings: false }).tieWordEmbeddings).toBe(false);
    expect(wrapped("ministral3", { tie_word_embeddings: false }, { tie_word_embeddings: true }).tieWordEmbeddings).toBe(false);
    expect(userError(() => wrapped("mistral4"))).toContain('"mistral3" is not supported');
  });

  test("Seed-OSS: biases on three of four projections, another flag for the fourth", () => {
    const biases = ({ attentionBias, attentionOutputBias, mlpBias }: ReturnType<typeof of>) => [
      attentionBias,
      attentionOutputBias,
      mlpBias,
    ];
    expect(biases(of("seed_oss"))).toEqual([true, false, false]);
    expect(biases(of("seed_oss", { attention_bias: false, attention_out_bias: true, mlp_bias: true }))).toEqual([
      false,
      true,
      true,
    ]);
    expect(of("seed_oss")).toMatchObject({ headDim: 128, maxPositions: 524_288, bosTokenId: 0, eosTokenIds: [2], padTokenId: 1 });
    expect(of("seed_oss", { head_dim: null }).headDim).toBe(16);
    expect(userError(() => of("seed_oss", { attention_out_bias: "yes" }))).toContain('"attention_out_bias" is "yes"');
  });

  test("Granite: four factors, each of which may be left out", () => {
    expect(of("granite")).toMatchObject({ attentionScale: 1, embeddingScale: 1, residualScale: 1, logitScale: 1, headDim: 16 });
    const factors = { embedding_multiplier: 12, attention_multiplier: 0.0625, residual_multiplier: 0.22, logits_scaling: 8 };
    expect(of("granite", { ...factors, attention_bias: true, mlp_bias: true })).toMatchObject({
      embeddingScale: 12,
      roundsEmbeddingScale: false,
      attentionScale: 0.0625,
      residualScale: 0.22,
      logitScale: 0.125,
      attentionOutputBias: true,
      mlpBias: true,
    });
    expect(userError(() => of("granite", { logits_scaling: 0 }))).toContain('"logits_scaling" is 0');
    // Only this family knows the keys.
    expect(llama({ ...factors })).toMatchObject({ embeddingScale: 1, attentionScale: 0.25, residualScale: 1, logitScale: 1 });
  });

  test("Gemma: the activation that its files call gelu, norms and embeddings as in its successors, no windows", () => {
    expect(of("gemma", { hidden_act: "gelu", sliding_window: 7 })).toMatchObject({
      hiddenAct: "gelu_pytorch_tanh",
      normOffset: 1,
      embeddingScale: 8,
      attentionScale: 1 / 16,
      headDim: 256,
      tieWordEmbeddings: true,
      slidingWindow: null,
      attentionSoftCap: null,
      bosTokenId: 2,
      eosTokenIds: [1],
      padTokenId: 0,
    });
    expect(of("gemma").hiddenAct).toBe("gelu_pytorch_tanh");
    expect(userError(() => of("gemma", { use_bidirectional_attention: true }))).toContain("use_bidirectional_attention");
  });

  test("Gemma 2: windows in every other layer, soft caps, its own scale of scores, Transformers' defaults", () => {
    expect(of("gemma2", { num_hidden_layers: 3, query_pre_attn_scalar: 64 })).toMatchObject({
      headDim: 256,
      kvHeads: 2,
      slidingWindow: 4096,
      windowLayers: [true, false, true],
      windowRope: null,
      attentionScale: 0.125,
      attentionSoftCap: 50,
      logitSoftCap: 30,
      normOffset: 1,
      embeddingScale: 8,
      hiddenAct: "gelu_pytorch_tanh",
      tieWordEmbeddings: true,
      qkNorm: false,
      maxPositions: 8192,
      eosTokenIds: [1],
      bosTokenId: 2,
      padTokenId: 0,
    });
    const off = of("gemma2", { attn_logit_softcapping: null, final_logit_softcapping: null, sliding_window: null });
    expect(off).toMatchObject({ attentionSoftCap: null, logitSoftCap: null, slidingWindow: null, windowLayers: [] });
    expect(of("gemma2", { hidden_act: "silu" }).hiddenAct).toBe("gelu_pytorch_tanh");
    expect(userError(() => of("gemma2", { use_bidirectional_attention: true }))).toContain("use_bidirectional_attention");
    expect(userError(() => of("gemma2", { final_logit_softcapping: 0 }))).toContain('"final_logit_softcapping" is 0');
  });

  test("Gemma 3: five windows for each full attention, rotary positions of their own, old keys and new", () => {
    const old = of("gemma3_text", {
      num_hidden_layers: 7,
      rope_theta: 5e5,
      rope_local_base_freq: 2e4,
      rope_scaling: { rope_type: "linear", factor: 8 },
    });
    expect(old).toMatchObject({
      qkNorm: true,
      windowLayers: [true, true, true, true, true, false, true],
      rope: { theta: 5e5, scaling: { type: "linear", factor: 8 } },
      windowRope: { theta: 2e4, scaling: { type: "default" } },
      attentionSoftCap: null,
      logitSoftCap: null,
    });
    // Its context is the one that the scaling gives.
    expect(contextLimit(old)).toBe(131_072);
    const types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"];
    const recent = of("gemma3_text", {
      layer_types: types,
      rope_parameters: {
        full_attention: { rope_type: "linear", factor: 8, rope_theta: 5e5 },
        sliding_attention: { rope_type: "default", rope_theta: 2e4 },
      },
    });
    expect(recent).toMatchObject({ rope: old.rope, windowRope: old.windowRope, windowLayers: [true, false, false, true] });
    expect(of("gemma3_text")).toMatchObject({ rope: { theta: 1e6 }, windowRope: { theta: 1e4 } });
    expect(of("gemma3_text", { sliding_window_pattern: 2 }).windowLayers).toEqual([true, false, true, false]);
  });

  test("Gemma 3 with images: the text part, its defaults, what the outer part says", () => {
    const config = parseConfig({
      architectures: ["Gemma3ForConditionalGeneration"],
      model_type: "gemma3",
      eos_token_id: [1, 106],
      torch_dtype: "bfloat16",
      text_config: { hidden_size: 2560, intermediate_size: 10_240, num_hidden_layers: 34, sliding_window: 1024 },
      vision_config: {},
    });
    expect(config).toMatchObject({
      family: "gemma3_text",
      modulePrefix: "model.language_model.",
      heads: 8,
      kvHeads: 4,
      headDim: 256,
      vocabSize: 262_208,
      attentionScale: 0.0625,
      eosTokenIds: [1, 106],
      dtype: "bf16",
    });
    expect(of("gemma3_text").modulePrefix).toBe("model.");
    expect(userError(() => parseConfig({ model_type: "gemma3" }))).toContain('"text_config" is');
    const bad = { model_type: "gemma3", text_config: { num_hidden_layers: "x" } };
    expect(userError(() => parseConfig(bad))).toContain('"num_hidden_layers" is "x"');
  });

  test("Qwen with images: the text part, nested or flat, its defaults, rotary positions in one direction", () => {
    const rope_scaling = { type: "mrope", mrope_section: [16, 24, 24] };
    const flat = of("qwen2_5_vl", { rope_scaling, rope_theta: 5e5, use_sliding_window: false, eos_token_id: 9 });
    expect(flat).toMatchObject({
      family: "qwen2",
      modulePrefix: "model.language_model.",
      rope: { theta: 5e5, scaling: { type: "default" } },
      attentionBias: true,
      attentionOutputBias: false,
      slidingWindow: null,
      rmsNormEps: 1e-5,
      eosTokenIds: [9],
      bosTokenId: 151_643,
      tieWordEmbeddings: false,
    });
    const nested = (type: string, text: object = {}, outer: object = {}) =>
      parseConfig({ model_type: type, text_config: { ...BASE, ...text }, vision_config: {}, ...outer });
    expect(nested("qwen2_5_vl", { rope_parameters: { ...rope_scaling, rope_theta: 5e5 } }, { eos_token_id: 9 })).toEqual(flat);
    // Versions differ in where they say it.
    expect(nested("qwen2_5_vl", { tie_word_embeddings: true }).tieWordEmbeddings).toBe(true);
    expect(nested("qwen2_5_vl", {}, { tie_word_embeddings: true }).tieWordEmbeddings).toBe(true);
    expect(nested("qwen3_vl", { sliding_window: 7, use_sliding_window: true }, { torch_dtype: "bfloat16" })).toMatchObject({
      family: "qwen3",
      modulePrefix: "model.language_model.",
      rope: { theta: 5e5, scaling: { type: "default" } },
      maxPositions: 128_000,
      headDim: 128,
      qkNorm: true,
      slidingWindow: null,
      tieWordEmbeddings: false,
      dtype: "bf16",
    });
    expect(nested("qwen3_vl", { tie_word_embeddings: true }).tieWordEmbeddings).toBe(false);
    expect(userError(() => parseConfig({ model_type: "qwen3_vl" }))).toContain(
      '"text_config" is nothing; a qwen3_vl model needs',
    );
    expect(userError(() => nested("qwen3_vl", {}, { quantization_config: {} }))).toContain("quantised");
  });

  test("Phi-3: a window everywhere or nowhere, part of a head rotated, LongRoPE by all its names", () => {
    const factors = { short_factor: Array(6).fill(1), long_factor: Array(6).fill(3) };
    const mini = of("phi3", { partial_rotary_factor: 0.75, rope_scaling: { type: "longrope", ...factors } });
    expect(mini).toMatchObject({
      headDim: 16,
      rotaryDim: 12,
      slidingWindow: null,
      rmsNormEps: 1e-5,
      attentionBias: false,
      eosTokenIds: [32_000],
      rope: { scaling: { type: "longrope", originalMaxPositions: 4096, factor: 1, attentionFactor: null } },
    });
    const longrope = (extra: object) => of("phi3", { partial_rotary_factor: 0.75, max_position_embeddings: 131_072, ...extra });
    const expected = longrope({ rope_scaling: { type: "longrope", ...factors } });
    expect(expected.rope.scaling).toMatchObject({ factor: 32 });
    expect(contextLimit(expected)).toBe(131_072);
    for (const type of ["su", "yarn"]) expect(longrope({ rope_scaling: { type, ...factors } })).toEqual(expected);
    const parameters = { rope_type: "longrope", ...factors, partial_rotary_factor: 0.75 };
    expect(of("phi3", { max_position_embeddings: 131_072, rope_parameters: parameters })).toEqual(expected);
    // The model's own key wins over the one in the scaling.
    const scaling = { ...parameters, original_max_position_embeddings: 64 };
    expect(longrope({ original_max_position_embeddings: 8192, rope_scaling: scaling }).rope.scaling).toMatchObject({
      factor: 16,
    });
    expect(of("phi3", { sliding_window: 7 })).toMatchObject({ slidingWindow: 7, windowLayers: [true, true, true, true] });
    for (const [extra, message] of [
      [{ rope_scaling: { type: "longrope", ...factors } }, '"short_factor" has 6 entries; expected 8'],
      [{ rope_scaling: { type: "longrope", short_factor: Array(8).fill(1) } }, 'needs a list of numbers "long_factor"'],
      [{ partial_rotary_factor: 0.2 }, "rotates 3 of 16 features"],
      [{ architectures: ["Phi3VForCausalLM"] }, '"Phi3VForCausalLM" is not supported; expected Phi3ForCausalLM'],
      [{ model_type: "phi3small", architectures: ["Phi3SmallForCausalLM"] }, '"Phi3SmallForCausalLM" is not supported'],
    ] as const)
      expect(userError(() => of("phi3", extra))).toContain(message);
  });

  test("InternLM2 and 3: the flags of their biases, their defaults; variants that do not generate text are refused", () => {
    const biases = ({ attentionBias, attentionOutputBias, mlpBias }: ReturnType<typeof of>) => [
      attentionBias,
      attentionOutputBias,
      mlpBias,
    ];
    expect(biases(of("internlm2"))).toEqual([true, true, false]);
    expect(biases(of("internlm2", { bias: false }))).toEqual([false, false, false]);
    expect(of("internlm2", { sliding_window: 7, rope_scaling: { type: "dynamic", factor: 2 } })).toMatchObject({
      slidingWindow: null,
      headDim: 16,
      rope: { scaling: { type: "dynamic" } },
    });
    expect(biases(of("internlm3"))).toEqual([false, false, false]);
    expect(biases(of("internlm3", { qkv_bias: true }))).toEqual([true, false, false]);
    expect(biases(of("internlm3", { bias: true }))).toEqual([false, true, true]);
    expect(biases(of("internlm3", { attention_bias: true, mlp_bias: true }))).toEqual([true, true, true]);
    expect(of("internlm3")).toMatchObject({ headDim: 128, maxPositions: 32_768, rmsNormEps: 1e-5 });
    expect(userError(() => of("internlm2", { architectures: ["InternLM2ForRewardModel"] }))).toContain(
      '"InternLM2ForRewardModel" is not supported; expected InternLM2ForCausalLM',
    );
    expect(userError(() => of("internlm"))).toContain('"internlm" is not supported; supported are Llama');
  });

  test("the class without a head is one of the family", () => {
    expect(of("qwen3", { architectures: ["Qwen3Model"] }).family).toBe("qwen3");
    expect(parseConfig({ architectures: ["MistralModel"], ...BASE }).family).toBe("mistral");
    expect(of("gemma3_text", { architectures: ["Gemma3TextModel"] }).family).toBe("gemma3_text");
    expect(of("internlm3", { architectures: ["LlamaForCausalLM"] }).family).toBe("internlm3");
    expect(parseConfig({ architectures: ["LlamaForCausalLM"], ...BASE }).family).toBe("llama");
    expect(userError(() => of("internlm2", { architectures: ["LlamaForCausalLM"] }))).toContain("expected InternLM2ForCausalLM");
    for (const name of ["Gemma3Model", "Qwen2Model"])
      expect(userError(() => of("gemma3_text", { architectures: [name] }))).toContain(`"${name}" is not supported`);
  });

  test("end ids come from both files, dtype under either key, null biases of the family", () => {
    const config = parseConfig(
      { model_type: "llama", ...BASE, eos_token_id: [5, 6], torch_dtype: "bfloat16", pad_token_id: -1 },
      "c",
      { eos_token_id: 7 },
    );
    expect(config).toMatchObject({ eosTokenIds: [5, 6, 7], dtype: "bf16", padTokenId: null });
    expect(llama({ dtype: "float16", eos_token_id: null })).toMatchObject({ dtype: "f16", eosTokenIds: [] });
  });

  test("reads a folder", () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "config.json"), JSON.stringify({ model_type: "qwen2", ...BASE, eos_token_id: 1 }));
    writeFileSync(join(folder, "generation_config.json"), JSON.stringify({ eos_token_id: [1, 3] }));
    expect(loadConfig(folder)).toMatchObject({ family: "qwen2", eosTokenIds: [1, 3] });
    expect(userError(() => loadConfig(join(folder, "none")))).toContain("config.json: no such file");
  });
});

describe("rotary settings", () => {
  const llama3 = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64,
  };

  test("rope_theta with rope_scaling and the newer rope_parameters mean the same", () => {
    const old = llama({ rope_theta: 5e5, rope_scaling: llama3 }).rope;
    expect(old).toEqual(llama({ rope_parameters: { ...llama3, rope_theta: 5e5 } }).rope);
    expect(old.scaling).toEqual({ type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 });
    expect(llama({ rope_scaling: { type: "linear", factor: 2 } }).rope.scaling).toEqual({ type: "linear", factor: 2 });
  });

  test("a context longer than the model's is refused, a stretched one allowed", () => {
    expect(contextLimit(llama({ max_position_embeddings: 100 }))).toBe(100);
    expect(contextLimit(llama({ max_position_embeddings: 100, rope_scaling: { type: "linear", factor: 2.5 } }))).toBe(250);
    expect(contextLimit(llama({ max_position_embeddings: 100, rope_scaling: llama3 }))).toBe(100);
    checkContext(llama({ max_position_embeddings: 100 }), 100);
    expect(userError(() => checkContext(llama({ max_position_embeddings: 100 }), 101))).toBe(
      "sequence length 101 is longer than the model's context of 100 tokens; choose 100 or less",
    );
  });

  test("dynamic NTK is the same as none up to the context, and refused beyond", () => {
    const dynamic = llama({ max_position_embeddings: 100, rope_scaling: { rope_type: "dynamic", factor: 4 } });
    expect(contextLimit(dynamic)).toBe(100);
    expect(inverseFrequencies(dynamic)).toEqual(inverseFrequencies(llama({ max_position_embeddings: 100 })));
    checkContext(dynamic, 100);
    expect(userError(() => checkContext(dynamic, 101))).toBe(
      "sequence length 101 is longer than the model's context of 100 tokens (dynamic rotary positions, which would change with every length beyond it, are not supported); choose 100 or less",
    );
    // A batch for `step`: each example by its own length.
    const model = loadConfig(modelFolder("internlm2"));
    const longest = Math.max(...readStepBatch(batchFile("internlm2", "packed"), model).positions) + 1;
    const read = (maxPositions: number) => readStepBatch(batchFile("internlm2", "packed"), { ...model, maxPositions });
    expect(read(longest).positions.length).toBeGreaterThan(longest);
    expect(userError(() => read(longest - 1))).toContain("dynamic rotary positions");
  });
});

describe("bad values", () => {
  test("each says what was expected, what came and where", () => {
    const cases: [object, string][] = [
      [
        { model_type: "mamba", architectures: ["MambaForCausalLM"] },
        'config.json: architecture "MambaForCausalLM" is not supported; supported are Llama (SmolLM2 included), SmolLM3, CWM, Seed-OSS, Granite 3, Mistral, Ministral, Ministral 3, Qwen2, Qwen2.5, Qwen2.5-VL, Qwen3, Qwen3-VL, Gemma, CodeGemma, Gemma 2, Gemma 3, Phi-3, Phi-3.5, Phi-4-mini, InternLM2, InternLM2.5 and InternLM3',
      ],
      [{ model_type: undefined, architectures: undefined }, "architecture nothing is not supported"],
      [{ architectures: ["LlamaForSequenceClassification"] }, "expected LlamaForCausalLM"],
      [{ hidden_size: "64" }, '"hidden_size" is "64"'],
      [{ hidden_size: undefined }, '"hidden_size" is missing'],
      [{ hidden_size: 65 }, "not a multiple of num_attention_heads"],
      [{ num_key_value_heads: 3 }, "not a multiple of num_key_value_heads (3)"],
      [{ head_dim: 15 }, "even number"],
      [{ vocab_size: 0 }, '"vocab_size" is 0'],
      [{ num_hidden_layers: 1e300 }, '"num_hidden_layers" is 1e+300'],
      [{ hidden_act: "relu" }, 'hidden_act "relu" is not supported'],
      [{ hidden_act: "constructor" }, "is not supported"],
      [{ rope_scaling: { rope_type: "spiral" } }, 'rope_type "spiral" is not supported; expected one of default, linear'],
      [{ rope_scaling: { rope_type: "linear" } }, 'needs a number "factor"'],
      [{ rope_scaling: { type: "linear", factor: 0 } }, '"rope_scaling.factor" is 0'],
      [{ partial_rotary_factor: 0.5 }, "partial_rotary_factor 0.5"],
      [{ quantization_config: { bits: 4 } }, "quantised"],
      [{ eos_token_id: "</s>" }, '"eos_token_id" is "</s>"'],
    ];
    for (const [extra, expected] of cases) expect(userError(() => llama(extra))).toContain(expected);
  });
});
