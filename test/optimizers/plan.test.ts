import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { DTYPE_BYTES } from "../../src/base/dtype.ts";
import { elements } from "../../src/graph/types.ts";
import { Add } from "../../src/ops/add.ts";
import { Affine } from "../../src/ops/affine.ts";
import { chooseOptimizer, OPTIMIZER_NAMES, type OptimizerChoice } from "../../src/optimizers/index.ts";
import type { StateSlot, UpdateRule } from "../../src/optimizers/optimizer.ts";
import { planOptimizer, trainedTensors } from "../../src/optimizers/plan.ts";
import { ALIGNMENT } from "../../src/runtime/executor.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { userError } from "../hf/temp.ts";
import { paramsOf, trainAlone } from "../support/optimizer.ts";

setDefaultTimeout(60_000);

const executor = await createWasmExecutor({ threads: 2 });
afterAll(() => executor.close());

/** An optimizer of one rule, which adds the gradient to the parameter and 1 to all of its state. */
function counting(slots: readonly StateSlot[], reach: UpdateRule["reach"]): OptimizerChoice {
  const rule: UpdateRule = {
    name: "counting",
    slots,
    reach,
    hyperSize: 1,
    hyper: () => [0],
    update: (builder) => ({
      param: builder.value(Add, ["param", "gradient"], {}, "next"),
      ...Object.fromEntries(
        slots.map(({ name }) => [name, builder.value(Affine, [name], { alpha: 1, beta: 1 }, `${name}.next`)]),
      ),
    }),
  };
  return { ...chooseOptimizer({}), ruleOf: () => rule };
}

const slot = (name: string, per: StateSlot["per"], start = 0): StateSlot => ({ name, dtype: "f32", per, start });
const SHAPES = { a: [5, 7], b: [33, 3], norm: [9], c: [1, 40] };

test("slots for each element, row, column and matrix: their own values for each parameter, from their start on", () => {
  const slots = [slot("each", "element"), slot("row", "row", 2), slot("column", "column"), slot("matrix", "matrix", -1)];
  const trained = trainAlone(executor, counting(slots, "matrix"), paramsOf(SHAPES), 0);
  for (const name of Object.keys(SHAPES))
    trained.write("gradient", { [name]: new Float32Array(elements(SHAPES[name as "a"])).fill(1) });
  for (const count of [1, 2, 3]) trained.updates.step(count, 1);
  const tensors = trainedTensors(trained.resident.trainable, trained.optimizer);
  expect(tensors.map(({ name, type }) => `${name} ${type.shape.join("x")}`).sort()).toEqual(
    Object.entries(SHAPES)
      .flatMap(([name, shape]) => [
        `each/${name} ${shape.join("x")}`,
        `matrix/${name} 1`,
        `param/${name} ${shape.join("x")}`,
        `row/${name} ${shape[0]}`,
        `column/${name} ${shape.at(-1)}`,
      ])
      .sort(),
  );
  for (const [name, bytes] of trained.bytes()) {
    const values = new Float32Array(bytes.buffer);
    expect([name, ...new Set(values)]).toEqual([name, { param: 3, each: 3, row: 5, column: 3, matrix: 2 }[name.split("/")[0]!]!]);
  }
});

test("slots that a call across parameters cannot find are refused", () => {
  const plan = (per: StateSlot["per"], reach: UpdateRule["reach"]) => () =>
    planOptimizer(counting([slot("some", per)], reach), paramsOf(SHAPES));
  for (const per of ["row", "column", "matrix", { block: 64 }] as const)
    expect(plan(per, { multipleOf: 16 })).toThrow("rule counting: slot some does not fit what a call reaches");
  expect(plan({ block: 64 }, "matrix")).toThrow("does not fit");
  expect(plan({ block: 64 }, { multipleOf: 128 })).not.toThrow();
});

test.each(OPTIMIZER_NAMES)("%s: calls of any size of model begin where kernels may", (optimizer) => {
  // The sizes of matrices of published models, and those at which pieces begin to grow.
  for (const rows of [2 ** 25 / 577, 98_305, 151_936, 262_145].map(Math.ceil)) {
    const params = paramsOf({ "x.embed_tokens.weight": [rows, 577], "x.up_proj.weight": [1537, 577], norm: [577] });
    const { layout, updates, norms } = planOptimizer(chooseOptimizer({ optimizer, weightDecay: 0.1 }), params);
    expect(layout.size).toBeGreaterThan(2 ** 25);
    const bytes = [
      ...updates.flatMap(({ begin, offsets }) => [4 * begin, ...offsets.values()]),
      ...norms.flatMap(({ begins }) => [...begins.values()].map((begin) => 4 * begin)),
    ];
    expect(bytes.filter((each) => each % ALIGNMENT !== 0)).toEqual([]);
  }
});

