import { expect, setDefaultTimeout, test } from "bun:test";
import { RMSNormalization, RMSNormGrad } from "../../src/ops/rms-norm.ts";
import { checkForward, checkGradient, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const attrs = { axis: -1, epsilon: 1e-5 };

/** 1 / sqrt(mean(x^2) + epsilon) of a row. */
const reciprocalRms = (row: Float64Array): number =>
  1 / Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / row.length + attrs.epsilon);

const reference: Reference = ([x, scale]) => {
  const columns = scale!.length;
  const y = new Float64Array(x!.length);
  for (let at = 0; at < y.length; at += columns) {
    const row = x!.subarray(at, at + columns);
    const r = reciprocalRms(row);
    row.forEach((value, c) => (y[at + c] = value * r * scale![c]!));
  }
  return [y];
};

const gradReference: Reference = ([dy, x, scale, sum]) => {
  const columns = scale!.length;
  const dx = new Float64Array(x!.length);
  const dscale = new Float64Array(columns);
  for (let at = 0; at < dx.length; at += columns) {
    const row = x!.subarray(at, at + columns);
    const r = reciprocalRms(row);
    const g = scale!.map((s, c) => s * dy![at + c]!);
    const mean = g.reduce((total, value, c) => total + value * row[c]!, 0) / columns;
    for (let c = 0; c < columns; c++) {
      dx[at + c] = r * (g[c]! - row[c]! * r * r * mean) + (sum?.[at + c] ?? 0);
      dscale[c]! += dy![at + c]! * row[c]! * r;
    }
  }
  return [dx, dscale];
};

for (const [rows, columns] of [
  [1, 2],
  [3, 3],
  [2, 64],
  [7, 37],
  [129, 19],
  [200, 128],
] as const) {
  test(`RMSNormalization of [${rows}, ${columns}]: error 5e-7; gradients by finite differences, error 5e-6`, async () => {
    const rng = generator(rows);
    const inputs = [random(rng, [rows, columns], 2), random(rng, [columns], 0.3, 1)];
    const options = { op: RMSNormalization, inputs, attrs, reference };
    const [y] = await checkForward({ ...options, bound: 5e-7 });
    expect(await runWasm(RMSNormalization, inputs, attrs, { threads: 3 })).toEqual([y!]);
    for (const wrt of [[0, 1], [0], [1]]) await checkGradient({ ...options, wrt, bound: 5e-6, samples: 50 });
    await checkOnnx({ op: RMSNormalization, inputs, attrs, bound: 1e-6 });
  });

  for (const withSum of [false, true]) {
    test(`RMSNormGrad of [${rows}, ${columns}]${withSum ? " added to a sum" : ""}: error 2e-6`, async () => {
      const rng = generator(columns);
      const x = random(rng, [rows, columns], 2);
      const inputs = [
        random(rng, [rows, columns]),
        x,
        random(rng, [columns], 0.3, 1),
        ...(withSum ? [random(rng, [rows, columns])] : []),
      ];
      const bound = 2e-6;
      const outputs = await checkForward({ op: RMSNormGrad, inputs, attrs, reference: gradReference, bound });
      expectSameBits("3 threads", await runWasm(RMSNormGrad, inputs, attrs, { threads: 3 }), outputs);
      await checkOnnx({ op: RMSNormGrad, inputs, attrs, bound });
    });
  }
}

test("RMSNormalization: a row of zeros gives zeros, a NaN or infinity stays in its row", async () => {
  const scale = f32([4], [1, 1, 1, 1]);
  const [y] = await runWasm(
    RMSNormalization,
    [f32([4, 4], [0, 0, 0, 0, 1, NaN, 1, 1, 1, Infinity, 1, 1, 3, 3, 3, 3]), scale],
    attrs,
  );
  expect([...y!.subarray(0, 4)]).toEqual([0, 0, 0, 0]);
  expect(y!.subarray(4, 8).every(Number.isNaN)).toBe(true);
  expect(y![9]).toBeNaN();
  for (const value of y!.subarray(12)) expect(value).toBeCloseTo(1, 5);
});

test("RMSNormalization refuses a scale of another length", () => {
  const types = [
    { dtype: "f32", shape: [4, 3] },
    { dtype: "f32", shape: [4] },
  ] as const;
  expect(() => RMSNormalization.infer(types, attrs)).toThrow("expected x [rows, columns] and scale [columns] of one float type");
});
