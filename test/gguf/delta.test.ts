import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { checkExportable } from "../../src/gguf/names.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { writeRandomAdapter } from "../support/adapters.ts";
import type { GgufFile } from "../support/gguf.ts";
import { ggufDecoder, writeGgufDecoder } from "../support/gguf-decoders.ts";
import { createExporter } from "../support/gguf-models.ts";
import { readTensors } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const exported = createExporter(folder);

/** The sizes of the models: value head 3 k + v belongs to key head k. */
const [KEYS, SHARE, DIM, HIDDEN] = [2, 3, 16, 32];

interface Written {
  readonly file: GgufFile;
  tensor(name: string): Float32Array;
  stored(name: string): Float32Array;
}

async function write(name: string, path = name): Promise<Written> {
  const model = writeGgufDecoder(join(folder, path), name);
  const { file } = await exported({ model, type: "f32" });
  const all = readTensors(join(model, "model.safetensors"));
  return {
    file,
    tensor: (tensor) => file.tensors.get(`blk.0.${tensor}`)!.values(),
    stored: (parameter) => all.get(`model.layers.0.${parameter}`)!,
  };
}

/** Expects value head 3 k + v of the model's as the file's head 2 v + k, rows of `size`, behind `first` others. */
function expectTurned(got: Float32Array, own: Float32Array, size: number, columns: number, first = 0): void {
  expect(got.length).toBe(own.length);
  expect(got.subarray(0, first * columns)).toEqual(own.subarray(0, first * columns));
  const head = (values: Float32Array, at: number) => {
    const from = (first + at * size) * columns;
    return values.subarray(from, from + size * columns);
  };
  for (let key = 0; key < KEYS; key++)
    for (let value = 0; value < SHARE; value++) expect(head(got, value * KEYS + key)).toEqual(head(own, key * SHARE + value));
}

test("a Qwen3.5: value heads of all key heads by turns, -exp of A_log, norms with what the model adds", async () => {
  const { file, tensor, stored } = await write("qwen3.5");
  expectTurned(tensor("attn_qkv.weight"), stored("linear_attn.in_proj_qkv.weight"), DIM, HIDDEN, 2 * KEYS * DIM);
  expectTurned(tensor("attn_gate.weight"), stored("linear_attn.in_proj_z.weight"), DIM, HIDDEN);
  expectTurned(tensor("ssm_beta.weight"), stored("linear_attn.in_proj_b.weight"), 1, HIDDEN);
  expectTurned(tensor("ssm_alpha.weight"), stored("linear_attn.in_proj_a.weight"), 1, HIDDEN);
  expectTurned(tensor("ssm_conv1d.weight"), stored("linear_attn.conv1d.weight"), DIM, 4, 2 * KEYS * DIM);
  expectTurned(tensor("ssm_dt.bias"), stored("linear_attn.dt_bias"), 1, 1);
  const negated = stored("linear_attn.A_log").map((x) => -Math.exp(x));
  expectTurned(tensor("ssm_a"), negated, 1, 1);
  const [out, own] = [tensor("ssm_out.weight"), stored("linear_attn.out_proj.weight")];
  const values = KEYS * SHARE * DIM;
  for (let row = 0; row < HIDDEN; row++)
    expectTurned(out.subarray(row * values, (row + 1) * values), own.subarray(row * values, (row + 1) * values), DIM, 1);
  expect(tensor("ssm_norm.weight")).toEqual(stored("linear_attn.norm.weight"));
  expect(tensor("attn_norm.weight")).toEqual(stored("input_layernorm.weight").map((x) => x + 1));
  expect(tensor("post_attention_norm.weight")).toEqual(stored("post_attention_layernorm.weight").map((x) => x + 1));
  expect(file.tensors.get("blk.0.ssm_conv1d.weight")!.shape).toEqual([160, 4]);
  const of = (key: string) => file.metadata.get(`qwen35.${key}`);
  expect(["conv_kernel", "state_size", "group_count", "time_step_rank", "inner_size"].map((key) => of(`ssm.${key}`))).toEqual([
    4, 16, 2, 6, 96,
  ]);
  expect([of("full_attention_interval"), of("attention.recurrent_layers")]).toEqual([4, undefined]);
  expect(of("rope.dimension_sections")).toEqual([2, 1, 1, 0]);
});

