import { expect, setDefaultTimeout, test } from "bun:test";
import type { ModelConfig } from "../../src/models/config.ts";
import { contextLimit } from "../../src/models/context.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { BASE, llama, ofType } from "../support/model-config.ts";
import { userError } from "./temp.ts";

setDefaultTimeout(120_000);

const biases = ({ attentionBias, attentionOutputBias, mlpBias }: ModelConfig) => [attentionBias, attentionOutputBias, mlpBias];

test("SmolLM3: layers without rotary positions, by list or interval; a window where the layers' types say, or on request", () => {
  const smollm3 = (extra: object = {}) => ofType("smollm3", { num_hidden_layers: 5, ...extra });
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
  expect(ofType("smollm3", { num_key_value_heads: undefined }).kvHeads).toBe(4);
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
  expect(ofType("ministral")).toMatchObject({
    slidingWindow: 4096,
    windowLayers: [true, true, true, true],
    attentionBias: false,
  });
  expect(ofType("ministral", { sliding_window: 7, layer_types: types })).toMatchObject({
    slidingWindow: 7,
    windowLayers: [true, false, true, false],
  });
  expect(ofType("ministral", { sliding_window: null }).slidingWindow).toBeNull();
  const scaling = { type: "llama3", factor: 16, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 };
  expect(ofType("cwm", { num_hidden_layers: 6, mlp_bias: true })).toMatchObject({
    slidingWindow: 8192,
    windowLayers: [false, true, true, true, false, true],
    rope: { theta: 1e6, scaling },
    headDim: 128,
    eosTokenIds: [128_001, 128_008, 128_009],
    bosTokenId: 128_000,
    mlpBias: true,
    attentionBias: false,
    normEps: 1e-5,
  });
  expect(ofType("cwm", { rope_theta: 5 }).rope.theta).toBe(1e6);
  expect(ofType("cwm", { rope_theta: 5, rope_scaling: { type: "linear", factor: 2 } }).rope).toEqual({
    theta: 5,
    scaling: { type: "linear", factor: 2 },
  });
  expect(ofType("cwm", { eos_token_id: 3 }).eosTokenIds).toEqual([3]);
  for (const type of ["ministral", "cwm"])
    expect(userError(() => ofType(type, { sliding_window: null, layer_types: types }))).toContain("there is no sliding_window");
});

