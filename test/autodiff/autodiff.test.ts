import { describe, expect, test } from "bun:test";
import { differentiate } from "../../src/autodiff/differentiate.ts";
import { fuseAccumulation } from "../../src/autodiff/fuse.ts";
import { fuse, optimise, partition } from "../../src/autodiff/partition.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { commonSubexpressions, prune } from "../../src/graph/passes.ts";
import type { Graph, TensorType } from "../../src/graph/types.ts";
import { Add } from "../../src/ops/add.ts";
import { AdamW } from "../../src/ops/adamw.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { LinearCrossEntropy } from "../../src/ops/linear-cross-entropy.ts";
import { Mul } from "../../src/ops/mul.ts";
import { RMSNormalization } from "../../src/ops/rms-norm.ts";
import { SwiGLU } from "../../src/ops/swiglu.ts";

const keepAll = () => true;
const f32 = (...shape: number[]): TensorType => ({ dtype: "f32", shape });
const LINEAR = { alpha: 1, beta: 1, transA: 0, transB: 1 };

/** y = x + (silu(x W1^T) * (x W2^T)) W3^T, a small block with a residual. */
function block(): Graph {
  const b = new GraphBuilder("block");
  b.input("x", "boundary", f32(5, 4));
  for (const name of ["w1", "w2"]) b.input(name, "param", f32(6, 4));
  b.input("w3", "param", f32(4, 6));
  const gate = b.value(Gemm, ["x", "w1"], LINEAR, "gate");
  const up = b.value(Gemm, ["x", "w2"], LINEAR, "up");
  const gated = b.value(SwiGLU, [gate, up], {}, "gated");
  const down = b.value(Gemm, [gated, "w3"], LINEAR, "down");
  b.output({ name: b.value(Add, ["x", down], {}, "y"), role: "boundary" });
  return b.build();
}

const ops = (graph: Graph) => graph.nodes.map((node) => node.op);
const inputs = (graph: Graph, role: string) => graph.inputs.filter((input) => input.role === role).map((input) => input.name);

describe("differentiate", () => {
  test("frozen weights get no gradient and save no input for it", () => {
    const forward = optimise(block());
    const all = partition(
      differentiate(forward, { trainable: new Set(["w1", "w2", "w3"]), inputGrad: true, carried: new Set() }),
      keepAll,
    );
    const one = partition(differentiate(forward, { trainable: new Set(["w3"]), inputGrad: true, carried: new Set() }), keepAll);
    expect(all.tape).toEqual(["gate", "up", "gated"]);
    expect(inputs(all.backward, "accumulator")).toEqual(["acc.w1", "acc.w2", "acc.w3"]);
    expect(inputs(one.backward, "accumulator")).toEqual(["acc.w3"]);
    const none = partition(differentiate(forward, { trainable: new Set(), inputGrad: true, carried: new Set() }), keepAll);
    expect(none.tape).toEqual(["gate", "up"]);
    expect(inputs(none.backward, "boundary")).toEqual([]);
  });

  test("without a wanted input gradient nothing below the first trainable parameter is differentiated", () => {
    const { backward } = partition(
      differentiate(optimise(block()), { trainable: new Set(["w3"]), inputGrad: false, carried: new Set() }),
      keepAll,
    );
    expect(ops(backward)).toEqual(["Gemm"]);
    expect(backward.outputs.map((output) => output.role)).toEqual(["param-grad"]);
    expect(inputs(backward, "tape")).toEqual(["gated"]);
  });

  test("an operator without a rule is refused with its reason, an unused wish too", () => {
    const b = new GraphBuilder("update");
    for (const name of ["p", "g", "m", "v"]) b.input(name, "param", f32(4));
    b.input("hyper", "batch", f32(8));
    b.output({ name: b.value(AdamW, ["p", "g", "m", "v", "hyper"], {}, "y"), role: "boundary" });
    expect(() => differentiate(b.build(), { trainable: new Set(["p"]), inputGrad: false, carried: new Set() })).toThrow(
      /AdamW.*not differentiable/,
    );
    expect(() => differentiate(block(), { trainable: new Set(), inputGrad: false, carried: new Set() })).toThrow(
      /depends on no wanted input/,
    );
  });
});

