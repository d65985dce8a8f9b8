import { expect, setDefaultTimeout, test } from "bun:test";
import { ColumnSum } from "../../src/ops/column-sum.ts";
import { checkForward, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference =
  (columns: number): Reference =>
  ([x, sum]) => [
    Array.from({ length: columns }, (_, c) =>
      x!.reduce((total, value, i) => (i % columns === c ? total + value : total), sum?.[c] ?? 0),
    ),
  ];

for (const [rows, columns] of [
  [1, 1],
  [5, 3],
  [32, 16],
  [33, 37],
  [300, 21],
  [70, 100],
] as const) {
  for (const withSum of [false, true]) {
    test(`ColumnSum of [${rows}, ${columns}]${withSum ? " added to a sum" : ""}: error 5e-7`, async () => {
      const rng = generator(rows);
      const inputs = [random(rng, [rows, columns], 1, 0.5), ...(withSum ? [random(rng, [columns])] : [])];
      const [y] = await checkForward({ op: ColumnSum, inputs, attrs: {}, reference: reference(columns), bound: 5e-7 });
      expectSameBits("3 threads", await runWasm(ColumnSum, inputs, {}, { threads: 3 }), [y!]);
      await checkOnnx({ op: ColumnSum, inputs, attrs: {}, bound: 1e-6 });
    });
  }
}

test("ColumnSum of 16384 rows of 0.1, where rounding errors have one sign: error 1e-5", async () => {
  const rows = 16384;
  const [y] = await runWasm(ColumnSum, [f32([rows, 1], new Float32Array(rows).fill(0.1))], {});
  expect(Math.abs(y![0]! / (rows * Math.fround(0.1)) - 1)).toBeLessThan(1e-5);
});
