import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { differentiate } from "../../../src/autodiff/differentiate.ts";
import { createDecoder } from "../../../src/generate/open-decoder.ts";
import { accumulatorOf } from "../../../src/graph/segment.ts";
import { GraphBuilder } from "../../../src/graph/builder.ts";
import { type Graph, typeOf } from "../../../src/graph/types.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import { openAdapterFor } from "../../../src/hf/peft/check-adapter.ts";
import { mergeAdapter } from "../../../src/hf/peft/merge.ts";
import { type Adapter, writeAdapterConfig } from "../../../src/hf/peft/peft.ts";
import { openModelWeights } from "../../../src/gguf/read/open-weights.ts";
import { adapterKind } from "../../../src/models/adapters/index.ts";
import { FAMILIES } from "../../../src/models/families/index.ts";
import { linear, ParamScope } from "../../../src/models/linear.ts";
import type { AdapterTuning } from "../../../src/models/tuning.ts";
import { chooseOptimizer } from "../../../src/optimizers/index.ts";
import { planOptimizer } from "../../../src/optimizers/plan.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { temporaryFolder, userError } from "../../hf/temp.ts";
import { createExporter, modelWithTokenizer } from "../../support/gguf-models.ts";
import { type GoldenFamily, modelFolder, readTensors } from "../../support/golden.ts";
import { f32, generator, random, relativeError, runGraph, type TestTensor, toFloat64 } from "../../support/ops.ts";
import { paramsOf, trainAlone } from "../../support/optimizer.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const golden = (name: string) => join(import.meta.dir, "../../golden/adapters", name);
const executor = await createWasmExecutor({ threads: 2 });
afterAll(() => executor.close());

describe("a layer", () => {
  const [TOKENS, IN, OUT] = [11, 13, 9];
  const MODULE = "mlp.up_proj";

  function layer(scaled: "inputs" | "outputs", bias: boolean): Graph {
    const builder = new GraphBuilder("layer");
    builder.input("x", "boundary", { dtype: "f32", shape: [TOKENS, IN] });
    const tuning: AdapterTuning = { method: "ia3", dropout: 0, adapts: () => ({ scaled }), frozen: false };
    const scope = new ParamScope(builder, "model.layers.0.", tuning, () => "f32");
    const y = linear(scope, "x", { module: MODULE, inFeatures: IN, outFeatures: OUT, bias, site: 0 });
    builder.output({ name: y, role: "boundary" });
    return builder.build();
  }

  /** The sum of y dy in float64, by the formula. */
  function objective(
    scaled: "inputs" | "outputs",
    { x, w, b, l, dy }: Record<"x" | "w" | "b" | "l" | "dy", Float64Array>,
  ): number {
    let sum = 0;
    for (let t = 0; t < TOKENS; t++) {
      for (let o = 0; o < OUT; o++) {
        let y = 0;
        for (let i = 0; i < IN; i++) y += (scaled === "inputs" ? l[i]! : 1) * x[t * IN + i]! * w[o * IN + i]!;
        y += b[o] ?? 0;
        sum += dy[t * OUT + o]! * (scaled === "outputs" ? l[o]! : 1) * y;
      }
    }
    return sum;
  }

  test.each([
    ["outputs", true],
    ["outputs", false],
    ["inputs", true],
    ["inputs", false],
  ] as const)("%s are scaled, bias: %j: result, and gradients by finite differences, error 1e-6", async (scaled, bias) => {
    const forward = layer(scaled, bias);
    const factors = `${MODULE}.ia3_l`;
    expect(typeOf(forward, factors).shape).toEqual(scaled === "inputs" ? [1, IN] : [OUT, 1]);
    const joint = differentiate(forward, { trainable: new Set([factors]), inputGrad: true, carried: new Set() }).graph;
    const rng = generator(7);
    const feeds = new Map<string, TestTensor>();
    for (const { name } of joint.inputs) {
      const { shape } = typeOf(joint, name);
      feeds.set(
        name,
        name === accumulatorOf(factors)
          ? f32(shape, new Float32Array(IN * OUT).subarray(0, shape[0]! * shape[1]!))
          : random(rng, shape),
      );
    }
    const value = (name: string) => toFloat64(feeds.get(name) ?? null);
    const output = forward.outputs[0]!.name;
    const at = {
      x: value("x"),
      w: value(`${MODULE}.weight`),
      b: value(`${MODULE}.bias`),
      l: value(factors),
      dy: value(`d.${output}`),
    };
    // The result is the derivative by dy. The sum is linear in each of its arguments, so that any step will do.
    const derivative = (name: "x" | "l" | "dy") =>
      at[name].map((_, i) => objective(scaled, at) - objective(scaled, { ...at, [name]: at[name].with(i, at[name][i]! - 1) }));
    const sum = joint.outputs.find(({ updates }) => updates !== undefined)!;
    const gradient = joint.outputs.find(({ role }) => role === "input-grad")!.name;
    const results = await runGraph(joint, feeds, { shared: new Map([[sum.name, sum.updates!]]) });
    const plain = (await runGraph(forward, new Map([...feeds].filter(([name]) => forward.types.has(name))))).get(output)!;
    expect(relativeError(plain, derivative("dy"))).toBeLessThan(1e-6);
    expect(relativeError(results.get(sum.name)!, derivative("l"))).toBeLessThan(1e-6);
    expect(relativeError(results.get(gradient)!, derivative("x"))).toBeLessThan(1e-6);
  });
});