describe.each(OPTIMIZER_NAMES)("%s", (optimizer) => {
  const params = paramsOf({
    ...SHAPES,
    "x.embed_tokens.weight": [300, 17],
    "x.up_proj.weight": [1000, 301],
    "x.conv.weight": [33, 1, 4],
  });
  const plan = planOptimizer(chooseOptimizer({ optimizer, weightDecay: 0.1 }), params);

  test("parameters and state lie apart, and all of them are within what is reserved", () => {
    const address = 2 ** 22;
    const flat = { param: 0, gradient: 0, layout: plan.layout };
    expect(4 * plan.layout.size).toBeLessThan(address);
    const ranges = trainedTensors(flat, { plan, address })
      .map(({ name, type, address: at }) => ({ name, at, end: at + elements(type.shape) * DTYPE_BYTES[type.dtype] }))
      .sort((a, b) => a.at - b.at);
    ranges.slice(1).forEach(({ at }, i) => expect(at).toBeGreaterThanOrEqual(ranges[i]!.end));
    expect(ranges.at(-1)!.end).toBeLessThanOrEqual(address + plan.bytes);
    expect(ranges.filter(({ name }) => name.startsWith("param/"))).toHaveLength(params.length);
  });

  test.each([
    ["side by side", plan],
    ["each by itself", planOptimizer(chooseOptimizer({ optimizer, weightDecay: 0.1 }), params, true)],
  ])("parameters %s: each element is updated once, and counted once in the norm", (_, { updates, norms }) => {
    const updated = updates.map(({ graph, begin }) => ({ graph, begins: new Map([["gradient", begin]]) }));
    for (const calls of [updated, norms]) {
      const seen = new Uint8Array(plan.layout.size);
      for (const { graph, begins } of calls) {
        for (const [input, begin] of begins) {
          const n = elements(graph.types.get(input)!.shape);
          for (let i = begin; i < begin + n; i++) seen[i]!++;
        }
      }
      const spaces = new Set(seen.keys());
      for (const { param, begin } of plan.layout.parts)
        for (let i = 0; i < elements(param.type.shape); i++) spaces.delete(begin + i);
      expect(seen.every((count, i) => count === 1 || (count === 0 && spaces.has(i)))).toBe(true);
    }
  });

  test("weight decay is that of matrices", () => {
    for (const { parts, weightDecay } of plan.runs)
      for (const { param } of parts) expect(weightDecay).toBe(param.type.shape.length > 1 ? 0.1 : 0);
  });
});

test("parameters each by itself: the same weights and norms, to the rounding of a sum", () => {
  const shapes = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`m${i}`, i % 3 === 0 ? [8, 8] : [4, 16, 1]]));
  const [flat, apart] = [false, true].map((each) => {
    const trained = trainAlone(executor, chooseOptimizer({}), paramsOf(shapes), 1, each);
    const norms = [1, 2].map((count) => {
      for (const name of Object.keys(shapes))
        trained.write("gradient", { [name]: Float32Array.from({ length: 64 }, (_, i) => Math.sin(i + count)) });
      return trained.updates.step(count, 1e-2);
    });
    return { norms, weights: Object.keys(shapes).map((name) => [...trained.read(name)]) };
  });
  apart!.norms.forEach((norm, i) => expect(norm / flat!.norms[i]!).toBeCloseTo(1, 6));
  apart!.weights.flat().forEach((weight, i) => expect(Math.abs(weight - flat!.weights.flat()[i]!)).toBeLessThan(1e-6));
});

describe("settings", () => {
  test("what is not asked for is the optimizer's own", () => {
    expect(chooseOptimizer({})).toMatchObject({ name: "adamw", learningRate: 2e-4, weightDecay: 0 });
    expect(chooseOptimizer({ optimizer: "lion", beta1: 0.95 }).settings).toEqual({
      weightDecay: 0,
      beta1: 0.95,
      beta2: 0.99,
    });
  });

  test("a hyperparameter of another optimizer is refused, with those that there are", () => {
    expect(userError(() => chooseOptimizer({ optimizer: "sgd", beta1: 0.9 }))).toBe(
      "--beta1 is no setting of the optimizer sgd, which has --weight-decay, --momentum, --nesterov; --beta1 belongs to adamw, adamw8bit, muon, lion",
    );
    expect(userError(() => chooseOptimizer({ adjustLr: "original" }))).toContain("--adjust-lr belongs to muon");
  });
});
