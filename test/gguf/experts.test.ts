import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkExportable } from "../../src/gguf/names.ts";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import { writeRandomAdapter } from "../support/adapters.ts";
import type { GgufFile } from "../support/gguf.ts";
import { ggufDecoder, writeGgufDecoder } from "../support/gguf-decoders.ts";
import { changeConfig, createExporter, modelWithTokenizer } from "../support/gguf-models.ts";
import { adapterFolder, readTensors } from "../support/golden.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

/** The numbers of several tensors, one behind the other. */
const joined = (all: readonly Float32Array[]): Float32Array => Float32Array.from(all.flatMap((values) => [...values]));

const MIXTURES = {
  "qwen3-moe": { list: "mlp.experts", gate: "gate_proj", up: "up_proj", down: "down_proj", router: "mlp.gate", dense: 0 },
  olmoe: { list: "mlp.experts", gate: "gate_proj", up: "up_proj", down: "down_proj", router: "mlp.gate", dense: 0 },
  "lfm2-moe": { list: "feed_forward.experts", gate: "w1", up: "w3", down: "w2", router: "feed_forward.gate", dense: 1 },
} as const;

test.each(Object.keys(MIXTURES) as (keyof typeof MIXTURES)[])(
  "%s: the experts of a block are one tensor, in order",
  async (name) => {
    const { list, router, dense, ...matrices } = MIXTURES[name];
    const path = writeGgufDecoder(join(folder, name), name);
    const stored = readTensors(join(path, "model.safetensors"));
    const { file } = await exported({ model: path, type: "f32" });
    const count = 6;
    for (let layer = dense; layer < 2; layer++) {
      for (const [kind, matrix] of Object.entries(matrices)) {
        const tensor = file.tensors.get(`blk.${layer}.ffn_${kind}_exps.weight`)!;
        expect(tensor.shape).toEqual(kind === "down" ? [count, 32, 24] : [count, 24, 32]);
        const single = Array.from({ length: count }, (_, expert) =>
          stored.get(`model.layers.${layer}.${list}.${expert}.${matrix}.weight`)!,
        );
        expect(tensor.values()).toEqual(joined(single));
      }
      expect(file.tensors.get(`blk.${layer}.ffn_gate_inp.weight`)!.values()).toEqual(
        stored.get(`model.layers.${layer}.${router}.weight`)!,
      );
    }
    const others = [...stored.keys()].filter((key) => !key.includes(".experts."));
    expect(file.tensors.size).toBe(others.length + 3 * (name === "lfm2-moe" ? 2 : 2 - dense));
    const architecture = name.replace("-", "");
    const of = (key: string) => file.metadata.get(`${architecture}.${key}`);
    expect(file.metadata.get("general.architecture")).toBe(architecture);
    expect([of("expert_count"), of("expert_used_count"), of("expert_feed_forward_length")]).toEqual([6, 2, 24]);
    expect(of("expert_gating_func")).toBe(name === "lfm2-moe" ? 2 : 1);
    expect(of("leading_dense_block_count")).toBe(dense || undefined);
  },
);

test("an LFM2-MoE has its biases of choices, and its first layer's MLP", async () => {
  const path = writeGgufDecoder(join(folder, "biases"), "lfm2-moe");
  const stored = readTensors(join(path, "model.safetensors"));
  const { file } = await exported({ model: path, type: "q8_0" });
  const biases = file.tensors.get("blk.1.exp_probs_b.bias")!;
  expect([biases.type, [...biases.values()]]).toEqual([0, [...stored.get("model.layers.1.feed_forward.expert_bias")!]]);
  expect(file.tensors.has("blk.0.ffn_gate.weight")).toBe(true);
  // Routers and filters are f32 in files of every type; rows of 24 are no blocks of q8_0.
  const typeOf = (name: string) => file.tensors.get(`blk.1.${name}.weight`)!.type;
  expect([typeOf("ffn_gate_inp"), typeOf("ffn_gate_exps"), typeOf("ffn_down_exps")]).toEqual([0, 8, 1]);
});

test("experts that a checkpoint has in one tensor are those that it has one by one", async () => {
  const path = writeGgufDecoder(join(folder, "single"), "qwen3-moe");
  const { file } = await exported({ model: path, type: "f32" });
  const fused = writeGgufDecoder(join(folder, "fused"), "qwen3-moe");
  const source = openSafetensors(join(path, "model.safetensors"));
  const tensors = [...source.tensors.values()].map((entry) => ({
    ...entry,
    dtype: entry.dtype!,
    data: readBytes(source, entry),
  }));
  const together = [0, 1].flatMap((layer) => {
    const of = (matrix: string, expert: number) =>
      tensors.find(({ name }) => name === `model.layers.${layer}.mlp.experts.${expert}.${matrix}.weight`)!.data;
    const tensor = (name: string, shape: number[], data: Uint8Array[]) => ({
      name: `model.layers.${layer}.mlp.experts.${name}`,
      dtype: "f32" as const,
      shape,
      data: Buffer.concat(data),
    });
    const all = [0, 1, 2, 3, 4, 5];
    return [
      tensor(
        "gate_up_proj",
        [6, 48, 32],
        all.flatMap((i) => [of("gate_proj", i), of("up_proj", i)]),
      ),
      tensor(
        "down_proj",
        [6, 32, 24],
        all.map((i) => of("down_proj", i)),
      ),
    ];
  });
  source.close();
  const rest = tensors.filter(({ name }) => !name.includes(".experts."));
  writeSafetensors(join(fused, "model.safetensors"), [...rest, ...together]);
  const { file: same } = await exported({ model: fused, type: "f32" });
  expect([...same.tensors.keys()].sort()).toEqual([...file.tensors.keys()].sort());
  for (const [name, tensor] of file.tensors) expect(same.tensors.get(name)!.values()).toEqual(tensor.values());
});

