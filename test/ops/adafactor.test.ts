import { expect, setDefaultTimeout, test } from "bun:test";
import { AdafactorColumns, AdafactorRows, AdafactorSquares, AdafactorStep } from "../../src/ops/adafactor.ts";
import { checkForward, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

/** Lengths on both sides of vectors, cache lines, summed rows and blocks. */
const SIZES = [
  [1, 1],
  [3, 5],
  [33, 16],
  [70, 37],
  [1, 4111],
  [2, 8195],
  [4099, 3],
] as const;

const HYPER = f32([5], [1e-2, 0.1, 0.7, 0.3, 5e-3]);
const [TAKE, SCALE] = [Math.fround(0.3), Math.fround(0.7)];

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

const inputsOf = (rows: number, columns: number) => {
  const rng = generator(rows * columns);
  const positive = (n: number) =>
    f32(
      [n],
      range(n).map(() => 0.1 + 2 * rng()),
    );
  return {
    param: random(rng, [rows, columns]),
    grad: random(rng, [rows, columns], 0.1),
    rowMoments: positive(rows),
    columnMoments: positive(columns),
  };
};

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
test.each(SIZES)("moments of a matrix of %d x %d, of rows and of columns: error 3e-7, 1 and 2 threads", async (rows, columns) => {
  const { grad, rowMoments, columnMoments } = inputsOf(rows, columns);
  const square = (g: ArrayLike<number>, i: number, j: number) => (SCALE * g[i * columns + j]!) ** 2;
  const byRows: Reference = ([g, v]) => {
    const next = range(rows).map(
      (i) => (1 - TAKE) * v![i]! + (TAKE * sum(range(columns).map((j) => square(g!, i, j)))) / columns,
    );
    const mean = Math.max(sum(next) / rows, 2 ** -23);
    return [next, next.map((value) => value / mean)];
  };
  const byColumns: Reference = ([g, v]) => [
    range(columns).map((j) => (1 - TAKE) * v![j]! + (TAKE * sum(range(rows).map((i) => square(g!, i, j)))) / rows),
  ];
  const row = { op: AdafactorRows, inputs: [grad, rowMoments, HYPER], attrs: {}, bound: 3e-7 };
  await checkForward({ ...row, reference: byRows });
  await checkOnnx(row);
  const column = { op: AdafactorColumns, inputs: [grad, columnMoments, HYPER], attrs: {}, bound: 3e-7 };
  await checkForward({ ...column, reference: byColumns });
  await checkOnnx(column);
});

test.each(SIZES)(
  "the step of a matrix and of a vector of %d x %d: error 3e-7, in place, 1 and 2 threads",
  async (rows, columns) => {
    const { param, grad, rowMoments: share, columnMoments: v } = inputsOf(rows, columns);
    const direction = (g: ArrayLike<number>, v: ArrayLike<number>, share: ArrayLike<number> | null) =>
      range(rows * columns).map((at) => {
        const [i, j] = [Math.floor(at / columns), at % columns];
        return (SCALE * g[at]!) / Math.sqrt(Math.max((share ? share[i]! : 1) * v[j]!, 2 ** -46));
      });
    const squares: Reference = ([g, v, , share]) => [[sum(direction(g!, v!, share ?? null).map((u) => u * u))]];
    const step: Reference = ([p, g, v, hyper, ofParam, ofDirection, share]) => {
      const n = rows * columns;
      const rate = Math.max(1e-3, Math.sqrt(ofParam![0]! / n)) * hyper![4]!;
      const clip = Math.max(1, Math.sqrt(ofDirection![0]! / n));
      return [direction(g!, v!, share ?? null).map((u, i) => p![i]! * (1 - hyper![0]! * hyper![1]!) - (rate / clip) * u)];
    };
    for (const isVector of rows === 1 ? [true, false] : [false]) {
      const flat = (tensor: ReturnType<typeof f32>) => (isVector ? { ...tensor, shape: [columns] } : tensor);
      const more = isVector ? [] : [share];
      const sums = { op: AdafactorSquares, inputs: [flat(grad), v, HYPER, ...more], attrs: {}, bound: 3e-7 };
      await checkForward({ ...sums, reference: squares });
      // ONNX Runtime sums in f32.
      await checkOnnx({ ...sums, bound: 2e-6 });
      // A small and a large parameter, a direction that is clipped and one that is not.
      for (const [ofParam, ofDirection] of [
        [1e-9, 0.5],
        [3 * rows * columns, 7 * rows * columns],
      ] as const) {
        const all = [flat(param), flat(grad), v, HYPER, f32([1], [ofParam]), f32([1], [ofDirection]), ...more];
        const stepped = { op: AdafactorStep, inputs: all, attrs: {}, bound: 3e-7 };
        await checkForward({ ...stepped, reference: step });
        await checkOnnx(stepped);
      }
    }
  },
);

test("gradients of 0 have no direction", async () => {
  const zeros = (...shape: number[]) => f32(shape, new Float32Array(shape.reduce((a, b) => a * b)));
  const [next, share] = await runWasm(AdafactorRows, [zeros(2, 3), zeros(2), HYPER], {});
  expect([...next!, ...share!]).toEqual([0, 0, 0, 0]);
  const [squares] = await runWasm(AdafactorSquares, [zeros(2, 3), zeros(3), HYPER, zeros(2)], {});
  expect([...squares!]).toEqual([0]);
});

test("moments of another size are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  expect(() => AdafactorRows.infer([type(2, 3), type(3), type(5)], {})).toThrow(
    "AdafactorRows: expected grad f32[rows, columns]",
  );
  expect(() => AdafactorColumns.infer([type(2, 3), type(2), type(5)], {})).toThrow("AdafactorColumns: expected grad");
  expect(() => AdafactorSquares.infer([type(2, 3), type(3), type(5)], {})).toThrow("AdafactorSquares: expected grad");
  expect(() => AdafactorSquares.infer([type(3), type(3), type(5), type(1)], {})).toThrow("AdafactorSquares: expected grad");
  const [one, hyper] = [type(1), type(5)];
  expect(() => AdafactorStep.infer([type(2, 3), type(3, 2), type(2), hyper, one, one, type(3)], {})).toThrow("AdafactorStep");
});
