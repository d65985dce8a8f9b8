import { expect, setDefaultTimeout, test } from "bun:test";
import { contextLimit } from "../../src/models/context.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { ofType } from "../support/model-config.ts";
import { userError } from "./temp.ts";

setDefaultTimeout(120_000);

// Families that build their blocks otherwise: norms behind the branches, LayerNorm, learned positions, experts.

test("families with norms behind the branches, neighbours that rotate, layers without rotary positions: their defaults and what they refuse", () => {
  expect(ofType("olmo2")).toMatchObject({ qkNorm: "row", normEps: 1e-5, padTokenId: 1, eosTokenIds: [50_279] });
  expect(ofType("olmo3")).toMatchObject({
    windowLayers: [true, true, true, false],
    slidingWindow: 4096,
    rope: { theta: 500_000 },
    windowRope: { theta: 500_000, scaling: { type: "default" } },
  });
  const yarn = { rope_type: "yarn", factor: 8, original_max_position_embeddings: 8192 };
  const nested = { full_attention: { ...yarn, rope_theta: 7000 }, sliding_attention: { rope_type: "default", rope_theta: 9 } };
  for (const extra of [{ rope_scaling: yarn, rope_theta: 7000 }, { rope_parameters: nested }])
    expect(ofType("olmo3", extra).rope).toMatchObject({ theta: 7000, scaling: { type: "yarn", factor: 8 } });
  expect(ofType("olmo3", { rope_parameters: nested }).windowRope!.theta).toBe(9);
  const usual = { rope_theta: 500_000, rope_type: "default" };
  expect(ofType("olmo3", { rope_parameters: usual })).toEqual(ofType("olmo3"));
  // As Transformers writes it after it has read flat settings: it has not taken them.
  expect(ofType("olmo3", { rope_parameters: { ...usual, rope_theta: 5, ...nested } }).windowRope!.theta).toBe(9);
  for (const flat of [{ rope_theta: 5 }, yarn])
    expect(userError(() => ofType("olmo3", { rope_parameters: flat }))).toContain(
      "expected them in full_attention and in sliding_attention",
    );

  expect(ofType("exaone4")).toMatchObject({ rotaryLayers: [true, true, true, false], qkNorm: "heads" });
  expect(ofType("exaone4", { sliding_window: null })).toMatchObject({ rotaryLayers: [], windowLayers: [] });
  expect(userError(() => ofType("exaone4", { sliding_window_pattern: "LLLG" }))).toContain('sliding_window_pattern is "LLLG"');

  const dynamic = { type: "dynamic", factor: 1 };
  expect(ofType("hunyuan_v1_dense", { rope_scaling: dynamic }).rope.scaling.type).toBe("dynamic");
  const { theta, scaling } = ofType("hunyuan_v1_dense", { rope_scaling: { ...dynamic, alpha: 1000 } }).rope;
  expect(scaling.type).toBe("default");
  expect(theta).toBeCloseTo(10_000 * 1000 ** (16 / 14), 3);

  expect(ofType("ernie4_5")).toMatchObject({ headDim: 128, rotatesNeighbours: true, tieWordEmbeddings: true, mlpBias: false });
  expect(ofType("ernie4_5", { head_dim: null, use_bias: true })).toMatchObject({ headDim: 16, mlpBias: true });
  for (const type of ["glm", "glm4"])
    expect(ofType(type)).toMatchObject({
      headDim: 128,
      rotaryDim: 64,
      attentionBias: true,
      attentionOutputBias: false,
      eosTokenIds: [151_329, 151_336, 151_338],
    });
  expect(ofType("cohere2", { head_dim: 99 })).toMatchObject({
    headDim: 16,
    norm: "layer-without-bias",
    logitScale: 0.0625,
    rotaryLayers: [true, true, true, false],
  });

  const dense = { num_local_experts: 0, layer_types: Array(4).fill("attention") };
  expect(ofType("granitemoehybrid", dense)).toMatchObject({ rotaryLayers: Array(4).fill(false), intermediateSize: 1024 });
  expect(ofType("granitemoehybrid", { ...dense, position_embedding_type: "rope" }).rotaryLayers).toEqual([]);
  for (const [extra, message] of [
    [{ ...dense, num_local_experts: 4 }, "num_local_experts 4 is not supported; expected 0"],
    [{ num_local_experts: 0 }, "there are no layer_types, so that no layer attends"],
    [{ ...dense, layer_types: ["attention"] }, "layer_types has 1 entries"],
  ] as const)
    expect(userError(() => ofType("granitemoehybrid", extra))).toContain(message);
});

