import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openAdapter as open, resolveTargets, writeAdapter, type AdapterToWrite } from "../../src/hf/peft/peft.ts";
import { describeModules } from "../../src/hf/peft/peft-modules.ts";
import { lowRankSettings } from "../../src/models/adapters/low-rank-settings.ts";
import { modulesOf } from "../../src/models/families/index.ts";
import { readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { type TensorData } from "../../src/hf/weights/safetensors-write.ts";
import { filesIn, fullDisk, temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const LLAMA = { family: "llama", layers: 2, modulePrefix: "model.", experts: null } as const;
const LINEAR = modulesOf(LLAMA).linear;
const openAdapter = (path: string) => open(path, LLAMA);
const golden = join(import.meta.dir, "../golden/models/qwen2/adapter");

function matrix(name: string, rows: number, columns: number): TensorData {
  return {
    name: `base_model.model.${name}.weight`,
    dtype: "f32",
    shape: [rows, columns],
    data: new Float32Array(rows * columns).fill(0.5),
  };
}

function pair(module: string, rank = 2): TensorData[] {
  return [matrix(`${module}.lora_A`, rank, 3), matrix(`${module}.lora_B`, 5, rank)];
}

const ADAPTER: AdapterToWrite = {
  base: "org/base",
  task: "CAUSAL_LM",
  method: "lora",
  own: lowRankSettings({ rank: 2, alpha: 8, dropout: 0.1 }),
  setups: new Map(),
  bias: "none",
  modulesToSave: [],
  targets: ["q_proj", "up_proj"],
  layers: null,
  parameters: [],
  exclude: null,
  tensors: [...pair("model.layers.0.self_attn.q_proj"), ...pair("model.layers.0.mlp.up_proj")],
};

let folders = 0;
/** Writes `ADAPTER` with changes to its tensors and to its written configuration. */
function written(changes: Partial<AdapterToWrite> = {}, config: object = {}): string {
  const target = join(folder, `adapter-${folders++}`);
  writeAdapter(target, { ...ADAPTER, ...changes });
  const path = join(target, "adapter_config.json");
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, "utf8")) as object), ...config }));
  return target;
}