describe("partition", () => {
  const joint = differentiate(optimise(block()), { trainable: new Set(["w1", "w3"]), inputGrad: true, carried: new Set() });

  test("the taped forward is the forward with more outputs", () => {
    const { taped, tape } = partition(joint, keepAll);
    expect(ops(taped)).toEqual(ops(optimise(block())));
    expect(taped.outputs.map((output) => output.name)).toEqual(["y", ...tape]);
  });

  test("what is not kept is computed again from what is", () => {
    const { tape, backward } = partition(joint, (value) => value !== "gated");
    expect(tape).toEqual(["gate", "up"]);
    expect(ops(backward)).toContain("SwiGLU");
    const nothing = partition(joint, () => false);
    expect(nothing.tape).toEqual([]);
    expect(inputs(nothing.backward, "boundary")).toEqual(["x"]);
  });

  test("every parameter gradient is summed where the accumulator is", () => {
    const { backward } = partition(joint, keepAll);
    expect(ops(backward)).not.toContain("Add");
    for (const output of backward.outputs.filter(({ role }) => role === "param-grad")) {
      const node = backward.nodes.find((candidate) => candidate.outputs.includes(output.name))!;
      expect(node.inputs).toContain(output.updates!);
    }
  });
});

test("the fused head computes its loss in the backward operator alone", () => {
  const b = new GraphBuilder("head");
  b.input("x", "boundary", f32(5, 4));
  b.input("norm", "param", f32(4));
  b.input("w", "param", f32(7, 4));
  b.input("labels", "batch", { dtype: "i32", shape: [5] });
  b.input("scale", "batch", f32(1));
  const normed = b.value(RMSNormalization, ["x", "norm"], { axis: -1, epsilon: 1e-5 }, "normed");
  b.output({ name: b.value(LinearCrossEntropy, [normed, "w", "labels", "scale"], {}, "loss"), role: "loss" });
  const fused = fuse(differentiate(optimise(b.build()), { trainable: new Set(["w"]), inputGrad: true, carried: new Set() }));
  expect(ops(fused)).toEqual(["RMSNormalization", "LinearCrossEntropyGrad", "RMSNormGrad"]);
  expect(fused.outputs.map((output) => output.role).sort()).toEqual(["input-grad", "loss", "param-grad"]);
});

describe("passes", () => {
  /** a b + a b, and a product that nobody uses. */
  function twice(): Graph {
    const b = new GraphBuilder("twice");
    b.input("a", "boundary", f32(3));
    b.input("b", "param", f32(3));
    b.input("unused", "param", f32(3));
    const first = b.value(Mul, ["a", "b"], {});
    const second = b.value(Mul, ["a", "b"], {});
    b.value(Mul, [first, "unused"], {}, "dead");
    b.output({ name: b.value(Add, [first, second], {}, "y"), role: "boundary" });
    return b.build();
  }

  test("dead code goes, with the inputs that only it used", () => {
    const graph = prune(twice());
    expect(ops(graph)).toEqual(["Mul", "Mul", "Add"]);
    expect(graph.inputs.map((input) => input.name)).toEqual(["a", "b"]);
    expect(graph.types.has("dead")).toBe(false);
  });

  test("a common subexpression is computed once", () => {
    expect(ops(commonSubexpressions(twice()))).toEqual(["Mul", "Add"]);
  });

  /** down + x, where down has `uses` uses. */
  function sum(uses: number): Graph {
    const b = new GraphBuilder("sum");
    b.input("x", "boundary", f32(2, 2));
    b.input("w", "param", f32(2, 2));
    const product = b.value(Gemm, ["x", "w"], LINEAR, "product");
    let y = b.value(Add, ["x", product], {}, "sum");
    for (let i = 1; i < uses; i++) y = b.value(Mul, [y, product], {});
    b.output({ name: y, role: "boundary" });
    return b.build();
  }

  test("a sum becomes the product's accumulator only where the product has no other use and is not to stay exact", () => {
    expect(ops(fuseAccumulation(sum(1)))).toEqual(["Gemm"]);
    expect(ops(fuseAccumulation(sum(2)))).toEqual(["Gemm", "Add", "Mul"]);
    expect(ops(fuseAccumulation(sum(1), new Set(["sum"])))).toEqual(["Gemm", "Add"]);
  });
});