test("decoders with LayerNorm: their defaults, their names of the keys, and what they refuse", () => {
  expect(ofType("phi")).toMatchObject({
    norm: "layer",
    rotaryDim: 8,
    hiddenAct: "gelu_pytorch_tanh",
    headBias: true,
    mlpBias: true,
  });
  expect(ofType("gpt_neox", { num_key_value_heads: 1, rotary_pct: 0.5, rotary_emb_base: 77 })).toMatchObject({
    kvHeads: 4,
    rotaryDim: 8,
    rope: { theta: 77 },
    parallelBranches: true,
    modulePrefix: "gpt_neox.",
    hiddenAct: "gelu",
  });
  const parameters = {
    rope_parameters: { rope_type: "default", rope_theta: 5, partial_rotary_factor: 1 },
    use_parallel_residual: false,
  };
  expect(ofType("gpt_neox", parameters)).toMatchObject({ rotaryDim: 16, rope: { theta: 5 }, parallelBranches: false });
  expect(ofType("stablelm", { use_qkv_bias: true })).toMatchObject({
    rotaryDim: 4,
    attentionBias: true,
    attentionOutputBias: false,
  });
  expect(ofType("starcoder2", { sliding_window: 7 })).toMatchObject({
    windowLayers: [true, true, true, true],
    mlpBias: true,
    tieWordEmbeddings: true,
    normEps: 1e-5,
  });
  expect(ofType("nemotron", { norm_eps: 1e-3 })).toMatchObject({
    normOffset: 1,
    hiddenAct: "relu2",
    rotaryDim: 8,
    normEps: 1e-3,
  });
  for (const type of ["phi", "stablelm"])
    expect(userError(() => ofType(type, { qk_layernorm: true }))).toContain("qk_layernorm true is not supported; expected false");
});

test("a share of a head that is null is the family's own; errors speak of the family's keys", () => {
  for (const [type, dim] of [
    ["phi", 8],
    ["nemotron", 8],
    ["stablelm", 4],
    ["glm", 64],
  ] as const)
    expect([type, ofType(type, { partial_rotary_factor: null }).rotaryDim]).toEqual([type, dim]);
  expect(userError(() => ofType("phi", { layer_norm_eps: "small" }))).toContain('"layer_norm_eps" is "small"');
  expect(userError(() => ofType("nemotron", { norm_eps: -1 }))).toContain('"norm_eps" is -1');
  expect(userError(() => ofType("gpt_neox", { rotary_pct: 0.01 }))).toContain("rotary_pct 0.01 rotates 0 of 16");
});

test("GPT-2 and OPT: learned positions in place of rotary ones, their own keys, and what they refuse", () => {
  const gpt2 = (extra: object = {}) =>
    parseConfig({
      model_type: "gpt2",
      architectures: ["GPT2LMHeadModel"],
      n_embd: 64,
      n_layer: 2,
      n_head: 4,
      n_positions: 32,
      ...extra,
    });
  expect(gpt2()).toMatchObject({
    intermediateSize: 256,
    vocabSize: 50_257,
    rotaryDim: 0,
    positionTable: { rows: 32, first: 0 },
    storedTransposed: true,
    tieWordEmbeddings: true,
    hiddenAct: "gelu_pytorch_tanh",
    maxPositions: 32,
  });
  expect(gpt2({ n_inner: 100, scale_attn_weights: false })).toMatchObject({ intermediateSize: 100, attentionScale: 1 });
  // Nothing is rotated: heads may be odd, and what is said of rotary positions stretches no table.
  const odd = gpt2({ n_embd: 60, rope_scaling: { type: "linear", factor: 4 } });
  expect([odd.headDim, contextLimit(odd)]).toEqual([15, 32]);
  expect(userError(() => gpt2({ n_head: 7 }))).toContain("n_embd (64) is not a multiple of n_head (7)");
  expect(userError(() => gpt2({ activation_function: "tanhshrink" }))).toContain('activation_function "tanhshrink"');
  expect(userError(() => gpt2({ scale_attn_by_inverse_layer_idx: true }))).toContain(
    "scale_attn_by_inverse_layer_idx true is not supported; expected false",
  );
  const opt = (extra: object = {}) => ofType("opt", { ffn_dim: 96, max_position_embeddings: 32, ...extra });
  expect(opt()).toMatchObject({
    kvHeads: 4,
    positionTable: { rows: 34, first: 2 },
    hiddenAct: "relu",
    modulePrefix: "model.decoder.",
    padTokenId: 1,
  });
  for (const [extra, message] of [
    [{ do_layer_norm_before: false }, "do_layer_norm_before false is not supported; expected true"],
    [{ word_embed_proj_dim: 32 }, "word_embed_proj_dim (32) differs from hidden_size (64)"],
  ] as const)
    expect(userError(() => opt(extra))).toContain(message);
});