test("a run that names no targets adapts what PEFT does, by family, and keys, values and the last of the MLP in others", () => {
  const llama = ["k_proj", "v_proj", "down_proj"];
  const queries = ["q_proj", "v_proj", "down_proj"];
  // TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING of PEFT 0.21.
  const ofPeft = { llama, mistral: llama, gemma: queries, gemma2: queries, gemma3_text: queries, qwen2: queries, qwen3: queries };
  const others = {
    phi3: ["qkv_proj", "down_proj"],
    internlm2: ["wqkv", "w2"],
    lfm2: ["k_proj", "v_proj", "w2"],
    lfm2_moe: ["k_proj", "v_proj", "w2"],
    granitemoehybrid: ["k_proj", "v_proj", "output_linear"],
    // Experts take no part.
    qwen3_moe: ["k_proj", "v_proj"],
    olmoe: ["k_proj", "v_proj"],
    gpt_oss: ["k_proj", "v_proj"],
    qwen3_next: ["k_proj", "v_proj"],
    phi: ["q_proj", "v_proj", "fc2"],
    opt: ["q_proj", "k_proj", "fc2"],
    gpt2: ["c_attn"],
    gpt_neox: ["query_key_value", "dense_4h_to_h"],
    starcoder2: ["k_proj", "v_proj", "c_proj"],
  };
  // The last parts of their names do not tell the last layer of the MLP from others.
  const bert = ["key", "value"];
  const encoders = { bert, roberta: bert, "xlm-roberta": bert, distilbert: ["k_lin", "v_lin", "lin2"], modernbert: ["Wqkv"] };
  const expected: Readonly<Record<string, string[]>> = { ...ofPeft, ...others, ...encoders };
  for (const { type, modules } of FAMILIES)
    expect([type, adapterKind("ia3").targets!.of(modules)]).toEqual([type, expected[type] ?? llama]);
});

let copies = 0;
/** A fixture with other settings. */
function changed(name: string, changes: object): string {
  const target = join(folder, `adapter-${copies++}`);
  cpSync(golden(name), target, { recursive: true });
  const path = join(target, "adapter_config.json");
  writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, "utf8")) as object), ...changes }));
  return target;
}

function open(base: GoldenFamily, path: string): Adapter {
  const config = loadConfig(modelFolder(base));
  const source = openModelWeights(modelFolder(base), config);
  try {
    const adapter = openAdapterFor(source, path, config);
    adapter.source.close();
    return adapter;
  } finally {
    source.close();
  }
}

/** The modules whose inputs are scaled, and those whose outputs are, without the name's begin. */
function sides({ modules }: Pick<Adapter, "modules">) {
  const of = (wanted: string) =>
    [...modules].flatMap(([name, { setup }]) => ((setup as { scaled: string }).scaled === wanted ? [name.slice(13)] : [])).sort();
  return { inputs: of("inputs"), outputs: of("outputs") };
}

