import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { parseConfig, supportedModels } from "../../src/models/families/index.ts";
import { BASE, llama, ofType } from "../support/model-config.ts";
import { temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

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
      rotatesNeighbours: false,
      intermediateSize: 96,
      vocabSize: 128,
      normEps: 1e-6,
      norm: "rms",
      positionTable: null,
      encoder: null,
      hiddenAct: "silu",
      tieWordEmbeddings: false,
      maxPositions: 2048,
      rope: { theta: 10000, scaling: { type: "default" } },
      rotaryLayers: [],
      slidingWindow: null,
      windowLayers: [],
      windowRope: null,
      queryRope: null,
      fullHeads: null,
      keysAreValues: false,
      sharedKeys: null,
      layerInputs: null,
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
      storedTransposed: false,
      headBias: false,
      parallelBranches: false,
      qkNorm: null,
      convolution: null,
      delta: null,
      attentionGate: false,
      attentionSinks: false,
      experts: null,
      bosTokenId: 1,
      eosTokenIds: [2],
      padTokenId: null,
      dtype: "f32",
      textHead: null,
    });
  });

  test("biases, q/k norm and head size per family", () => {
    expect(llama({ attention_bias: true, mlp_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
      mlpBias: true,
    });
    expect(ofType("qwen2")).toMatchObject({
      attentionBias: true,
      attentionOutputBias: false,
      mlpBias: false,
      storedTransposed: false,
      headBias: false,
      parallelBranches: false,
      qkNorm: null,
      convolution: null,
      headDim: 16,
    });
    expect(ofType("qwen3")).toMatchObject({ attentionBias: false, qkNorm: "heads", headDim: 128 });
    expect(ofType("qwen3", { head_dim: 32, attention_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
      headDim: 32,
    });
    expect(ofType("mistral")).toMatchObject({ attentionBias: false, qkNorm: null, slidingWindow: 4096 });
  });

  test("sliding window: Mistral everywhere, Qwen on request and from a layer on, Llama never", () => {
    expect(ofType("mistral", { sliding_window: null }).slidingWindow).toBeNull();
    expect(ofType("mistral", { sliding_window: 7 })).toMatchObject({ slidingWindow: 7, windowLayers: [true, true, true, true] });
    expect(llama({ sliding_window: 7 }).slidingWindow).toBeNull();
    expect(ofType("qwen2", { sliding_window: 7 }).slidingWindow).toBeNull();
    expect(ofType("qwen2", { sliding_window: 7, use_sliding_window: true, max_window_layers: 2 })).toMatchObject({
      slidingWindow: 7,
      windowLayers: [false, false, true, true],
    });
    expect(ofType("qwen2", { sliding_window: 7, use_sliding_window: true, max_window_layers: 4 }).slidingWindow).toBeNull();
    const types = ["full_attention", "sliding_attention", "sliding_attention", "sliding_attention"];
    expect(ofType("qwen3", { sliding_window: 7, use_sliding_window: true, layer_types: types })).toMatchObject({
      slidingWindow: 7,
      windowLayers: [false, true, true, true],
    });
    const qwen3 = (layer_types: string[]) => ofType("qwen3", { sliding_window: 7, use_sliding_window: true, layer_types });
    expect(qwen3(types.toReversed()).windowLayers).toEqual([true, true, true, false]);
    expect(userError(() => qwen3(["chunked_attention", ...types]))).toContain('layer_types has "chunked_attention"');
    expect(userError(() => qwen3(types.slice(1)))).toContain("layer_types has 3 entries");
  });

  test("the class without a head is one of the family", () => {
    expect(ofType("qwen3", { architectures: ["Qwen3Model"] }).family).toBe("qwen3");
    expect(parseConfig({ architectures: ["MistralModel"], ...BASE }).family).toBe("mistral");
    expect(ofType("gemma3_text", { architectures: ["Gemma3TextModel"] }).family).toBe("gemma3_text");
    expect(ofType("internlm3", { architectures: ["LlamaForCausalLM"] }).family).toBe("internlm3");
    expect(parseConfig({ architectures: ["LlamaForCausalLM"], ...BASE }).family).toBe("llama");
    expect(userError(() => ofType("internlm2", { architectures: ["LlamaForCausalLM"] }))).toContain(
      "expected InternLM2ForCausalLM",
    );
    for (const name of ["Gemma3Model", "Qwen2Model"])
      expect(userError(() => ofType("gemma3_text", { architectures: [name] }))).toContain(`"${name}" is not supported`);
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

describe("bad values", () => {
  test("each says what was expected, what came and where", () => {
    const cases: [object, string][] = [
      [
        { model_type: "mamba", architectures: ["MambaForCausalLM"] },
        `config.json: architecture "MambaForCausalLM" is not supported; supported are ${supportedModels()}`,
      ],
      [{ model_type: undefined, architectures: undefined }, "architecture nothing is not supported"],
      [{ architectures: ["LlamaForTokenClassification"] }, "expected LlamaForCausalLM"],
      [{ hidden_size: "64" }, '"hidden_size" is "64"'],
      [{ hidden_size: undefined }, '"hidden_size" is missing'],
      [{ hidden_size: 65 }, "not a multiple of num_attention_heads"],
      [{ num_key_value_heads: 3 }, "not a multiple of num_key_value_heads (3)"],
      [{ head_dim: 15 }, "even number"],
      [{ vocab_size: 0 }, '"vocab_size" is 0'],
      [{ num_hidden_layers: 1e300 }, '"num_hidden_layers" is 1e+300'],
      [{ hidden_act: "mish" }, 'hidden_act "mish" is not supported'],
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