test("Qwen3-MoE and OLMoE: their defaults, and what they refuse", () => {
  expect(ofType("qwen3_moe")).toMatchObject({
    experts: { count: 128, perToken: 8, normalised: false },
    intermediateSize: 768,
    qkNorm: "heads",
    windowLayers: [],
  });
  expect(ofType("qwen3_moe", { use_sliding_window: true })).toMatchObject({
    slidingWindow: 4096,
    windowLayers: [true, true, true, true],
  });
  // Transformers writes the number of experts under either name.
  for (const key of ["num_experts", "num_local_experts"])
    expect(
      ofType("qwen3_moe", { [key]: 9, num_experts_per_tok: 2, norm_topk_prob: true, moe_intermediate_size: 5 }),
    ).toMatchObject({
      experts: { count: 9, perToken: 2, normalised: true },
      intermediateSize: 5,
    });
  expect(ofType("olmoe")).toMatchObject({
    experts: { count: 64, perToken: 8, normalised: false },
    qkNorm: "row",
    normEps: 1e-5,
    maxPositions: 4096,
    eosTokenIds: [50_279],
  });
  for (const [type, extra, message] of [
    ["qwen3_moe", { mlp_only_layers: [1] }, "mlp_only_layers [1] is not supported; expected [], experts in all layers"],
    ["qwen3_moe", { decoder_sparse_step: 2 }, "decoder_sparse_step 2 is not supported; expected 1"],
    ["qwen3_moe", { num_experts: 3 }, "num_experts_per_tok is 8; expected at most the number of experts, 3"],
    ["qwen3_moe", { num_experts: 0 }, "num_experts"],
    ["qwen3_moe", { hidden_act: "gelu" }, 'hidden_act "gelu" of experts is not supported; expected "silu"'],
    ["olmoe", { output_router_logits: true }, "output_router_logits true adds a loss of the routers"],
    ["olmoe", { clip_qkv: 8 }, "clip_qkv 8 is not supported; expected null"],
  ] as const)
    expect(userError(() => ofType(type, extra))).toContain(message);
});

test("LFM2-MoE: its defaults, dense layers in front, and what it refuses", () => {
  const lfm2Moe = (extra: object = {}) => ofType("lfm2_moe", { num_hidden_layers: 4, num_attention_heads: 4, ...extra });
  const experts = {
    count: 32,
    width: 1792,
    perToken: 4,
    score: "sigmoid",
    normalised: true,
    choiceBias: true,
    scale: 1,
    limits: null,
    bias: false,
    sharedWidth: null,
  };
  expect(lfm2Moe({ intermediate_size: undefined })).toMatchObject({
    intermediateSize: 7168,
    experts: { ...experts, layers: [false, false, true, true] },
    tieWordEmbeddings: true,
    rope: { theta: 1_000_000 },
  });
  expect(
    lfm2Moe({ num_dense_layers: 0, use_expert_bias: false, norm_topk_prob: false, routed_scaling_factor: 2.5 }).experts,
  ).toEqual({ ...experts, normalised: false, choiceBias: false, scale: 2.5, layers: [true, true, true, true] } as never);
  expect(lfm2Moe({ num_dense_layers: 9 }).experts).toBeNull();
  expect(lfm2Moe({ num_dense_layers: 0, moe_intermediate_size: 30 }).intermediateSize).toBe(30);
  for (const [extra, message] of [
    [{ num_experts: 3 }, "num_experts_per_tok is 4; expected at most the number of experts, 3"],
    [{ output_router_logits: true }, "output_router_logits true adds a loss of the routers"],
    [{ routed_scaling_factor: 0 }, '"routed_scaling_factor" is 0'],
    [{ layer_types: ["conv"] }, "layer_types has 1 entries"],
  ] as const)
    expect(userError(() => lfm2Moe(extra))).toContain(message);
});

