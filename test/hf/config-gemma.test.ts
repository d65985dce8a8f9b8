import { expect, setDefaultTimeout, test } from "bun:test";
import { contextLimit } from "../../src/models/context.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { ofType } from "../support/model-config.ts";
import { userError } from "./temp.ts";

setDefaultTimeout(120_000);

test("Gemma: the activation that its files call gelu, norms and embeddings as in its successors, no windows", () => {
  expect(ofType("gemma", { hidden_act: "gelu", sliding_window: 7 })).toMatchObject({
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
  expect(ofType("gemma").hiddenAct).toBe("gelu_pytorch_tanh");
  expect(userError(() => ofType("gemma", { use_bidirectional_attention: true }))).toContain("use_bidirectional_attention");
});

test("Gemma 2: windows in every other layer, soft caps, its own scale of scores, Transformers' defaults", () => {
  expect(ofType("gemma2", { num_hidden_layers: 3, query_pre_attn_scalar: 64 })).toMatchObject({
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
    qkNorm: null,
    maxPositions: 8192,
    eosTokenIds: [1],
    bosTokenId: 2,
    padTokenId: 0,
  });
  const off = ofType("gemma2", { attn_logit_softcapping: null, final_logit_softcapping: null, sliding_window: null });
  expect(off).toMatchObject({ attentionSoftCap: null, logitSoftCap: null, slidingWindow: null, windowLayers: [] });
  expect(ofType("gemma2", { hidden_act: "silu" }).hiddenAct).toBe("gelu_pytorch_tanh");
  expect(userError(() => ofType("gemma2", { use_bidirectional_attention: true }))).toContain("use_bidirectional_attention");
  expect(userError(() => ofType("gemma2", { final_logit_softcapping: 0 }))).toContain('"final_logit_softcapping" is 0');
});

test("Gemma 3: five windows for each full attention, rotary positions of their own, old keys and new", () => {
  const old = ofType("gemma3_text", {
    num_hidden_layers: 7,
    rope_theta: 5e5,
    rope_local_base_freq: 2e4,
    rope_scaling: { rope_type: "linear", factor: 8 },
  });
  expect(old).toMatchObject({
    qkNorm: "heads",
    windowLayers: [true, true, true, true, true, false, true],
    rope: { theta: 5e5, scaling: { type: "linear", factor: 8 } },
    windowRope: { theta: 2e4, scaling: { type: "default" } },
    attentionSoftCap: null,
    logitSoftCap: null,
  });
  // Its context is the one that the scaling gives.
  expect(contextLimit(old)).toBe(131_072);
  const types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"];
  const recent = ofType("gemma3_text", {
    layer_types: types,
    rope_parameters: {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 5e5 },
      sliding_attention: { rope_type: "default", rope_theta: 2e4 },
    },
  });
  expect(recent).toMatchObject({ rope: old.rope, windowRope: old.windowRope, windowLayers: [true, false, false, true] });
  expect(ofType("gemma3_text")).toMatchObject({ rope: { theta: 1e6 }, windowRope: { theta: 1e4 } });
  expect(ofType("gemma3_text", { sliding_window_pattern: 2 }).windowLayers).toEqual([true, false, true, false]);
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
  expect(ofType("gemma3_text").modulePrefix).toBe("model.");
  expect(userError(() => parseConfig({ model_type: "gemma3" }))).toContain('"text_config" is');
  const bad = { model_type: "gemma3", text_config: { num_hidden_layers: "x" } };
  expect(userError(() => parseConfig(bad))).toContain('"num_hidden_layers" is "x"');
});

test("Gemma 4: two kinds of heads, shared keys and values, what blocks are told; keys of the hub and of Transformers 5", () => {
  const types = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"];
  const own = { global_head_dim: 20, num_kv_shared_layers: 2, layer_types: types, vocab_size_per_layer_input: 128 };
  const config = ofType("gemma4_text", { head_dim: 16, ...own });
  expect(config).toMatchObject({
    headDim: 16,
    kvHeads: 2,
    fullHeads: { headDim: 20, kvHeads: 2 },
    // The last layer has no window, whatever the file says.
    windowLayers: [true, false, true, false],
    slidingWindow: 512,
    sharedKeys: { layers: 2, hasWideMlp: false },
    layerInputs: { size: 256, rows: 128 },
    keysAreValues: false,
    rope: { theta: 1e6, scaling: { type: "proportional", share: 0.25, factor: 1 } },
    windowRope: { theta: 1e4, scaling: { type: "default" } },
    attentionScale: 1,
    normOffset: 0,
    tieWordEmbeddings: true,
    eosTokenIds: [1],
  });
  const byLayer = { "1": { head_dim: 20 }, "3": { head_dim: 20 } };
  const saved = { ...own, head_dim: 16, global_head_dim: undefined, per_layer_config: byLayer };
  expect(ofType("gemma4_text", saved)).toEqual(config);
  expect(ofType("gemma4_text", { attention_k_eq_v: true, num_global_key_value_heads: 1 })).toMatchObject({
    headDim: 256,
    fullHeads: { headDim: 512, kvHeads: 1 },
    keysAreValues: true,
    sharedKeys: null,
  });
  expect(ofType("gemma4_text", { num_global_key_value_heads: 1 }).fullHeads).toEqual({ headDim: 512, kvHeads: 2 });
  expect(ofType("gemma4_text", { hidden_size_per_layer_input: 0 }).layerInputs).toBeNull();
  const refused = (extra: object) => userError(() => ofType("gemma4_text", { ...own, ...extra }));
  const mixture = { enable_moe_block: true, num_experts: 8, top_k_experts: 2, moe_intermediate_size: 24 };
  expect(ofType("gemma4_text", { ...own, ...mixture }).experts).toMatchObject({
    count: 8,
    perToken: 2,
    width: 24,
    normalised: true,
  });
  expect(ofType("gemma4_text", { ...own, ...mixture, enable_moe_block: false }).experts).toBeNull();
  expect(refused({ ...mixture, top_k_experts: null })).toContain("enable_moe_block is true, but there is no top_k_experts");
  expect(refused({ ...mixture, top_k_experts: 9 })).toContain("top_k_experts is 9; expected at most the number of experts, 8");
  expect(refused({ ...mixture, hidden_activation: "gelu" })).toContain('hidden_activation "gelu" of experts is not supported');
  expect(refused({ use_bidirectional_attention: "all" })).toContain('use_bidirectional_attention "all" is not supported');
  expect(refused({ num_kv_shared_layers: 3 })).toContain("expected a layer of the type full_attention among the 1 before them");
  expect(refused({ num_kv_shared_layers: 4 })).toContain("among the 0 before them");
  expect(refused({ vocab_size_per_layer_input: 127 })).toContain("expected at least vocab_size, 128");
  expect(refused({ per_layer_config: { ...byLayer, "2": { head_dim: 20 } }, head_dim: 16 })).toContain(
    "per_layer_config gives layer 2 other heads than layers of its kind (sliding_attention) have",
  );
  expect(refused({ global_head_dim: 21 })).toContain("global_head_dim is 21");
  const rope = { full_attention: { rope_type: "proportional", partial_rotary_factor: 2 } };
  expect(refused({ rope_parameters: rope })).toContain("partial_rotary_factor 2; expected more than 0 and at most 1");
});
