import { expect, setDefaultTimeout, test } from "bun:test";
import { Gemm, type GemmAttrs } from "../../src/ops/gemm.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  f32,
  generator,
  half,
  random,
  type Reference,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference =
  (m: number, n: number, k: number, { alpha = 1, transA = 0, transB = 0 }: GemmAttrs): Reference =>
  ([a, b, c]) => {
    const y = new Float64Array(m * n);
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let p = 0; p < k; p++) sum += a![transA ? p * m + i : i * k + p]! * b![transB ? j * k + p : p * n + j]!;
        const addend = !c?.length ? 0 : c[c.length === m * n ? i * n + j : j]!;
        y[i * n + j] = alpha * sum + addend;
      }
    }
    return [y];
  };

const TRANSPOSITIONS = [
  [0, 0],
  [0, 1],
  [1, 0],
  [1, 1],
] as const;

/** [M, N, K]: every kernel, every remainder of rows (6), columns (8, 16) and k (4), several blocks of k (256) and columns (512). */
const SIZES = [
  [1, 1, 1],
  [1, 7, 5],
  [1, 530, 33],
  [2, 9, 3],
  [3, 33, 70],
  [4, 8, 4],
  [5, 3, 9],
  [6, 16, 8],
  [7, 17, 33],
  [8, 24, 1],
  [9, 50, 64],
  [11, 8, 300],
  [13, 5, 300],
  [14, 40, 257],
  [16, 16, 256],
  [23, 70, 13],
  [25, 16, 520],
  [61, 4, 515],
  [40, 1100, 30],
  [20, 1, 60],
  [130, 30, 61],
] as const;

function operands(m: number, n: number, k: number, { transA = 0, transB = 0 }: GemmAttrs): [TestTensor, TestTensor] {
  const rng = generator(m * 31 + n * 7 + k);
  return [random(rng, transA ? [k, m] : [m, k]), random(rng, transB ? [n, k] : [k, n])];
}

for (const [m, n, k] of SIZES) {
  test(`Gemm ${m} x ${n} x ${k}, all transpositions, all forms of C: error 1e-6; 1 to 5 threads alike`, async () => {
    const rng = generator(k);
    for (const [transA, transB] of TRANSPOSITIONS) {
      for (const shape of [null, [m, n], [n], [1, n]]) {
        const attrs = { alpha: shape ? 0.5 : 1, beta: 1, transA, transB };
        const inputs = [...operands(m, n, k, attrs), shape && random(rng, shape)];
        const outputs = await checkForward({ op: Gemm, inputs, attrs, reference: reference(m, n, k, attrs), bound: 1e-6 });
        for (const threads of [3, 5])
          expectSameBits(`${threads} threads`, await runWasm(Gemm, inputs, attrs, { threads }), outputs);
      }
    }
  });

  test(`Gemm ${m} x ${n} x ${k} reads bf16 and f16 as the same numbers in f32`, async () => {
    for (const dtype of ["bf16", "f16"] as const) {
      for (const [transA, transB] of TRANSPOSITIONS) {
        const attrs = { transA, transB };
        const [a, b] = operands(m, n, k, attrs);
        const [a16, b16] = [half(a, dtype), half(b, dtype)];
        const options = { op: Gemm, attrs, reference: reference(m, n, k, attrs), bound: 1e-6 };
        await checkForward({ ...options, inputs: [a, b16] });
        await checkForward({ ...options, inputs: [a16, b] });
        await checkForward({ ...options, inputs: [a16, b16] });
      }
    }
  });
}

for (const [m, n, k] of [
  [5, 7, 3],
  [9, 4, 60],
  [1, 3, 2],
] as const) {
  test(`Gemm ${m} x ${n} x ${k}: gradients by finite differences, error 1e-5; ONNX Runtime agrees within 1e-6`, async () => {
    const rng = generator(m);
    for (const [transA, transB] of TRANSPOSITIONS) {
      for (const shape of [null, [m, n], [n], [1, n]]) {
        const attrs = { alpha: 0.75, beta: 1, transA, transB };
        const inputs = [...operands(m, n, k, attrs), ...(shape ? [random(rng, shape)] : [])];
        const options = { op: Gemm, inputs, attrs, reference: reference(m, n, k, attrs), bound: 1e-5 };
        await checkGradient({ ...options, wrt: shape ? [0, 1, 2] : [0, 1], samples: 30 });
        await checkOnnx({ op: Gemm, inputs, attrs, bound: 1e-6 });
      }
      await checkGradient({
        op: Gemm,
        inputs: operands(m, n, k, { transA, transB }),
        attrs: { transA, transB },
        reference: reference(m, n, k, { transA, transB }),
        wrt: [1],
        bound: 1e-5,
      });
    }
  });
}