describe("reading", () => {
  test("an adapter that PEFT saved", () => {
    const adapter = openAdapter(golden);
    expect(adapter).toMatchObject({ base: null, own: { rank: 4, alpha: 6, dropout: 0 } });
    expect(adapter.targets).toEqual([...LINEAR].sort());
    expect(adapter.modules.size).toBe(14);
    expect(adapter.modules.get("model.layers.1.mlp.down_proj")!.parts.get("lora_A.weight")!.shape).toEqual([4, 37]);
    adapter.source.close();
  });

  test("what was written comes back", () => {
    const adapter = openAdapter(written());
    expect(adapter).toMatchObject({ base: "org/base", own: ADAPTER.own, targets: ["q_proj", "up_proj"] });
    for (const { setup } of adapter.modules.values()) expect(setup).toEqual({ rank: 2, scale: 4 });
    expect(readFloat32(adapter.source, "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight", [5, 2])[9]).toBe(0.5);
    adapter.source.close();
  });

  test("rsLoRA scales by alpha / sqrt(rank)", () => {
    const own = lowRankSettings({ rank: 2, alpha: 8, rslora: true });
    for (const { setup } of openAdapter(written({ own })).modules.values())
      expect(setup).toEqual({ rank: 2, scale: 8 / Math.SQRT2 });
  });

  test("rank and alpha patterns, by end of the name or whole name", () => {
    const tensors = [
      ...pair("model.layers.0.self_attn.q_proj", 3),
      ...pair("model.layers.1.self_attn.q_proj"),
      ...pair("model.layers.0.mlp.up_proj"),
    ];
    const target = written(
      { tensors },
      { rank_pattern: { "layers.0.self_attn.q_proj": 3 }, alpha_pattern: { "^model\\.layers\\.0\\.mlp\\.up_proj": 6 } },
    );
    const { modules, source } = openAdapter(target);
    expect([...modules.values()].map(({ setup }) => setup)).toEqual([
      { rank: 2, scale: 3 },
      { rank: 3, scale: 8 / 3 },
      { rank: 2, scale: 4 },
    ]);
    expect([...modules.keys()]).toEqual([
      "model.layers.0.mlp.up_proj",
      "model.layers.0.self_attn.q_proj",
      "model.layers.1.self_attn.q_proj",
    ]);
    source.close();
  });

  test("patterns may be regular expressions, the first that matches counts; what could run long or mean something else is refused", () => {
    const rank = (rank_pattern: Record<string, number>) => {
      const { modules, source } = openAdapter(written({}, { rank_pattern, r: 9 }));
      source.close();
      return modules.size;
    };
    for (const key of [
      "layers\\.[01]\\..*",
      "(self_attn|mlp)\\.(?:q|up)_proj",
      "^model\\.layers\\.\\d+\\.\\w+\\.\\w+",
      ".*_proj",
    ])
      expect(rank({ [key]: 2, q_proj: 9, up_proj: 9 })).toBe(2);
    // Not the end of a part of a name.
    expect(userError(() => rank({ _proj: 2 }))).toContain("says rank 9");
    for (const key of ["(\\w+)+x", "(?P<a>q)_proj", "(a|b)*", "[q", "(q)\\1", "\\Aq", "q_proj$\n", ".*".repeat(5), "(?=q)q_proj"])
      expect(userError(() => rank({ [key]: 2 }))).toContain("is not understood");
  });

  test("a matrix of a module that the configuration leaves out is refused", () => {
    const two = [...ADAPTER.tensors, ...pair("model.layers.3.self_attn.q_proj")];
    const openWith = (config: object) => openAdapter(written({ tensors: two }, config)).source.close();
    for (const config of [
      {},
      { layers_to_transform: [0, 3] },
      { layers_to_transform: [] },
      { layers_to_transform: [0, 3], layers_pattern: ["h", "layers"] },
      { target_modules: ".*(q|up)_proj" },
      { target_modules: ["model.layers.3.self_attn.q_proj", "q_proj", "up_proj"], layers_to_transform: 0 },
    ])
      openWith(config);
    for (const config of [
      { layers_to_transform: [0, 1] },
      { layers_to_transform: 3 },
      { layers_to_transform: [0, 3], layers_pattern: "h" },
      { target_modules: ["q_proj"] },
      { target_modules: ["up_proj", "_proj"] },
    ])
      expect(userError(() => openWith(config))).toContain("is none that adapter_config.json names");
  });

  test("modules are described by names and layers, or one by one where blocks have different ones", () => {
    const name = (layer: number, module: string) => `model.layers.${layer}.${module}`;
    const both = (layer: number) => [name(layer, "self_attn.q_proj"), name(layer, "mlp.up_proj")];
    const targets = ["q_proj", "up_proj"];
    const model = { layers: 3, modulePrefix: "model.", experts: null } as const;
    expect(describeModules([0, 1, 2].flatMap(both), model)).toEqual({ targets, layers: null, parameters: [] });
    expect(describeModules([2, 0].flatMap(both), model)).toEqual({ targets, layers: [0, 2], parameters: [] });
    const uneven = [...both(0), name(2, "mlp.up_proj")];
    expect(describeModules(uneven, model)).toEqual({ targets: [...uneven].sort(), layers: null, parameters: [] });
    const target = written({ ...describeModules(uneven, model), tensors: uneven.flatMap((module) => pair(module)) });
    const { modules, source } = openAdapter(target);
    expect([...modules.keys()].sort()).toEqual([...uneven].sort());
    source.close();
  });

  test("layers are written as PEFT's layers_to_transform", () => {
    const target = written({ layers: [0] });
    const config = JSON.parse(readFileSync(join(target, "adapter_config.json"), "utf8")) as Record<string, unknown>;
    expect(config).toMatchObject({ layers_to_transform: [0], layers_pattern: null });
    openAdapter(target).source.close();
  });

  test("what is not supported is refused by name", () => {
    const cases: [object, string][] = [
      [{ use_dora: true }, "lacks base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"],
      [{ bias: "some" }, 'bias "some"'],
      [{ modules_to_save: 3 }, '"modules_to_save" is 3'],
      [{ peft_type: "OFT" }, 'peft_type "OFT"'],
      [{ init_lora_weights: "pissa" }, 'init_lora_weights "pissa"'],
      [{ lora_bias: true }, "lora_bias"],
      [{ kasa_config: {}, r: 2 }, "kasa_config"],
      [{ layer_replication: [[0, 1]] }, "layer_replication"],
      [{ trainable_token_indices: [3] }, "trainable_token_indices"],
      [{ r: 0 }, '"r" is 0'],
      [{ r: 3 }, "says rank 3"],
      [{ lora_alpha: "8" }, '"lora_alpha" is "8"'],
    ];
    for (const [config, expected] of cases) expect(userError(() => openAdapter(written({}, config)))).toContain(expected);
  });

  test("missing files and matrices", () => {
    expect(userError(() => openAdapter(join(folder, "none")))).toContain("adapter_config.json: no such file");
    const target = join(folder, "no-tensors");
    mkdirSync(target);
    cpSync(join(golden, "adapter_config.json"), join(target, "adapter_config.json"));
    expect(userError(() => openAdapter(target))).toContain("adapter_model.safetensors: no such file");
    expect(userError(() => openAdapter(written({ tensors: ADAPTER.tensors.slice(0, 3) })))).toContain(
      "lacks base_model.model.model.layers.0.mlp.up_proj.lora_B.weight",
    );
    expect(userError(() => openAdapter(written({ tensors: [] })))).toContain("holds no matrices of an adapter");
    expect(userError(() => openAdapter(written({ tensors: [matrix("model.embed_tokens.lora_embedding_A", 2, 3)] })))).toContain(
      "is no part of the adapter",
    );
  });
});

