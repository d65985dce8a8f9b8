import { expect, test } from "bun:test";
import { RowDot, ScaleRows } from "../../src/ops/scale-rows.ts";
import { checkForward, checkGradient, expectSameBits, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

const scaled =
  (columns: number): Reference =>
  ([x, factors]) => [x!.map((value, i) => value * factors![Math.floor(i / columns)]!)];

for (const [rows, columns] of [
  [1, 1],
  [3, 2],
  [35, 37],
  [70, 16],
] as const)
  test(`ScaleRows of [${rows}, ${columns}]: error 2e-7; gradients by finite differences, error 1e-6`, async () => {
    const rng = generator(columns);
    const inputs = [random(rng, [rows, columns]), random(rng, [rows, 1])];
    const options = { op: ScaleRows, inputs, attrs: {}, reference: scaled(columns) };
    const outputs = await checkForward({ ...options, bound: 2e-7 });
    expectSameBits("3 threads", await runWasm(ScaleRows, inputs, {}, { threads: 3 }), outputs);
    for (const wrt of [[0, 1], [0], [1]]) await checkGradient({ ...options, wrt, bound: 1e-6, samples: 40 });
    await checkOnnx({ op: ScaleRows, inputs, attrs: {}, bound: 2e-7 });
  });

test("operands that do not fit are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  expect(() => ScaleRows.infer([type(3, 4), type(3)], {})).toThrow("factors f32[rows, 1]");
  expect(() => ScaleRows.infer([type(3, 4), type(4, 1)], {})).toThrow("factors f32[rows, 1]");
  expect(() => RowDot.infer([type(3, 4), type(3, 5)], {})).toThrow("two matrices");
});