describe("adapter_config.json", () => {
  test("names, or a regular expression, say whose inputs are scaled", () => {
    const usual = {
      inputs: ["0.mlp.down_proj", "1.mlp.down_proj"],
      outputs: ["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"],
    };
    for (const feedforward_modules of [["down_proj"], ["model.layers.0.mlp.down_proj", "n_proj"], ".*down_proj"])
      expect(sides(open("qwen2", changed("ia3", { feedforward_modules })))).toEqual(usual);
    expect(sides(open("internlm3", golden("ia3-patterns")))).toMatchObject({
      inputs: ["0.mlp.down_proj", "1.mlp.down_proj", "1.mlp.up_proj"],
    });
  });

  test.each([
    [
      { feedforward_modules: [] },
      /down_proj" has ia3_l \[1, 37\], but adapter_config.json says that it is no feedforward module/,
    ],
    [{ feedforward_modules: "down_proj" }, /down_proj" has ia3_l .* that it is no feedforward module/],
    [{ feedforward_modules: ["_proj"] }, /has ia3_l \[\d+, 1\], but adapter_config.json says that it is a feedforward module/],
    [{ feedforward_modules: "(a+)+" }, /the pattern "\(a\+\)\+" is not understood/],
    [{ feedforward_modules: 3 }, /"feedforward_modules" is 3/],
    [{ feedforward_modules: null }, /"feedforward_modules" is null/],
    [{ fan_in_fan_out: true }, /fan_in_fan_out is not supported; expected an adapter of LoRA, DoRA or IA3/],
    [{ target_modules: ["q_proj"] }, /is none that adapter_config.json names/],
    [
      { target_modules: ["q_proj", "v_proj", "down_proj", "k_proj"] },
      /lacks base_model.model.model.layers.0.self_attn.k_proj.ia3_l/,
    ],
    [{ peft_type: "LORA" }, /"r" is missing/],
  ] as const)("%j is refused", (changes, message) => {
    expect(userError(() => open("qwen2", changed("ia3", changes)))).toMatch(message);
  });

  test("the adapter of another model is refused by the side that it scales", () => {
    const other = changed("ia3", {});
    expect(userError(() => open("smollm2", other))).toMatch(/is .*\[\d+, \d+\], the adapter's update is \[(any, \d+|\d+, any)\]/);
  });

  test("where not all blocks are adapted, or not all alike, modules are named one by one: PEFT has no layers_to_transform for it", () => {
    const inputs = { scaled: "inputs" };
    const outputs = { scaled: "outputs" };
    const write = (targets: readonly string[], layers: readonly number[] | null, setups: Readonly<Record<string, object>>) => {
      const fixed = {
        base: "base",
        task: "CAUSAL_LM",
        method: "ia3",
        own: {},
        bias: "none",
        modulesToSave: [],
        parameters: [],
        exclude: null,
      } as const;
      const config = { ...fixed, targets, layers, setups: new Map(Object.entries(setups)) };
      writeAdapterConfig(folder, config);
      return JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")) as Record<string, unknown>;
    };
    const setups = { "model.layers.0.mlp.up_proj": outputs, "model.layers.0.mlp.down_proj": inputs };
    expect(write(["up_proj", "down_proj"], null, setups)).toEqual({
      base_model_name_or_path: "base",
      fan_in_fan_out: false,
      feedforward_modules: ["down_proj"],
      inference_mode: true,
      init_ia3_weights: true,
      modules_to_save: null,
      peft_type: "IA3",
      target_modules: ["down_proj", "up_proj"],
      task_type: "CAUSAL_LM",
    });
    expect(write(["up_proj", "down_proj"], [0], setups)).toMatchObject({
      feedforward_modules: ["model.layers.0.mlp.down_proj"],
      target_modules: ["model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj"],
    });
    const mixed = { ...setups, "model.layers.1.mlp.up_proj": inputs, "model.layers.1.mlp.down_proj": inputs };
    expect(write(["up_proj", "down_proj"], null, mixed)).toMatchObject({
      feedforward_modules: ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "model.layers.1.mlp.up_proj"],
      target_modules: Object.keys(mixed).sort(),
    });
  });
});

test.each([
  ["ia3", "qwen2"],
  ["ia3-patterns", "internlm3"],
] as const)("%s merged into f32 weights: the logits are the adapter's, relative error 1e-6", (name, base) => {
  const merged = join(folder, `${name}-merged`);
  mergeAdapter({ base: modelFolder(base), adapter: golden(name), output: merged });
  const config = loadConfig(modelFolder(base));
  const logits = (path: string, adapterPath: string | null) => {
    const source = openModelWeights(path, config);
    const adapter = adapterPath === null ? null : openAdapterFor(source, adapterPath, config);
    const result = createDecoder(executor, { config, source, adapter, maxTokens: 16 }).feed([5, 9, 2, 7, 11, 3]);
    source.close();
    adapter?.source.close();
    return Float32Array.from(result);
  };
  const [adapted, alone, without] = [
    logits(modelFolder(base), golden(name)),
    logits(merged, null),
    logits(modelFolder(base), null),
  ];
  expect(relativeError(alone, adapted)).toBeLessThan(1e-6);
  expect(relativeError(without, adapted)).toBeGreaterThan(1e-2);
});

test("GGUF: merged in, biases too; an adapter alone has no place in it", async () => {
  const model = modelWithTokenizer("qwen2", join(folder, "qwen2"));
  const exported = createExporter(folder);
  const { file } = await exported({ model, adapter: golden("ia3"), type: "f32" });
  const merged = readTensors(join(golden("ia3"), "merged.safetensors"));
  const names = {
    "blk.0.attn_v.weight": "0.self_attn.v_proj.weight",
    "blk.0.attn_v.bias": "0.self_attn.v_proj.bias",
    "blk.1.ffn_down.weight": "1.mlp.down_proj.weight",
  };
  for (const [name, ours] of Object.entries(names))
    expect(relativeError(file.tensors.get(name)!.values(), merged.get(`model.layers.${ours}`)!)).toBeLessThan(1e-6);
  await expect(exported({ model, adapter: golden("ia3"), adapterOnly: true, type: "f32" })).rejects.toThrow(
    "llama.cpp's adapters have no place for an adapter of the kind ia3; write the model with the adapter merged in: remat merge",
  );
});

test("optimizers take factors for the vectors that they are: no weight decay, and AdamW's where Muon leaves vectors to it", () => {
  const params = paramsOf({
    "base_model.model.model.layers.0.self_attn.k_proj.ia3_l": [43, 1],
    "base_model.model.model.layers.0.mlp.down_proj.ia3_l": [1, 67],
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": [1, 67],
  });
  const { runs } = planOptimizer(chooseOptimizer({ optimizer: "muon", weightDecay: 0.1 }), params);
  expect(runs.map(({ rule, weightDecay, parts }) => [rule.name, weightDecay, parts.length])).toEqual([
    ["muon", 0.1, 1],
    ["adamw", 0, 2],
  ]);
});

test("Adafactor moves factors of shape [n, 1] or [1, n] as a vector, relative error 1e-6", () => {
  const shapes = { a: [43, 1], b: [1, 43], c: [43] };
  const trained = trainAlone(executor, chooseOptimizer({ optimizer: "adafactor" }), paramsOf(shapes), 0);
  const rng = generator(3);
  const same = () => {
    const { data } = random(rng, [43]);
    return { a: data, b: data, c: data };
  };
  trained.write("param", { a: new Float32Array(43).fill(1), b: new Float32Array(43).fill(1), c: new Float32Array(43).fill(1) });
  for (const count of [1, 2, 3]) {
    trained.write("gradient", same());
    trained.updates.step(count, 0.1);
  }
  for (const name of ["a", "b"]) expect(relativeError(trained.read(name), trained.read("c"))).toBeLessThan(1e-6);
  expect(relativeError(trained.read("c"), new Float32Array(43).fill(1))).toBeGreaterThan(0.01);
});
