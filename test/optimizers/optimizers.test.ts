import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { chooseOptimizer, OPTIMIZER_NAMES, type OptimizerConfig } from "../../src/optimizers/index.ts";
import { dynamicMap } from "../../src/ops/adamw-8bit.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import golden from "../golden/optimizers/small.json";
import { expectWithin, generator, random, relativeError } from "../support/ops.ts";
import { paramsOf, trainAlone, type Trained } from "../support/optimizer.ts";

setDefaultTimeout(120_000);

type Tensors = Readonly<Record<string, ArrayLike<number>>>;

const executors: Record<string, Executor> = {
  "wasm, 1 thread": await createWasmExecutor({ threads: 1 }),
  "wasm, 2 threads": await createWasmExecutor({ threads: 2 }),
  "ort-cpu": createOrtExecutor({ threads: 1 }),
};
afterAll(() => Object.values(executors).forEach((executor) => executor.close()));

/** All values of a model one after the other. */
const joined = (tensors: Tensors): number[] => Object.keys(golden.shapes).flatMap((name) => Array.from(tensors[name]!));

function steps(trained: Trained, gradients: readonly Tensors[], rates: readonly number[], after?: (step: number) => void): void {
  for (const [i, rate] of rates.entries()) {
    trained.updates.zeroGradients();
    trained.write("gradient", gradients[i]!);
    trained.updates.step(i + 1, rate);
    after?.(i + 1);
  }
}

/** Parameters after some steps, under what small.json calls `kind`. */
const KINDS: readonly (readonly [kind: keyof typeof golden.results, config: OptimizerConfig, bound: number])[] = [
  ["adamw", { optimizer: "adamw" }, 2e-7],
  ["lion", { optimizer: "lion" }, 2e-7],
  ["sgd", { optimizer: "sgd" }, 2e-7],
  ["sgd-nesterov", { optimizer: "sgd", nesterov: true }, 2e-7],
  ["adafactor", { optimizer: "adafactor" }, 2e-7],
  ["muon", { optimizer: "muon" }, 1e-6],
  ["muon-original", { optimizer: "muon", adjustLr: "original" }, 1e-6],
  // Eight bits of a mantissa in fifteen products.
  ["muon-bf16", { optimizer: "muon" }, 1e-2],
];

describe.each(Object.keys(executors))("%s", (name) => {
  test.each(KINDS)("%s: ten steps with clipping and weight decay as in PyTorch", (kind, config, bound) => {
    const choice = chooseOptimizer({ ...config, weightDecay: golden.weightDecay });
    const trained = trainAlone(executors[name]!, choice, paramsOf(golden.shapes), golden.clip);
    trained.write("param", golden.start);
    const snapshots: Readonly<Record<string, Tensors>> = golden.results[kind];
    steps(trained, golden.gradients as readonly Tensors[], golden.rates, (step) => {
      const expected = snapshots[String(step)];
      if (!expected) return;
      const got = Object.fromEntries(Object.keys(golden.shapes).map((each) => [each, trained.read(each)]));
      expectWithin(`step ${step}`, relativeError(joined(got), joined(expected)), bound);
    });
  });
});

describe("AdamW with eight bits", () => {
  const source = openSafetensors(join(import.meta.dir, "../golden/optimizers/codes.safetensors"));
  const shapes = { weight: [63, 67], small: [31, 33], norm: [67] };
  const read = (kind: string) =>
    Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, readFloat32(source, `${kind}/${name}`, shape)]));
  const base = read("base");
  const gradients = golden.rates.map((_, step) =>
    Object.fromEntries(
      Object.entries(base).map(([name, values]) => {
        const moved = values.map((_, i) => values.at((i - 97 * step) % values.length)!);
        return [name, moved.map((value) => value * (step % 3 === 0 ? 0.25 : 1))];
      }),
    ),
  );

  test("the maps are bitsandbytes' to the bit", () => {
    expect(dynamicMap(true)).toEqual(readFloat32(source, "map1", [256]));
    expect(dynamicMap(false)).toEqual(readFloat32(source, "map2", [256]));
  });

  test.each(Object.keys(executors))("%s: ten steps as in bitsandbytes, codes and scales included", (name) => {
    const choice = chooseOptimizer({ optimizer: "adamw8bit", weightDecay: golden.weightDecay });
    const trained = trainAlone(executors[name]!, choice, paramsOf(shapes), golden.clip);
    trained.write("param", read("start"));
    steps(trained, gradients, golden.rates);
    const state = trained.bytes();
    for (const [param, expected] of Object.entries(read("param")))
      expectWithin(param, relativeError(trained.read(param), expected), 2e-6);
    // The C code of the CPU takes codes that are not the nearest.
    expectWithin("table", relativeError(trained.read("weight"), readFloat32(source, "param-table/weight", [63, 67])), 2e-3);
    const blocks = Math.ceil((63 * 67) / 256);
    for (const slot of ["codes1", "codes2"]) {
      expect(state.get(`${slot}/weight`)).toEqual(readBytes(source, source.tensors.get(`${slot}/weight`)!));
    }
    for (const [slot, bound] of [
      ["scales1", 1e-6],
      // 1 - beta2 is 1.3e-5 off once beta2 is an f32.
      ["scales2", 2e-5],
    ] as const) {
      const got = new Float32Array(state.get(`${slot}/weight`)!.buffer);
      expectWithin(slot, relativeError(got, readFloat32(source, `${slot}/weight`, [blocks])), bound);
    }
    expect([...state.keys()].filter((key) => key.endsWith("/small"))).toEqual(["param/small", "moment1/small", "moment2/small"]);
  });

  test("a moment is kept within half the distance of its map's entries", () => {
    // One step from nothing: m = (1 - beta1) g and v = (1 - beta2) g^2.
    const trained = trainAlone(executors["wasm, 1 thread"]!, chooseOptimizer({ optimizer: "adamw8bit" }), paramsOf(shapes), 0);
    trained.write("gradient", base);
    trained.updates.step(1, 1e-3);
    const state = trained.bytes();
    for (const [which, moment] of [
      [1, (g: number) => (1 - Math.fround(0.9)) * g],
      [2, (g: number) => (1 - Math.fround(0.999)) * g * g],
    ] as const) {
      const map = dynamicMap(which === 1);
      const codes = state.get(`codes${which}/weight`)!;
      const scales = new Float32Array(state.get(`scales${which}/weight`)!.buffer);
      base["weight"]!.forEach((g, i) => {
        const scale = scales[Math.floor(i / 256)]!;
        const code = codes[i]!;
        const value = moment(g) / scale;
        const nearest = map.reduce((least, entry) => Math.min(least, Math.abs(entry - value)), Infinity);
        expect(Math.abs(map[code]! - value)).toBeLessThanOrEqual(nearest + 1e-6 * Math.abs(value) + 1e-9);
      });
    }
  });
});

