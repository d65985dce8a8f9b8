import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import type { ExportGgufOptions } from "../../src/library/export-gguf.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import type { GgufFile } from "../support/gguf.ts";
import { changeConfig, createExporter, dropTensors, modelWithTokenizer, useTokenizer } from "../support/gguf-models.ts";
import { adapterFolder, type GoldenFamily, readTensors } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const WEIGHTS = "model.safetensors";

/** A family's golden model with a tokenizer and other settings. */
function model(family: GoldenFamily, name: string, changes: object = {}): string {
  const target = modelWithTokenizer(family, join(folder, name));
  changeConfig(target, changes);
  return target;
}

/** An InternLM2 without biases, which llama.cpp does not have. */
function withoutBiases(): string {
  const target = model("internlm2", "internlm2", { bias: false });
  dropTensors(target, ".bias");
  return target;
}

const exporter = createExporter(folder);
const exported = async (model: string, options: Pick<ExportGgufOptions, "adapter" | "adapterOnly"> = {}): Promise<GgufFile> =>
  (await exporter({ model, type: "f32", ...options })).file;

const PHI3: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  attn_qkv: "self_attn.qkv_proj",
  attn_output: "self_attn.o_proj",
  ffn_up: "mlp.gate_up_proj",
  ffn_down: "mlp.down_proj",
};

const INTERNLM2: Readonly<Record<string, string>> = {
  attn_norm: "attention_norm",
  ffn_norm: "ffn_norm",
  attn_output: "attention.wo",
  ffn_gate: "feed_forward.w1",
  ffn_up: "feed_forward.w3",
  ffn_down: "feed_forward.w2",
};

/** Rows of `wqkv`, one after another, that are queries, keys or values. */
function rowsOf(part: "attn_q" | "attn_k" | "attn_v", { heads, kvHeads, headDim }: ModelConfig): number[] {
  const perKey = heads / kvHeads;
  const count = part === "attn_q" ? heads : kvHeads;
  return Array.from({ length: count * headDim }, (_, i) => {
    const [head, feature] = [Math.floor(i / headDim), i % headDim];
    const group = part === "attn_q" ? Math.floor(head / perKey) : head;
    const slot = part === "attn_q" ? head % perKey : part === "attn_k" ? perKey : perKey + 1;
    // Neighbours are rotated with each other: new row 2 i + j of a head is its old row j dim / 2 + i.
    const inside = part === "attn_v" ? feature : (feature % 2) * (headDim / 2) + Math.floor(feature / 2);
    return (group * (perKey + 2) + slot) * headDim + inside;
  });
}

function expectRows(got: Float32Array, whole: Float32Array, rows: readonly number[], columns: number): void {
  expect(got.length).toBe(rows.length * columns);
  rows.forEach((row, i) => {
    expect(got.subarray(i * columns, (i + 1) * columns)).toEqual(whole.subarray(row * columns, (row + 1) * columns));
  });
}

describe("Phi-3", () => {
  test.each(["phi3", "phi4-mini"] as const)("%s: fused matrices stay one, values exact, settings", async (family) => {
    const path = model(family, family);
    const config = loadConfig(path);
    const file = await exported(path);
    const stored = readTensors(join(path, WEIGHTS));
    const names: Readonly<Record<string, string>> = {
      token_embd: "model.embed_tokens",
      output_norm: "model.norm",
      ...(!config.tieWordEmbeddings && { output: "lm_head" }),
      ...Object.fromEntries(
        Array.from({ length: config.layers }, (_, layer) =>
          Object.entries(PHI3).map(([to, from]) => [`blk.${layer}.${to}`, `model.layers.${layer}.${from}`]),
        ).flat(),
      ),
    };
    const factors = family === "phi4-mini" ? ["rope_factors_long.weight", "rope_factors_short.weight"] : [];
    expect([...file.tensors.keys()].sort()).toEqual([...Object.keys(names).map((name) => `${name}.weight`), ...factors].sort());
    for (const [to, from] of Object.entries(names))
      expect(file.tensors.get(`${to}.weight`)!.values()).toEqual(stored.get(`${from}.weight`)!);
    expect(file.metadata.get("general.architecture")).toBe("phi3");
    expect(file.metadata.get("phi3.rope.dimension_count")).toBe(config.rotaryDim);
    expect(file.metadata.get("phi3.attention.sliding_window")).toBe(config.slidingWindow);
    if (family === "phi3") return;
    expect([...file.tensors.get("rope_factors_long.weight")!.values()]).toEqual([1, 1.4, 2.1, 3.5, 4.2, 5.5].map(Math.fround));
    expect([...file.tensors.get("rope_factors_short.weight")!.values()]).toEqual([1, 1.05, 1.1, 1.2, 1.3, 1.5].map(Math.fround));
    expect(file.metadata.get("phi3.rope.scaling.original_context_length")).toBe(12);
    expect(file.metadata.get("phi3.rope.scaling.attn_factor")).toBe(Math.fround(Math.sqrt(1 + Math.log(64 / 12) / Math.log(12))));
    expect(file.metadata.get("phi3.context_length")).toBe(64);
  });

  test("llama.cpp is told by the name that special tokens take the white space behind them", async () => {
    const path = model("phi3", "mine");
    const name = async (from = path) => (await exported(from)).metadata.get("general.name");
    expect(await name()).toBe("mine");
    useTokenizer(path, "phi3");
    expect(await name()).toBe("mine (phi-3)");
    // llama.cpp does not load a model of such a name without Phi-3's tokens.
    useTokenizer(path, "phi4");
    expect(await name()).toBe("mine");
    expect(await name(model("phi3", "Phi-3-or-phi3"))).toBe("Phi 3-or-phi 3");
  });

  test("an adapter of the fused matrices is one pair each", async () => {
    const file = await exported(model("phi3", "phi3-base"), { adapter: adapterFolder("phi3"), adapterOnly: true });
    const stored = readTensors(join(adapterFolder("phi3"), "adapter_model.safetensors"));
    expect(file.tensors.size).toBe(stored.size);
    for (const [to, from] of Object.entries(PHI3).slice(2)) {
      for (const [side, name] of Object.entries({ lora_a: "lora_A", lora_b: "lora_B" }))
        expect(file.tensors.get(`blk.1.${to}.weight.${side}`)!.values()).toEqual(
          stored.get(`base_model.model.model.layers.1.${from}.${name}.weight`)!,
        );
    }
  });
});