test("a Qwen3.5-MoE: layers that attend in no period are listed, the expert of all tokens has names of its own", async () => {
  const { file, tensor, stored } = await write("qwen3.5-moe");
  expect(file.metadata.get("qwen35moe.attention.recurrent_layers")).toEqual([true, false, false, true]);
  expect(file.metadata.get("qwen35moe.expert_shared_feed_forward_length")).toBe(40);
  for (const [to, from] of [
    ["ffn_gate_shexp", "mlp.shared_expert.gate_proj"],
    ["ffn_up_shexp", "mlp.shared_expert.up_proj"],
    ["ffn_down_shexp", "mlp.shared_expert.down_proj"],
    ["ffn_gate_inp_shexp", "mlp.shared_expert_gate"],
  ])
    expect(tensor(`${to}.weight`)).toEqual(stored(`${from}.weight`));
  expect(file.tensors.get("blk.3.ffn_up_exps.weight")!.shape).toEqual([6, 24, HIDDEN]);
});

test("a Qwen3-Next: queries, keys and values of all key heads one behind the other, and the gates by themselves", async () => {
  const { file, tensor, stored } = await write("qwen3-next");
  const own = stored("linear_attn.in_proj_qkvz.weight");
  const group = 2 * DIM + 2 * SHARE * DIM;
  const part = (first: number, size: number) =>
    [0, 1].flatMap((key) => [...own.subarray((key * group + first) * HIDDEN, (key * group + first + size) * HIDDEN)]);
  const values = SHARE * DIM;
  expect([...tensor("attn_qkv.weight")]).toEqual([...part(0, DIM), ...part(DIM, DIM), ...part(2 * DIM, values)]);
  expect([...tensor("attn_gate.weight")]).toEqual(part(2 * DIM + values, values));
  for (const [to, from] of [
    ["ssm_ba.weight", "linear_attn.in_proj_ba.weight"],
    ["ssm_dt.bias", "linear_attn.dt_bias"],
    ["ssm_out.weight", "linear_attn.out_proj.weight"],
  ] as const)
    expect(tensor(to)).toEqual(stored(from));
  expect(file.metadata.get("qwen3next.full_attention_interval")).toBe(2);
  expect(file.metadata.has("qwen3next.rope.dimension_sections")).toBe(false);
});

test("an adapter alone: rows of B, and columns of A, in the order of the matrix", async () => {
  const model = writeGgufDecoder(join(folder, "adapted"), "qwen3.5");
  const executor = await createWasmExecutor({ threads: 1 });
  const adapter = writeRandomAdapter(executor, model, join(folder, "adapter"), { rank: 2 }, 3);
  executor.close();
  const { file } = await exported({ model, adapter, adapterOnly: true, type: "f32" });
  const all = readTensors(join(adapter, "adapter_model.safetensors"));
  const own = (module: string, part: string) =>
    all.get(`base_model.model.model.layers.0.linear_attn.${module}.lora_${part}.weight`)!;
  const got = (name: string, part: string) => file.tensors.get(`blk.0.${name}.weight.lora_${part}`)!.values();
  expectTurned(got("attn_qkv", "b"), own("in_proj_qkv", "B"), DIM, 2, 2 * KEYS * DIM);
  expect(got("attn_qkv", "a")).toEqual(own("in_proj_qkv", "A"));
  expect(got("ssm_out", "b")).toEqual(own("out_proj", "B"));
  const values = KEYS * SHARE * DIM;
  for (const row of [0, 1])
    expectTurned(
      got("ssm_out", "a").subarray(row * values, (row + 1) * values),
      own("out_proj", "A").subarray(row * values, (row + 1) * values),
      DIM,
      1,
    );
});

test("what llama.cpp would compute otherwise is refused", () => {
  for (const [name, changes, message] of [
    ["qwen3.5", { linear_value_head_dim: 12 }, "qwen35 models have value heads as wide as key heads, 16, not 12"],
    ["qwen3.5", { layer_types: Array(4).fill("full_attention") }, "qwen35 models have layers with a state"],
    ["qwen3-next", { mlp_only_layers: [1] }, "qwen3next models have experts in all layers"],
    ["qwen3-next", { norm_topk_prob: false }, "qwen3next models have norm_topk_prob true"],
  ] as const) {
    expect(() => checkExportable(ggufDecoder(name, changes))).toThrow(message);
  }
});
