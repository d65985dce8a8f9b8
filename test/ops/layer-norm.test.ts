import { expect, setDefaultTimeout, test } from "bun:test";
import { LayerNormalization, LayerNormGrad } from "../../src/ops/layer-norm.ts";
import { checkForward, checkGradient, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const attrs = { axis: -1, epsilon: 1e-5 };

/** The normed row, and 1 / sqrt(variance + epsilon). */
function normalise(row: Float64Array): { normed: Float64Array; r: number } {
  const mean = row.reduce((sum, x) => sum + x, 0) / row.length;
  const r = 1 / Math.sqrt(row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / row.length + attrs.epsilon);
  return { normed: row.map((x) => (x - mean) * r), r };
}

const reference: Reference = ([x, scale, bias]) => {
  const columns = scale!.length;
  const y = new Float64Array(x!.length);
  for (let at = 0; at < y.length; at += columns) {
    const { normed } = normalise(x!.subarray(at, at + columns));
    normed.forEach((value, c) => (y[at + c] = value * scale![c]! + (bias?.[c] ?? 0)));
  }
  return [y];
};

const gradReference: Reference = ([dy, x, scale, sum]) => {
  const columns = scale!.length;
  const dx = new Float64Array(x!.length);
  const dscale = new Float64Array(columns);
  for (let at = 0; at < dx.length; at += columns) {
    const { normed, r } = normalise(x!.subarray(at, at + columns));
    const g = scale!.map((s, c) => s * dy![at + c]!);
    const mean = g.reduce((total, value) => total + value, 0) / columns;
    const pull = g.reduce((total, value, c) => total + value * normed[c]!, 0) / columns;
    for (let c = 0; c < columns; c++) {
      dx[at + c] = r * (g[c]! - mean - normed[c]! * pull) + (sum?.[at + c] ?? 0);
      dscale[c]! += dy![at + c]! * normed[c]!;
    }
  }
  return [dx, dscale];
};

for (const [rows, columns] of [
  [1, 5],
  [3, 3],
  [2, 64],
  [7, 37],
  [129, 19],
  [200, 128],
] as const) {
  for (const withBias of [true, false]) {
    test(`LayerNormalization of [${rows}, ${columns}]${withBias ? " with a bias" : ""}: error 5e-7; gradients by finite differences, error 5e-6`, async () => {
      const rng = generator(rows);
      const x = random(rng, [rows, columns], 2, 0.5);
      const inputs = [x, random(rng, [columns], 0.3, 1), ...(withBias ? [random(rng, [columns])] : [])];
      const options = { op: LayerNormalization, inputs, attrs, reference };
      const [y] = await checkForward({ ...options, bound: 5e-7 });
      expectSameBits("3 threads", await runWasm(LayerNormalization, inputs, attrs, { threads: 3 }), [y!]);
      const sides = withBias ? [[0, 1, 2], [0], [1, 2], [2]] : [[0, 1], [0], [1]];
      for (const wrt of sides) await checkGradient({ ...options, wrt, bound: 5e-6, samples: 50 });
      await checkOnnx({ op: LayerNormalization, inputs, attrs, bound: 1e-6 });
    });
  }

  for (const withSum of [false, true]) {
    test(`LayerNormGrad of [${rows}, ${columns}]${withSum ? " added to a sum" : ""}: error 2e-6`, async () => {
      const rng = generator(columns);
      const [dy, x] = [random(rng, [rows, columns]), random(rng, [rows, columns], 2, 0.5)];
      const inputs = [dy, x, random(rng, [columns], 0.3, 1), ...(withSum ? [random(rng, [rows, columns])] : [])];
      const bound = 2e-6;
      const outputs = await checkForward({ op: LayerNormGrad, inputs, attrs, reference: gradReference, bound });
      expectSameBits("3 threads", await runWasm(LayerNormGrad, inputs, attrs, { threads: 3 }), outputs);
      await checkOnnx({ op: LayerNormGrad, inputs, attrs, bound });
    });
  }
}

test("LayerNormalization: a mean of 200 deviations costs no more than its own rounding: error 2e-5", async () => {
  const rng = generator(3);
  const values = Array.from({ length: 5 * 70 }, () => 1000 + Math.round(4096 * (rng() - 0.5)) / 256);
  await checkForward({
    op: LayerNormalization,
    inputs: [f32([5, 70], values), f32([70], Array<number>(70).fill(1))],
    attrs,
    reference,
    bound: 2e-5,
  });
});

test("LayerNormalization: a row of one value gives the bias, a NaN or infinity stays in its row", async () => {
  const scale = f32([4], [1, 2, 3, 4]);
  const bias = f32([4], [5, 6, 7, 8]);
  const x = f32([4, 4], [3, 3, 3, 3, 1, NaN, 1, 1, 1, Infinity, 1, 1, 1, -1, 1, -1]);
  const [y] = await runWasm(LayerNormalization, [x, scale, bias], attrs);
  expect([...y!.subarray(0, 4)]).toEqual([5, 6, 7, 8]);
  expect(y!.subarray(4, 8).every(Number.isNaN)).toBe(true);
  expect(y!.subarray(8, 12).every(Number.isNaN)).toBe(true);
  [6, 4, 10, 4].forEach((value, i) => expect(y![12 + i]).toBeCloseTo(value, 4));
});

test("LayerNormalization refuses a scale or a bias of another length", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const expected = "expected x [rows, columns], scale and bias [columns] of one float type";
  expect(() => LayerNormalization.infer([type(4, 3), type(4)], attrs)).toThrow(expected);
  expect(() => LayerNormalization.infer([type(4, 3), type(3), type(4)], attrs)).toThrow(expected);
});