describe("InternLM2", () => {
  const path = withoutBiases();
  const config = loadConfig(path);
  const parts = ["attn_q", "attn_k", "attn_v"] as const;

  test("queries, keys and values are three tensors, the others exact", async () => {
    const file = await exported(path);
    const stored = readTensors(join(path, WEIGHTS));
    expect(file.metadata.get("general.architecture")).toBe("internlm2");
    expect(file.tensors.size).toBe(3 + config.layers * 9);
    for (let layer = 0; layer < config.layers; layer++) {
      for (const [to, from] of Object.entries(INTERNLM2))
        expect(file.tensors.get(`blk.${layer}.${to}.weight`)!.values()).toEqual(
          stored.get(`model.layers.${layer}.${from}.weight`)!,
        );
      const whole = stored.get(`model.layers.${layer}.attention.wqkv.weight`)!;
      for (const part of parts) {
        const tensor = file.tensors.get(`blk.${layer}.${part}.weight`)!;
        const rows = rowsOf(part, config);
        expect(tensor.shape).toEqual([rows.length, config.hiddenSize]);
        expectRows(tensor.values(), whole, rows, config.hiddenSize);
      }
    }
    for (const [to, from] of [
      ["token_embd", "model.tok_embeddings"],
      ["output", "output"],
      ["output_norm", "model.norm"],
    ])
      expect(file.tensors.get(`${to}.weight`)!.values()).toEqual(stored.get(`${from}.weight`)!);
  });

  test("an adapter of wqkv is three that share A; merged in, the same rows of the merged matrix", async () => {
    const stored = readTensors(join(adapterFolder("internlm2"), "adapter_model.safetensors"));
    const alone = await exported(path, { adapter: adapterFolder("internlm2"), adapterOnly: true });
    const wqkv = "base_model.model.model.layers.1.attention.wqkv";
    for (const part of parts) {
      const [a, b] = ["lora_a", "lora_b"].map((side) => alone.tensors.get(`blk.1.${part}.weight.${side}`)!);
      expect(a!.values()).toEqual(stored.get(`${wqkv}.lora_A.weight`)!);
      expectRows(b!.values(), stored.get(`${wqkv}.lora_B.weight`)!, rowsOf(part, config), 4);
    }
    const merged = join(folder, "internlm2-merged");
    mergeAdapter({ base: path, adapter: adapterFolder("internlm2"), output: merged });
    const [file, other] = [await exported(path, { adapter: adapterFolder("internlm2") }), await exported(merged)];
    expect([...file.tensors.keys()]).toEqual([...other.tensors.keys()]);
    for (const [name, tensor] of file.tensors) expect(tensor.values()).toEqual(other.tensors.get(name)!.values());
  });

  test("what llama.cpp does not compute is refused", async () => {
    const refused = (path: string) => rejection(exported(path));
    expect(await refused(model("internlm2", "internlm2-biased"))).toContain("no biases in attention");
    const scaling = { type: "longrope", short_factor: Array(6).fill(1), long_factor: Array(6).fill(2) };
    expect(await refused(model("smollm2", "long-llama", { rope_scaling: scaling }))).toContain(
      "llama models have no longrope scaling",
    );
  });
});

test("a Granite 4: gate and up are the halves of one matrix; without rotary positions it is refused", async () => {
  const path = model("granite4", "granite4");
  const file = await exported(path);
  const stored = readTensors(path);
  for (const layer of [0, 1]) {
    const both = stored.get(`model.layers.${layer}.shared_mlp.input_linear.weight`)!;
    const [gate, up] = ["ffn_gate", "ffn_up"].map((name) => file.tensors.get(`blk.${layer}.${name}.weight`)!);
    expect(gate!.shape).toEqual([29, 24]);
    expect(gate!.values()).toEqual(both.slice(0, 29 * 24));
    expect(up!.values()).toEqual(both.slice(29 * 24));
    const down = stored.get(`model.layers.${layer}.shared_mlp.output_linear.weight`)!;
    expect(file.tensors.get(`blk.${layer}.ffn_down.weight`)!.values()).toEqual(down);
  }
  expect(file.metadata.get("general.architecture")).toBe("granite");
  expect(file.metadata.get("granite.attention.scale")).toBe(Math.fround(0.17));
  expect(await rejection(exported(model("granite4", "unrotated", { position_embedding_type: null })))).toContain(
    "granite models have rotary positions, and this one has none",
  );
});
