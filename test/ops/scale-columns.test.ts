import { expect, setDefaultTimeout, test } from "bun:test";
import { ColumnDot, ScaleColumns } from "../../src/ops/scale-columns.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  f32,
  generator,
  random,
  type Reference,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const scaled =
  (columns: number): Reference =>
  ([x, magnitude, norm, c]) => [
    x!.map((value, i) => {
      const column = i % columns;
      const addend = !c || c.length === 0 ? 0 : c[c.length === columns ? column : i]!;
      return (value * magnitude![column]!) / (norm?.[column] ?? 1) + addend;
    }),
  ];

const dots =
  (columns: number): Reference =>
  ([dy, x, norm, sum]) => [
    Array.from({ length: columns }, (_, column) => {
      let total = 0;
      for (let i = column; i < dy!.length; i += columns) total += dy![i]! * x![i]!;
      return (sum?.[column] ?? 0) + total / (norm?.[column] ?? 1);
    }),
  ];

const positive = (rng: () => number, columns: number): TestTensor =>
  f32(
    [columns],
    Array.from({ length: columns }, () => 0.5 + rng()),
  );

// Columns for every remainder of 4 and of 16, more than one piece of factors (4096); rows for several partial sums (32).
for (const [rows, columns] of [
  [1, 1],
  [2, 3],
  [5, 16],
  [33, 37],
  [70, 18],
  [3, 4099],
] as const) {
  for (const [addend, withNorm] of [
    ["none", true],
    ["row", true],
    ["matrix", true],
    ["none", false],
    ["row", false],
  ] as const) {
    test(`ScaleColumns of [${rows}, ${columns}], norm: ${withNorm}, c: ${addend}: error 2e-7; gradients by finite differences, error 2e-6`, async () => {
      const rng = generator(columns);
      const c = { none: null, row: random(rng, [columns]), matrix: random(rng, [rows, columns]) }[addend];
      const inputs = [random(rng, [rows, columns]), random(rng, [columns]), withNorm ? positive(rng, columns) : null, c];
      const reference = scaled(columns);
      // With one row a c of the matrix's shape is none of the vector's: the reference reads both alike.
      const [y] = await checkForward({ op: ScaleColumns, inputs, attrs: {}, reference, bound: 2e-7 });
      expectSameBits("3 threads", await runWasm(ScaleColumns, inputs, {}, { threads: 3 }), [y!]);
      const wrt = c ? [0, 1, 3] : [0, 1];
      await checkGradient({ op: ScaleColumns, inputs, attrs: {}, reference, wrt, bound: 2e-6, samples: 60 });
      await checkOnnx({ op: ScaleColumns, inputs, attrs: {}, bound: 1e-6 });
    });
  }

  for (const [withNorm, withSum] of [
    [true, false],
    [true, true],
    [false, false],
    [false, true],
  ] as const) {
    test(`ColumnDot of [${rows}, ${columns}], norm: ${withNorm}${withSum ? ", added to a sum" : ""}: error 1e-6`, async () => {
      const rng = generator(rows);
      const inputs = [
        random(rng, [rows, columns]),
        random(rng, [rows, columns]),
        withNorm ? positive(rng, columns) : null,
        ...(withSum ? [random(rng, [columns])] : []),
      ];
      const [y] = await checkForward({ op: ColumnDot, inputs, attrs: {}, reference: dots(columns), bound: 1e-6 });
      expectSameBits("3 threads", await runWasm(ColumnDot, inputs, {}, { threads: 3 }), [y!]);
      await checkOnnx({ op: ColumnDot, inputs, attrs: {}, bound: 2e-6 });
    });
  }
}

test("a factor of exactly 1 changes nothing: DoRA begins as the base model", async () => {
  const rng = generator(3);
  const [x, m] = [random(rng, [7, 21]), positive(rng, 21)];
  const [y] = await runWasm(ScaleColumns, [x, m, m], {});
  expectSameBits("x", [y!], [x.data]);
});

test("other shapes are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  expect(() => ScaleColumns.infer([type(3, 4), type(3), type(4), null], {})).toThrow("expected x f32[rows, columns]");
  expect(() => ScaleColumns.infer([type(3, 4), type(4), type(4), type(1, 4)], {})).toThrow("expected x f32[rows, columns]");
  expect(() => ColumnDot.infer([type(3, 4), type(4, 3), type(4), null], {})).toThrow("expected dy and x");
  expect(() => ColumnDot.infer([type(3, 4), type(3, 4), null, type(3)], {})).toThrow("expected dy and x");
});