test("Ministral 3: queries that grow, its usual scaling, text parts of either family in one wrapper", () => {
  const usual = ofType("ministral3", { max_position_embeddings: 262_144 });
  const scaling = { type: "yarn", factor: 16, originalMaxPositions: 16_384, mscale: 1, mscaleAllDim: 1 };
  expect(usual).toMatchObject({
    rope: { theta: 1e6, scaling },
    queryRope: { theta: 1e6, scaling, growth: { beta: 0.1, every: 16_384 } },
    headDim: 128,
    slidingWindow: null,
    normEps: 1e-5,
    padTokenId: 11,
    attentionBias: false,
  });
  expect(usual.rope.growth).toBeUndefined();
  expect(contextLimit(usual)).toBe(262_144);
  const plain = ofType("ministral3", {
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
  expect(userError(() => ofType("ministral3", lacking))).toContain("needs original_max_position_embeddings");
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
  expect(biases(ofType("seed_oss"))).toEqual([true, false, false]);
  expect(biases(ofType("seed_oss", { attention_bias: false, attention_out_bias: true, mlp_bias: true }))).toEqual([
    false,
    true,
    true,
  ]);
  expect(ofType("seed_oss")).toMatchObject({
    headDim: 128,
    maxPositions: 524_288,
    bosTokenId: 0,
    eosTokenIds: [2],
    padTokenId: 1,
  });
  expect(ofType("seed_oss", { head_dim: null }).headDim).toBe(16);
  expect(userError(() => ofType("seed_oss", { attention_out_bias: "yes" }))).toContain('"attention_out_bias" is "yes"');
});

test("Granite: four factors, each of which may be left out", () => {
  expect(ofType("granite")).toMatchObject({ attentionScale: 1, embeddingScale: 1, residualScale: 1, logitScale: 1, headDim: 16 });
  const factors = { embedding_multiplier: 12, attention_multiplier: 0.0625, residual_multiplier: 0.22, logits_scaling: 8 };
  expect(ofType("granite", { ...factors, attention_bias: true, mlp_bias: true })).toMatchObject({
    embeddingScale: 12,
    roundsEmbeddingScale: false,
    attentionScale: 0.0625,
    residualScale: 0.22,
    logitScale: 0.125,
    attentionOutputBias: true,
    mlpBias: true,
  });
  expect(userError(() => ofType("granite", { logits_scaling: 0 }))).toContain('"logits_scaling" is 0');
  // Only this family knows the keys.
  expect(llama({ ...factors })).toMatchObject({ embeddingScale: 1, attentionScale: 0.25, residualScale: 1, logitScale: 1 });
});

test("LFM2: layers that convolve, by type or by what is not listed; the MLP's width is made of four keys", () => {
  const lfm2 = (extra: object = {}) => ofType("lfm2", { num_hidden_layers: 4, num_key_value_heads: undefined, ...extra });
  expect(lfm2({ num_attention_heads: 8 })).toMatchObject({
    convolution: null,
    kvHeads: 8,
    qkNorm: "heads",
    normEps: 1e-5,
    tieWordEmbeddings: true,
    rope: { theta: 1e6, scaling: { type: "default" } },
    maxPositions: 128_000,
    bosTokenId: 1,
    eosTokenIds: [2],
    padTokenId: 0,
  });
  const plain = { num_key_value_heads: 2 };
  const layers = [true, false, true, true];
  const types = layers.map((convolves) => (convolves ? "conv" : "full_attention"));
  expect(lfm2({ ...plain, full_attn_idxs: [1, 9] }).convolution).toEqual({ width: 3, bias: false, layers });
  expect(lfm2({ ...plain, layer_types: types, conv_L_cache: 4, conv_bias: true }).convolution).toEqual({
    width: 4,
    bias: true,
    layers,
  });
  // Of LFM2-350M: 2/3 of 6656 is 4437, the next multiple of 256 is 4608.
  const width = (extra: object) => lfm2({ ...plain, ...extra }).intermediateSize;
  expect(width({ block_ff_dim: 6656, intermediate_size: 5 })).toBe(4608);
  expect(width({ intermediate_size: 6656, block_ffn_dim_multiplier: 1.1, block_multiple_of: 10 })).toBe(4880);
  expect(width({ intermediate_size: 6656, block_ffn_dim_multiplier: null })).toBe(4437);
  expect(width({ intermediate_size: 6656, block_auto_adjust_ff_dim: false })).toBe(6656);
  expect(lfm2({ ...plain, tie_embedding: false, tie_word_embeddings: true }).tieWordEmbeddings).toBe(false);
  expect(lfm2({ ...plain, norm_eps: 1e-3, rms_norm_eps: 1 }).normEps).toBe(1e-3);
  expect(userError(() => lfm2({ ...plain, layer_types: ["conv"] }))).toContain(
    "layer_types has 1 entries; expected conv or full_attention",
  );
  expect(userError(() => lfm2({ ...plain, layer_types: [...types.slice(1), "mamba"] }))).toContain('layer_types has "mamba"');
  expect(userError(() => lfm2({ ...plain, conv_L_cache: 0 }))).toContain('"conv_L_cache" is 0');
});

test("Qwen3.5: layers with a state, by type or three of four, in a wrapper or alone; heads that do not fit are refused", () => {
  const qwen = (extra: object = {}) => ofType("qwen3_5_text", { num_key_value_heads: undefined, ...extra });
  expect(qwen({ num_attention_heads: 8 })).toMatchObject({
    kvHeads: 4,
    headDim: 256,
    rotaryDim: 64,
    qkNorm: "heads",
    normOffset: 1,
    attentionGate: true,
    maxPositions: 32_768,
    delta: { keyHeads: 16, heads: 32, keyDim: 128, valueDim: 128, width: 4, layers: [true, true, true, false] },
  });
  const plain = { num_key_value_heads: 2, head_dim: 16 };
  expect(qwen({ ...plain, full_attention_interval: 2 }).delta!.layers).toEqual([true, false, true, false]);
  const layers = [false, true, true, false];
  const types = layers.map((isLinear) => (isLinear ? "linear_attention" : "full_attention"));
  expect(qwen({ ...plain, layer_types: types, linear_conv_kernel_dim: 2 }).delta).toMatchObject({ width: 2, layers });
  expect(qwen({ ...plain, layer_types: types.map(() => "full_attention") }).delta).toBeNull();
  expect(qwen({ ...plain, rope_parameters: { rope_theta: 9, partial_rotary_factor: 0.5 } })).toMatchObject({
    rotaryDim: 8,
    rope: { theta: 9 },
  });
  const wrapper = { model_type: "qwen3_5", text_config: { ...BASE, ...plain }, tie_word_embeddings: true };
  expect(parseConfig(wrapper)).toMatchObject({
    family: "qwen3_5_text",
    modulePrefix: "model.language_model.",
    tieWordEmbeddings: true,
    rotaryDim: 4,
  });
  const refused = (extra: object) => userError(() => qwen({ ...plain, ...extra }));
  expect(refused({ layer_types: ["linear_attention"] })).toContain(
    "layer_types has 1 entries; expected linear_attention or full_attention",
  );
  expect(refused({ layer_types: [...types.slice(1), "mamba"] })).toContain('layer_types has "mamba"');
  expect(refused({ linear_num_key_heads: 3 })).toContain(
    "linear_num_value_heads (32) is not a multiple of linear_num_key_heads (3)",
  );
  expect(refused({ linear_key_head_dim: 257 })).toContain(
    "linear_key_head_dim 257 and linear_value_head_dim 128 are not supported",
  );
  expect(refused({ linear_conv_kernel_dim: 0 })).toContain('"linear_conv_kernel_dim" is 0');
});

test("Qwen with images: the text part, nested or flat, its defaults, rotary positions in one direction", () => {
  const rope_scaling = { type: "mrope", mrope_section: [16, 24, 24] };
  const flat = ofType("qwen2_5_vl", { rope_scaling, rope_theta: 5e5, use_sliding_window: false, eos_token_id: 9 });
  expect(flat).toMatchObject({
    family: "qwen2",
    modulePrefix: "model.language_model.",
    rope: { theta: 5e5, scaling: { type: "default" } },
    attentionBias: true,
    attentionOutputBias: false,
    slidingWindow: null,
    normEps: 1e-5,
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
    qkNorm: "heads",
    slidingWindow: null,
    tieWordEmbeddings: false,
    dtype: "bf16",
  });
  expect(nested("qwen3_vl", { tie_word_embeddings: true }).tieWordEmbeddings).toBe(false);
  expect(userError(() => parseConfig({ model_type: "qwen3_vl" }))).toContain('"text_config" is nothing; a qwen3_vl model needs');
  expect(userError(() => nested("qwen3_vl", {}, { quantization_config: {} }))).toContain("quantised");
});

test("Phi-3: a window everywhere or nowhere, part of a head rotated, LongRoPE by all its names", () => {
  const factors = { short_factor: Array(6).fill(1), long_factor: Array(6).fill(3) };
  const mini = ofType("phi3", { partial_rotary_factor: 0.75, rope_scaling: { type: "longrope", ...factors } });
  expect(mini).toMatchObject({
    headDim: 16,
    rotaryDim: 12,
    slidingWindow: null,
    normEps: 1e-5,
    attentionBias: false,
    eosTokenIds: [32_000],
    rope: { scaling: { type: "longrope", originalMaxPositions: 4096, factor: 1, attentionFactor: null } },
  });
  const longrope = (extra: object) => ofType("phi3", { partial_rotary_factor: 0.75, max_position_embeddings: 131_072, ...extra });
  const expected = longrope({ rope_scaling: { type: "longrope", ...factors } });
  expect(expected.rope.scaling).toMatchObject({ factor: 32 });
  expect(contextLimit(expected)).toBe(131_072);
  for (const type of ["su", "yarn"]) expect(longrope({ rope_scaling: { type, ...factors } })).toEqual(expected);
  const parameters = { rope_type: "longrope", ...factors, partial_rotary_factor: 0.75 };
  expect(ofType("phi3", { max_position_embeddings: 131_072, rope_parameters: parameters })).toEqual(expected);
  // The model's own key wins over the one in the scaling.
  const scaling = { ...parameters, original_max_position_embeddings: 64 };
  expect(longrope({ original_max_position_embeddings: 8192, rope_scaling: scaling }).rope.scaling).toMatchObject({
    factor: 16,
  });
  expect(ofType("phi3", { sliding_window: 7 })).toMatchObject({ slidingWindow: 7, windowLayers: [true, true, true, true] });
  for (const [extra, message] of [
    [{ rope_scaling: { type: "longrope", ...factors } }, '"short_factor" has 6 entries; expected 8'],
    [{ rope_scaling: { type: "longrope", short_factor: Array(8).fill(1) } }, 'needs a list of numbers "long_factor"'],
    [{ partial_rotary_factor: 0.2 }, "rotates 3 of 16 features"],
    [{ architectures: ["Phi3VForCausalLM"] }, '"Phi3VForCausalLM" is not supported; expected Phi3ForCausalLM'],
    [{ model_type: "phi3small", architectures: ["Phi3SmallForCausalLM"] }, '"Phi3SmallForCausalLM" is not supported'],
  ] as const)
    expect(userError(() => ofType("phi3", extra))).toContain(message);
});

test("InternLM2 and 3: the flags of their biases, their defaults; variants that do not generate text are refused", () => {
  expect(biases(ofType("internlm2"))).toEqual([true, true, false]);
  expect(biases(ofType("internlm2", { bias: false }))).toEqual([false, false, false]);
  expect(ofType("internlm2", { sliding_window: 7, rope_scaling: { type: "dynamic", factor: 2 } })).toMatchObject({
    slidingWindow: null,
    headDim: 16,
    rope: { scaling: { type: "dynamic" } },
  });
  expect(biases(ofType("internlm3"))).toEqual([false, false, false]);
  expect(biases(ofType("internlm3", { qkv_bias: true }))).toEqual([true, false, false]);
  expect(biases(ofType("internlm3", { bias: true }))).toEqual([false, true, true]);
  expect(biases(ofType("internlm3", { attention_bias: true, mlp_bias: true }))).toEqual([true, true, true]);
  expect(ofType("internlm3")).toMatchObject({ headDim: 128, maxPositions: 32_768, normEps: 1e-5 });
  expect(userError(() => ofType("internlm2", { architectures: ["InternLM2ForRewardModel"] }))).toContain(
    '"InternLM2ForRewardModel" is not supported; expected InternLM2ForCausalLM',
  );
  expect(userError(() => ofType("internlm"))).toContain('"internlm" is not supported; supported are Llama');
});