test("target modules: names, all-linear, nothing; in the family's own words", () => {
  expect(resolveTargets(["all-linear"], LLAMA)).toEqual([...LINEAR]);
  expect(resolveTargets([], LLAMA)).toEqual([...LINEAR]);
  expect(resolveTargets(["up_proj", "q_proj"], LLAMA)).toEqual(["q_proj", "up_proj"]);
  expect(userError(() => resolveTargets(["q_proj", "qproj"], LLAMA))).toContain('"qproj" is unknown');
  expect(resolveTargets(["all-linear"], { family: "phi3" })).toEqual(["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]);
  expect(resolveTargets(["w2", "wqkv"], { family: "internlm2" })).toEqual(["wqkv", "w2"]);
  expect(userError(() => resolveTargets(["q_proj"], { family: "internlm2" }))).toBe(
    'target module "q_proj" is unknown in models of type internlm2; expected all-linear or some of wqkv, wo, w1, w3, w2, output, tok_embeddings',
  );
});

test("a disk that fills up at any byte leaves no adapter, or the one that was there", () => {
  const whole = written();
  writeAdapter(whole, ADAPTER);
  const needed = filesIn(whole).reduce((sum, name) => sum + readFileSync(join(whole, name)).length, 0);
  const target = join(folder, "full");
  for (let capacity = 0; capacity < needed; capacity += 50) {
    expect(userError(() => writeAdapter(target, ADAPTER, fullDisk(capacity)))).toContain("disk is full");
    expect(filesIn(target)).toEqual([]);
  }
  writeAdapter(target, ADAPTER);
  const before = filesIn(target).map((name) => readFileSync(join(target, name)));
  expect(userError(() => writeAdapter(target, { ...ADAPTER, base: "org/other" }, fullDisk(100)))).toContain("disk is full");
  expect(filesIn(target).map((name) => readFileSync(join(target, name)))).toEqual(before);
});