test("gpt-oss: its defaults, and what it refuses", () => {
  const { hidden_size: hidden, vocab_size: vocabulary } = { hidden_size: 64, vocab_size: 100 };
  const sizes = { hidden_size: hidden, vocab_size: vocabulary, num_hidden_layers: 3, num_attention_heads: 8 };
  const gptOss = (extra: object = {}) => parseConfig({ model_type: "gpt_oss", ...sizes, ...extra });
  expect(gptOss()).toMatchObject({
    intermediateSize: 2880,
    kvHeads: 8,
    headDim: 64,
    attentionBias: true,
    attentionOutputBias: true,
    attentionSinks: true,
    slidingWindow: 128,
    windowLayers: [true, false, true],
    normEps: 1e-5,
    rope: { theta: 150_000, scaling: { type: "yarn", factor: 32, originalMaxPositions: 4096, truncate: false } },
    experts: {
      count: 128,
      width: 2880,
      perToken: 4,
      score: "softmax",
      normalised: true,
      limits: { alpha: 1.702, limit: 7 },
      bias: true,
      layers: [true, true, true],
    },
  });
  const rope = { rope_type: "default", rope_theta: 1000 };
  const other = { num_local_experts: 9, swiglu_limit: 3, attention_bias: false, rope_parameters: rope, sliding_window: 5 };
  expect(gptOss({ ...other, layer_types: ["full_attention", "full_attention", "sliding_attention"] })).toMatchObject({
    attentionBias: false,
    slidingWindow: 5,
    windowLayers: [false, false, true],
    rope: { theta: 1000, scaling: { type: "default" } },
    experts: { count: 9, limits: { limit: 3 } },
  });
  expect(gptOss({ quantization_config: { quant_method: "mxfp4" } }).experts).not.toBeNull();
  for (const [extra, message] of [
    [{ quantization_config: { quant_method: "fp8" } }, "the checkpoint is quantised (quantization_config)"],
    [{ num_local_experts: 3 }, "num_experts_per_tok is 4; expected at most the number of experts, 3"],
    [{ output_router_logits: true }, "output_router_logits true adds a loss of the routers"],
    [{ sliding_window: null }, 'layer_types has "sliding_attention", but there is no sliding_window'],
    [{ swiglu_limit: -1 }, '"swiglu_limit" is -1'],
  ] as const)
    expect(userError(() => gptOss(extra))).toContain(message);
});

test("Qwen3-Next and Qwen3.5-MoE: their defaults, layers without experts, and what they refuse", () => {
  const experts = { score: "softmax", normalised: true, width: 512, layers: [true, true, true, true] };
  expect(ofType("qwen3_next", { num_key_value_heads: undefined, intermediate_size: 30 })).toMatchObject({
    intermediateSize: 512,
    headDim: 256,
    rotaryDim: 64,
    attentionGate: true,
    normOffset: 1,
    delta: { keyHeads: 16, heads: 32, fused: true, layers: [true, true, true, false] },
    experts: { ...experts, count: 512, perToken: 10, sharedWidth: 512 },
  });
  expect(ofType("qwen3_next", { decoder_sparse_step: 2, mlp_only_layers: [3] }).experts?.layers).toEqual([
    false,
    true,
    false,
    false,
  ]);
  expect(ofType("qwen3_next", { mlp_only_layers: [0, 1, 2, 3] }).experts).toBeNull();
  expect(ofType("qwen3_next", { mlp_only_layers: [2], intermediate_size: 30 }).intermediateSize).toBe(30);
  const text = { hidden_size: 64, num_hidden_layers: 4, num_attention_heads: 4, vocab_size: 100 };
  expect(parseConfig({ model_type: "qwen3_5_moe", text_config: { ...text, norm_topk_prob: false } })).toMatchObject({
    modulePrefix: "model.language_model.",
    kvHeads: 2,
    delta: { fused: false },
    experts: { ...experts, count: 256, perToken: 8, sharedWidth: 512 },
  });
  for (const [extra, message] of [
    [{ num_experts: 3 }, "num_experts_per_tok is 10; expected at most the number of experts, 3"],
    [{ shared_expert_intermediate_size: 0 }, '"shared_expert_intermediate_size" is 0'],
    [{ output_router_logits: true }, "output_router_logits true adds a loss of the routers"],
  ] as const)
    expect(userError(() => ofType("qwen3_next", extra))).toContain(message);
});
