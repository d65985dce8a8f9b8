import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";
import { MOST_RANK, RowNorm } from "../../src/ops/row-norm.ts";
import {
  checkForward,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  half,
  random,
  type Reference,
  relativeError,
  runGraph,
  runWasm,
  toFloat64,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";
import { QUANTISED_FORMATS, quantised } from "../support/quantised.ts";

setDefaultTimeout(120_000);

const reference =
  (alpha: number): Reference =>
  ([w, a, b]) => {
    const rank = Math.round(Math.sqrt((a!.length * b!.length) / w!.length));
    const rows = b!.length / rank;
    const columns = a!.length / rank;
    return [
      Float64Array.from({ length: rows }, (_, o) => {
        let sum = 0;
        for (let i = 0; i < columns; i++) {
          let v = 0;
          for (let k = 0; k < rank; k++) v += b![o * rank + k]! * a![k * columns + i]!;
          sum += (w![o * columns + i]! + alpha * v) ** 2;
        }
        return Math.sqrt(sum);
      }),
    ];
  };

// Rows for every remainder of 4; columns for every remainder of 8, below, at and above pieces of 256.
for (const [rows, columns, rank] of [
  [1, 1, 1],
  [3, 5, 2],
  [4, 8, 1],
  [6, 255, 3],
  [9, 256, 4],
  [7, 263, 8],
  [65, 517, 5],
] as const) {
  const rng = generator(rows);
  const [w, a, b] = [random(rng, [rows, columns]), random(rng, [rank, columns]), random(rng, [rows, rank])];

  test(`RowNorm of [${rows}, ${columns}] and rank ${rank}: error 3e-7 of the definition, 1e-6 of ONNX Runtime's products`, async () => {
    const [norms] = await checkForward({
      op: RowNorm,
      inputs: [w, a, b],
      attrs: { alpha: 0.7 },
      reference: reference(0.7),
      bound: 3e-7,
    });
    expectSameBits("3 threads", await runWasm(RowNorm, [w, a, b], { alpha: 0.7 }, { threads: 3 }), [norms!]);
    await checkOnnx({ op: RowNorm, inputs: [w, a, b], attrs: { alpha: 0.7 }, bound: 1e-6 });
  });

  test.each(["bf16", "f16"] as const)(`RowNorm of %s [${rows}, ${columns}] is that of the same numbers in f32`, async (dtype) => {
    const stored = half(w, dtype);
    const wide = f32(w.shape, Float32Array.from(toFloat64(stored)));
    const expected = await runWasm(RowNorm, [wide, a, b], { alpha: 0.7 });
    expectSameBits(dtype, await runWasm(RowNorm, [stored, a, b], { alpha: 0.7 }), expected);
  });
}

test.each(QUANTISED_FORMATS)("RowNorm of %s codes is that of the numbers that the codes stand for", async (format) => {
  for (const [rows, columns, rank] of [
    [5, 64, 2],
    [10, 320, 3],
    [7, 576, 8],
  ] as const) {
    const rng = generator(columns);
    const { codes, scales, values } = quantised(random(rng, [rows, columns]), format);
    const [a, b] = [random(rng, [rank, columns]), random(rng, [rows, rank])];
    const builder = new GraphBuilder("norms");
    const feeds = new Map([
      ["codes", codes],
      ["scales", scales],
      ["a", a],
      ["b", b],
    ]);
    for (const [name, { dtype, shape }] of feeds) builder.input(name, "boundary", { dtype, shape });
    const w = builder.value(Dequantize, ["codes", "scales"], {});
    builder.output({ name: builder.value(RowNorm, [w, "a", "b"], { alpha: 1.5 }, "norms"), role: "boundary" });
    const graph = builder.build();
    const expected = await runWasm(RowNorm, [values, a, b], { alpha: 1.5 });
    for (const threads of [1, 2, 3])
      expectSameBits(format, [(await runGraph(graph, feeds, { threads })).get("norms")!], expected);
    const [wide] = reference(1.5)([values, a, b].map(toFloat64));
    expectWithin(format, relativeError(expected[0]!, wide!), 3e-7);
  }
});

describe("RowNorm", () => {
  test("a row that the update cancels has norm 0, not NaN, on both executors", async () => {
    const w = f32([2, 3], [1, 2, 3, 4, 5, 6]);
    const inputs = [w, f32([1, 3], [1, 2, 3]), f32([2, 1], [-1, 0])];
    const [norms] = await runWasm(RowNorm, inputs, { alpha: 1 });
    expect(norms![0]).toBe(0);
    await checkOnnx({ op: RowNorm, inputs, attrs: { alpha: 1 }, bound: 1e-6 });
  });

  test("the largest rank; one more and other shapes are refused", async () => {
    const rng = generator(5);
    const inputs = [random(rng, [3, 20]), random(rng, [MOST_RANK, 20], 0.1), random(rng, [3, MOST_RANK], 0.1)];
    await checkForward({ op: RowNorm, inputs, attrs: { alpha: 1 }, reference: reference(1), bound: 1e-6 });
    const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
    const infer = (...types: ReturnType<typeof type>[]) => RowNorm.infer(types, { alpha: 1 });
    expect(() => infer(type(3, 20), type(1025, 20), type(3, 1025))).toThrow("rank at most 1024");
    expect(() => infer(type(3, 20), type(2, 21), type(3, 2))).toThrow("expected W f32[out, in]");
    expect(() => infer(type(3, 20), type(2, 20), type(4, 2))).toThrow("expected W f32[out, in]");
    expect(() => RowNorm.infer([type(3, 20), type(2, 20), type(3, 2)], { alpha: Infinity })).toThrow("finite alpha");
  });
});