test("Gemm: each of up to eight rows has the bits that it has alone", async () => {
  const [n, k] = [37, 75];
  for (const dtype of ["f32", "bf16", "f16"] as const) {
    const [a, b] = operands(8, n, k, { transB: 1 });
    const weights = dtype === "f32" ? b : half(b, dtype);
    const c = random(generator(5), [8, n]);
    const rows = (from: number, to: number) =>
      [a, c].map(({ shape, data }) => f32([to - from, shape[1]!], data.slice(from * shape[1]!, to * shape[1]!)));
    const product = async (from: number, to: number) => {
      const [x, addend] = rows(from, to);
      return (await runWasm(Gemm, [x!, weights, addend!], { transB: 1, alpha: 0.5, beta: 1 }, { threads: 2 }))[0]!;
    };
    const alone = await Promise.all(Array.from({ length: 8 }, (_, i) => product(i, i + 1)));
    for (let m = 2; m <= 8; m++) {
      const together = await product(0, m);
      for (let i = 0; i < m; i++) expectSameBits(`${dtype}, row ${i} of ${m}`, [together.slice(i * n, (i + 1) * n)], [alone[i]!]);
    }
  }
});

test("Gemm: a NaN or infinity stays in the rows and columns that it belongs to", async () => {
  for (const [m, n] of [
    [2, 6],
    [7, 20],
  ] as const) {
    const [a, b] = operands(m, n, 5, { transB: 1 });
    a.data[5] = NaN; // row 1
    b.data[5 * 4 + 2] = Infinity; // column 4
    const [y] = await runWasm(Gemm, [a, b], { transB: 1 });
    y!.forEach((value, at) => {
      const [row, column] = [Math.floor(at / n), at % n];
      if (row === 1) expect(value).toBeNaN();
      else expect(Number.isFinite(value)).toBe(column !== 4);
    });
  }
});

test("Gemm refuses operands that do not fit, and a beta", () => {
  const types = (...shapes: number[][]) => shapes.map((shape) => ({ dtype: "f32", shape }) as const);
  expect(() => Gemm.infer(types([2, 3], [4, 3]), {})).toThrow("expected floats A [M, K], B [K, N]");
  expect(() => Gemm.infer(types([2, 3], [4, 3], [5]), { transB: 1 })).toThrow("got f32[2, 3], f32[4, 3], f32[5]");
  expect(() => Gemm.infer(types([2, 3], [3, 4], [2, 1]), {})).toThrow("C [M, N], [N] or [1, N]");
  expect(() => Gemm.infer(types([2, 3], [3, 4]), { beta: 2 })).toThrow("expected beta = 1; got 2");
  expect(Gemm.infer(types([3, 2], [4, 3]), { transA: 1, transB: 1 })).toEqual(types([2, 4]));
});

test("Gemm: every finite f16, subnormal ones too, is read exactly, alone and in groups of eight", async () => {
  const finite = Uint16Array.from({ length: 1 << 16 }, (_, bits) => ((bits & 0x7c00) === 0x7c00 ? 0 : bits));
  const values = Float32Array.from(new Float16Array(finite.buffer));
  for (const k of [1, 8]) {
    const n = finite.length / k;
    const weights: TestTensor = { dtype: "f16", shape: [n, k], data: finite };
    // One row, two and nine go through different kernels; each row is one at column `one` and zero elsewhere.
    for (const m of [1, 2, 9]) {
      for (let one = 0; one < k; one++) {
        const rows = Float32Array.from({ length: m * k }, (_, i) => Number(i % k === one));
        const [y] = await runWasm(Gemm, [f32([m, k], rows), weights], { transB: 1 });
        expect(y!.findIndex((value, i) => value !== values[(i % n) * k + one])).toBe(-1);
      }
    }
  }
});

test("Gemm: infinite and NaN halves stay what they are where they are packed", async () => {
  const special = Uint16Array.of(0x7c00, 0xfc00, 0x7c01, 0xfe00, 0x3c00, 0xffff, 0x7bff, 0xfbff);
  const weights: TestTensor = { dtype: "f16", shape: [8, 1], data: special };
  const expected = [Infinity, -Infinity, NaN, NaN, 1, NaN, 65504, -65504];
  for (const transB of [1, 0]) {
    const b = transB ? weights : { ...weights, shape: [1, 8] };
    const [y] = await runWasm(Gemm, [f32([9, 1], new Float32Array(9).fill(1)), b], { transB });
    expect([...y!]).toEqual(Array.from({ length: 9 }, () => expected).flat());
  }
});