test("an adapter is merged in on the way, and written alone where it is of attention", async () => {
  const path = modelWithTokenizer("qwen3-moe", join(folder, "adapted"));
  const adapter = adapterFolder("qwen3-moe");
  const merged = join(folder, "merged");
  mergeAdapter({ base: path, adapter, output: merged });
  const { file: whole } = await exported({ model: merged, type: "f32" });
  const { file: onTheWay } = await exported({ model: path, adapter, type: "f32" });
  for (const [name, tensor] of whole.tensors) expect(onTheWay.tensors.get(name)!.values()).toEqual(tensor.values());
  const { file } = await exported({ model: path, adapter, adapterOnly: true, type: "f32" });
  expect([...file.tensors.keys()].filter((name) => name.startsWith("blk.0.")).sort()).toEqual(
    ["attn_k", "attn_output", "attn_q", "attn_v"].flatMap((name) =>
      ["a", "b"].map((part) => `blk.0.${name}.weight.lora_${part}`),
    ),
  );
});

slowTest(
  "adapters of experts are merged in, alone they are refused; merged into MXFP4 they make it the type of the file",
  async () => {
    const settings = { rank: 2, targets: ["q_proj"], targetParameters: ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] };
    const executor = await createWasmExecutor({ threads: 1 });
    const path = writeGgufDecoder(join(folder, "of-experts"), "qwen3-moe");
    const adapter = writeRandomAdapter(executor, path, join(folder, "of-experts-adapter"), settings, 2);
    const packed = writeGgufDecoder(join(folder, "packed"), "gpt-oss-mxfp4");
    const ofPacked = writeRandomAdapter(executor, packed, join(folder, "packed-adapter"), settings, 2);
    executor.close();
    const merged = join(folder, "of-experts-merged");
    mergeAdapter({ base: path, adapter, output: merged });
    const { file: whole } = await exported({ model: merged, type: "f32" });
    const { file } = await exported({ model: path, adapter, type: "f32" });
    for (const [name, tensor] of whole.tensors) expect(file.tensors.get(name)!.values()).toEqual(tensor.values());
    const { file: plain } = await exported({ model: path, type: "f32" });
    const of = ({ tensors }: GgufFile) => tensors.get("blk.1.ffn_down_exps.weight")!;
    expect(of(file).values()).not.toEqual(of(plain).values());
    expect(await rejection(exported({ model: path, adapter, adapterOnly: true }))).toContain("no place for module");
    const { file: mixed } = await exported({ model: packed, adapter: ofPacked, type: "q8_0" });
    expect(of(mixed).type).toBe(8);
  },
);

test("a head that is the embedding is written twice for an OLMoE, which needs one of its own there", async () => {
  const { file } = await exported({ model: writeGgufDecoder(join(folder, "tied"), "olmoe-tied"), type: "f32" });
  expect(file.tensors.get("output.weight")!.values()).toEqual(file.tensors.get("token_embd.weight")!.values());
});

test("a matrix that is missing is named", async () => {
  const path = writeGgufDecoder(join(folder, "missing"), "qwen3-moe");
  changeConfig(path, { num_experts: 7 });
  expect(await rejection(exported({ model: path, type: "f32" }))).toContain(
    "holds no tensor for model.layers.0.mlp.experts.6.gate_proj.weight",
  );
});

test("what llama.cpp would compute otherwise is refused", () => {
  for (const [name, changes, message] of [
    ["qwen3-moe", { norm_topk_prob: false }, "qwen3moe models have norm_topk_prob true, not false"],
    ["qwen3-moe", { attention_bias: true }, "qwen3moe models have no biases"],
    ["olmoe", { norm_topk_prob: true }, "olmoe models have norm_topk_prob false, not true"],
    ["olmoe", { num_key_value_heads: 2 }, "olmoe models have as many key heads as heads, 4, not 2"],
    ["lfm2-moe", { norm_topk_prob: false }, "lfm2moe models have norm_topk_prob true"],
    ["lfm2-moe", { use_expert_bias: false }, "lfm2moe models have use_expert_bias true"],
    ["lfm2-moe", { routed_scaling_factor: 1.5 }, "lfm2moe models have routed_scaling_factor 1, not 1.5"],
    ["lfm2-moe", { num_dense_layers: 3 }, "lfm2moe models have experts, and this one has none"],
  ] as const) {
    expect(() => checkExportable(ggufDecoder(name, changes))).toThrow(message);
  }
});