/** Matrices of adapters, tables, filters and vectors; some larger than a piece, with sizes that no vector divides. */
const ODD = paramsOf({
  "model.embed_tokens.weight": [101, 43],
  "model.layers.0.mlp.up_proj.weight": [67, 129],
  "model.layers.0.mlp.down_proj.weight": [129, 67],
  "base_model.model.lm_head.lora_A.weight": [1, 4111],
  "model.layers.1.mlp.gate_proj.weight": [521, 523],
  "model.layers.0.self_attn.k_proj.bias": [37],
  "model.layers.2.conv.conv.weight": [37, 1, 3],
  "model.norm.weight": [1],
});

test.each(OPTIMIZER_NAMES)("%s: all that is trained is the same to the bit with 1 and 2 threads, and finite", (optimizer) => {
  const [one, two] = ["wasm, 1 thread", "wasm, 2 threads"].map((name) => {
    const trained = trainAlone(executors[name]!, chooseOptimizer({ optimizer, weightDecay: 0.1 }), ODD, 1);
    const rng = generator(3);
    const draw = (scale: number) =>
      Object.fromEntries(ODD.map((param) => [param.name, random(rng, param.type.shape, scale).data as Float32Array]));
    trained.write("param", draw(1));
    steps(trained, [draw(1), draw(1e-3), draw(10)], [1e-2, 1e-2, 1e-3]);
    return trained;
  }) as [Trained, Trained];
  expect(one.bytes()).toEqual(two.bytes());
  for (const { name } of ODD) expect(one.read(name).every(Number.isFinite)).toBe(true);
});

test.each(OPTIMIZER_NAMES)("%s: gradients of 0 leave vectors as they are; the space between parameters stays 0", (optimizer) => {
  // SGD's weight decay goes through its momentum.
  const weightDecay = optimizer === "sgd" ? 0 : 0.5;
  const trained = trainAlone(executors["wasm, 1 thread"]!, chooseOptimizer({ optimizer, weightDecay }), ODD, 1);
  const rng = generator(4);
  const start = Object.fromEntries(ODD.map(({ name, type }) => [name, random(rng, type.shape).data as Float32Array]));
  trained.write("param", start);
  for (const count of [1, 2]) expect(trained.updates.step(count, 1e-2)).toBe(0);
  for (const { name, type } of ODD) {
    const factor = type.shape.length > 1 ? (1 - 1e-2 * weightDecay) ** 2 : 1;
    expectWithin(
      name,
      relativeError(
        trained.read(name),
        start[name]!.map((value) => value * factor),
      ),
      1e-6,
    );
  }
  const { trainable } = trained.resident;
  const values = new Float32Array(trained.executor.read(trainable.param, 4 * trainable.layout.size).slice().buffer);
  for (const { param, begin } of trainable.layout.parts) values.fill(0, begin, begin + elements(param.type.shape));
  expect(values.every((value) => value === 0)).toBe(true);
});

test.each(OPTIMIZER_NAMES)("%s: a gradient that is not finite changes nothing", (optimizer) => {
  const trained = trainAlone(executors["wasm, 1 thread"]!, chooseOptimizer({ optimizer, weightDecay: 0.5 }), ODD, 1);
  trained.write("param", { "model.norm.weight": [3] });
  const before = trained.bytes();
  trained.write("gradient", { "model.norm.weight": [NaN] });
  expect(trained.updates.step(1, 1e-2)).toBeNaN();
  expect(trained.bytes()).toEqual(before);
});
