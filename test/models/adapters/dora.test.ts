import { expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../../src/graph/builder.ts";
import { typeOf } from "../../../src/graph/types.ts";
import { linear, ParamScope } from "../../../src/models/linear.ts";
import { uniformAdapters } from "../../../src/models/tuning.ts";
import { PhiloxDropout } from "../../../src/ops/dropout.ts";
import { f32, generator, i32, random, relativeError, runGraph, runWasm, type TestTensor, toFloat64 } from "../../support/ops.ts";

setDefaultTimeout(120_000);

const [TOKENS, IN, OUT, RANK, SCALE, PROBABILITY, SITE] = [11, 13, 9, 3, 1.25, 0.4, 5];

/** The rows of x times the rows of y: x y^T. */
function product(x: Float64Array, y: Float64Array, inner: number): Float64Array {
  const [rows, columns] = [x.length / inner, y.length / inner];
  return Float64Array.from({ length: rows * columns }, (_, at) => {
    let sum = 0;
    for (let i = 0; i < inner; i++) sum += x[Math.floor(at / columns) * inner + i]! * y[(at % columns) * inner + i]!;
    return sum;
  });
}

test.each([true, false])(
  "DoRA's layer with dropout, bias: %j: as PEFT's forward in training, with our mask; error 1e-6",
  async (bias) => {
    const rng = generator(7);
    const x = random(rng, [TOKENS, IN]);
    const builder = new GraphBuilder("layer");
    builder.input("x", "boundary", { dtype: "f32", shape: [TOKENS, IN] });
    builder.input("rng", "batch", { dtype: "i32", shape: [2] });
    builder.input("segment", "segment", { dtype: "i32", shape: [1] });
    const tuning = uniformAdapters({
      method: "dora",
      rank: RANK,
      scale: SCALE,
      dropout: PROBABILITY,
      targets: new Set(["q_proj"]),
    });
    const scope = new ParamScope(builder, "model.layers.0.", tuning, () => "f32");
    const module = "self_attn.q_proj";
    const y = linear(scope, "x", { module, inFeatures: IN, outFeatures: OUT, bias, site: SITE });
    builder.output({ name: y, role: "boundary" });
    const graph = builder.build();
    const keys = { rng: i32([2], [77, 3]), segment: i32([1], [2]) };
    const feeds = new Map<string, TestTensor>([["x", x], ...Object.entries(keys)]);
    for (const { name } of graph.inputs)
      if (!feeds.has(name)) feeds.set(name, random(rng, typeOf(graph, name).shape, 1, name.endsWith("magnitude_vector") ? 3 : 0));
    const [mask] = await runWasm(
      PhiloxDropout,
      [f32([TOKENS, IN], new Float32Array(TOKENS * IN).fill(1)), keys.rng, keys.segment],
      { probability: PROBABILITY, site: SITE },
    );
    const value = (suffix: string) => toFloat64(feeds.get(`${module}.${suffix}`)!);
    const [w, a, b, magnitude] = ["weight", "lora_A", "lora_B", "lora_magnitude_vector"].map(value) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const d = toFloat64(x).map((v, i) => v * mask![i]!);
    // B A: the columns of A are the rows of its transposed.
    const columns = Float64Array.from({ length: IN * RANK }, (_, at) => a[(at % RANK) * IN + Math.floor(at / RANK)]!);
    const update = product(b, columns, RANK);
    const norms = Float64Array.from({ length: OUT }, (_, o) =>
      Math.hypot(...Array.from({ length: IN }, (__, i) => w[o * IN + i]! + SCALE * update[o * IN + i]!)),
    );
    const [base, dropped, low] = [product(toFloat64(x), w, IN), product(d, w, IN), product(product(d, a, IN), b, RANK)];
    const expected = base.map((result, at) => {
      const factor = magnitude[at % OUT]! / norms[at % OUT]!;
      const own = bias ? toFloat64(feeds.get(`${module}.bias`)!)[at % OUT]! : 0;
      return result + own + (factor - 1) * dropped[at]! + factor * SCALE * low[at]!;
    });
    const actual = (await runGraph(graph, feeds)).get(y)!;
    expect(relativeError(actual, expected)).toBeLessThan(1e-6);
  },
);
