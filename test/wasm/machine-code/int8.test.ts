import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openDevice } from "../../../src/device.ts";
import { GraphBuilder } from "../../../src/graph/builder.ts";
import type { Graph } from "../../../src/graph/types.ts";
import { Dequantize } from "../../../src/ops/dequantize.ts";
import { Gemm } from "../../../src/ops/gemm.ts";
import { hasBf16, hasInt8 } from "../../../src/wasm/machine-code/executable.ts";
import type { MatmulChoice } from "../../../src/wasm/matmul.ts";
import { runOn, sharedExecutors } from "../../support/executor.ts";
import { type Data, f32, generator, random, type TestTensor, toFloat64 } from "../../support/ops.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();
const BLOCK = 64;

interface Case {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly addend?: "matrix" | "row";
  readonly alpha?: number;
}

/** alpha x W^T + c; `ofGradients`: x is a gradient. */
function product({ m, n, k, addend, alpha = 1 }: Case, ofGradients = false): Graph {
  const builder = new GraphBuilder("product");
  const x = builder.input("x", ofGradients ? "output-grad" : "boundary", { dtype: "f32", shape: [m, k] });
  const codes = builder.input("codes", "param", { dtype: "i8", shape: [n, k] });
  const scales = builder.input("scales", "param", { dtype: "f32", shape: [n, k / BLOCK] });
  const c = addend ? [builder.input("c", "accumulator", { dtype: "f32", shape: addend === "row" ? [n] : [m, n] })] : [];
  const w = builder.value(Dequantize, [codes, scales], {});
  const y = builder.value(Gemm, [x, w, ...c], { alpha, beta: 1, transA: 0, transB: 1 }, "y");
  builder.output({ name: y, role: "param-grad", ...(addend === "matrix" && { updates: "c" }) });
  return builder.build();
}

/** Codes of their whole range, scales, and values whose magnitudes differ from block to block by up to 2^42, some blocks of some rows with one that is much greater. */
function feedsOf(graph: Graph): Map<string, TestTensor> {
  const rng = generator(7);
  const spread = (from: TestTensor): TestTensor => {
    const factors = Array.from({ length: 7 }, (_, i) => 2 ** (7 * i - 20));
    return f32(
      from.shape,
      Float32Array.from(from.data as Float32Array, (value, i) => {
        const block = Math.floor(i / BLOCK);
        return value * factors[block % factors.length]! * (block % 3 === 0 && i % BLOCK === block % 50 ? 100 : 1);
      }),
    );
  };
  return new Map(
    graph.inputs.map(({ name }) => {
      const { shape } = graph.types.get(name)!;
      const values = random(rng, shape);
      if (name === "codes")
        return [
          name,
          { dtype: "i8", shape, data: Int8Array.from(values.data, () => Math.floor(255 * rng()) - 127) } as TestTensor,
        ];
      return [name, name === "x" ? spread(values) : values];
    }),
  );
}

/** What codes of x stand for, and their steps, as int8.ts says, each operation rounded to f32. */
function quantise(x: Data, k: number): { readonly values: Float64Array; readonly steps: Float64Array } {
  const [values, steps] = [new Float64Array(x.length), new Float64Array(x.length / BLOCK)];
  for (let block = 0; block < steps.length; block++) {
    const of = Array.from(x.subarray(BLOCK * block, BLOCK * (block + 1)), Number);
    const most = Math.max(...of.map(Math.abs));
    if (most < 2 ** -120) continue;
    const [inverse, scale] = [Math.fround(127 / most), Math.fround(most * Math.fround(1 / 127))];
    const scaled = of.map((value) => Math.fround(value * inverse));
    const codes = scaled.map(nearestEven);
    const isEven = codes.reduce((sum, code) => sum + Math.abs(code), 0) >= (BLOCK * 127) / 16;
    const finer = isEven ? 0 : Math.fround(scale * Math.fround(1 / 254));
    steps[block] = isEven ? scale : finer;
    codes.forEach((code, i) => {
      const rest = nearestEven(Math.fround(Math.fround(scaled[i]! - code) * 254));
      values[BLOCK * block + i] = scale * code + finer * rest;
    });
  }
  expect(x.length % k).toBe(0);
  return { values, steps };
}

function nearestEven(value: number): number {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

/** The product with rows that are quantised, the sum of its terms' magnitudes, and by how much quantising may change it at most. */
function reference({ m, n, k, alpha = 1 }: Case, feeds: ReadonlyMap<string, TestTensor>) {
  const [codes, scales, c] = ["codes", "scales", "c"].map((name) => toFloat64(feeds.get(name) ?? null)) as Float64Array[];
  const x = feeds.get("x")!.data;
  const { values, steps } = quantise(x, k);
  const weights = codes!.map((code, i) => alpha * code * scales![Math.floor(i / BLOCK)]!);
  const [sums, exact] = [new Float64Array(m * n), new Float64Array(m * n)];
  const [magnitudes, changes] = [new Float64Array(m * n), new Float64Array(m * n)];
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      const at = i * n + j;
      const addend = c!.length === 0 ? 0 : c!.length === n ? c![j]! : c![at]!;
      let [sum, value, magnitude, change] = [addend, addend, Math.abs(addend), 0];
      for (let p = 0; p < k; p++) {
        const [w, q] = [weights[j * k + p]!, values[i * k + p]!];
        sum += q * w;
        value += Number(x[i * k + p]!) * w;
        magnitude += Math.abs(q * w);
        change += 0.5 * steps[Math.floor((i * k + p) / BLOCK)]! * Math.abs(w);
      }
      [sums[at], exact[at], magnitudes[at], changes[at]] = [sum, value, magnitude, change];
    }
  }
  return { sums, exact, magnitudes, changes };
}

const bits = (data: Data): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

const CASES: readonly Case[] = [
  { m: 32, n: 64, k: 64 },
  { m: 131, n: 75, k: 192 },
  { m: 67, n: 201, k: 320, addend: "row" },
  { m: 300, n: 96, k: 128, addend: "matrix" },
  { m: 45, n: 80, k: 192, alpha: 0.375, addend: "matrix" },
  // More than a block of columns, of terms, and of panels.
  { m: 33, n: 1100, k: 128 },
  { m: 45, n: 71, k: 2240, addend: "matrix" },
  { m: 300, n: 65, k: 1088, addend: "row" },
];

describe.skipIf(!hasInt8())("products in int8", () => {
  for (const shape of CASES) {
    test(`${JSON.stringify(shape)}: exact but for quantised values and sums of blocks in f32; same bits for 1, 2 and 3 threads`, async () => {
      const graph = product(shape);
      const feeds = feedsOf(graph);
      const run = async (threads: number, inPlace = true) =>
        runOn(await executor("int8", threads), graph, feeds, { inPlace }).get("y")!;
      const actual = await run(1);
      const { sums, exact, magnitudes, changes } = reference(shape, feeds);
      // A block's sum is rounded twice, and the sum over blocks and their rests once for each.
      const rounding = 2 ** -24 * (4 + (2 * shape.k) / BLOCK);
      // As shares of what they may be.
      const off = { sum: 0, change: 0 };
      for (let i = 0; i < actual.length; i++) {
        off.sum = Math.max(off.sum, Math.abs(actual[i]! - sums[i]!) / (rounding * magnitudes[i]!));
        off.change = Math.max(
          off.change,
          Math.abs(actual[i]! - exact[i]!) / (1.01 * changes[i]! + 2 * rounding * magnitudes[i]!),
        );
      }
      expect(off.sum).toBeLessThanOrEqual(1);
      expect(off.change).toBeWithin(0.1, 1);
      for (const threads of [2, 3]) expect(bits(await run(threads)).equals(bits(actual))).toBe(true);
      expect(bits(await run(2, false)).equals(bits(actual))).toBe(true);
    });
  }

  test("zeros, subnormal rows and the greatest ones have the sums that they should; what is not finite stays in its row", async () => {
    const shape: Case = { m: 40, n: 70, k: 128 };
    const graph = product(shape);
    const feeds = feedsOf(graph);
    const x = feeds.get("x")!.data as Float32Array;
    const rows = { zero: 1, subnormal: 3, greatest: 5, mixed: 7, infinite: 9, nan: 11, quietNan: 13 };
    const put = (row: number, value: (i: number) => number) => {
      for (let i = 0; i < shape.k; i++) x[row * shape.k + i] = value(i);
    };
    put(rows.zero, (i) => (i % 2 ? 0 : -0));
    put(rows.subnormal, (i) => 1e-41 * (i % 5));
    put(rows.greatest, (i) => (i % 2 ? 1e33 : -1e33));
    put(rows.mixed, (i) => (i === 70 ? 1e30 : 1e-30));
    x[rows.infinite * shape.k + 5] = -Infinity;
    x[rows.nan * shape.k] = NaN;
    new Uint32Array(x.buffer, x.byteOffset)[rows.quietNan * shape.k + 127] = 0xffc00001;
    const y = runOn(await executor("int8", 2), graph, feeds, {}).get("y")!;
    const of = (row: number) => Array.from(y.subarray(row * shape.n, (row + 1) * shape.n), Number);
    for (const row of [rows.zero, rows.subnormal]) expect(of(row).every((value) => value === 0)).toBe(true);
    for (const row of [rows.infinite, rows.nan, rows.quietNan]) expect(of(row).some(Number.isFinite)).toBe(false);
    const { sums, magnitudes } = reference(
      shape,
      new Map([
        ...feeds,
        ["x", { ...feeds.get("x")!, data: x.map((value) => (Number.isFinite(value) ? value : 0)) } as TestTensor],
      ]),
    );
    let most = 0;
    for (let i = 0; i < y.length; i++) {
      const row = Math.floor(i / shape.n);
      if (row === rows.infinite || row === rows.nan || row === rows.quietNan) continue;
      most = Math.max(most, Math.abs(y[i]! - sums[i]!) / (magnitudes[i]! || 1));
    }
    expect(most).toBeLessThanOrEqual(2 ** -21);
  });

  test.each([
    ["few rows", { m: 31, n: 128, k: 128 }, false],
    ["few columns", { m: 64, n: 63, k: 128 }, false],
    ["gradients", { m: 64, n: 128, k: 128 }, true],
  ] as const)("%s are computed as without it", async (_, shape, ofGradients) => {
    const graph = product(shape, ofGradients);
    const feeds = feedsOf(graph);
    const run = async (matmul: MatmulChoice) => runOn(await executor(matmul, 2), graph, feeds, {}).get("y")!;
    expect(bits(await run("int8")).equals(bits(await run(hasBf16() ? "bf16" : "native")))).toBe(true);
  });

  test("its name is the executor's, by which times are kept; --device auto is wasm then, and other devices have none", async () => {
    expect((await executor("int8", 1)).name).toBe("wasm with int8 products");
    const { name, description, close } = await openDevice({ device: "auto", matmul: "int8", threads: 1 });
    close();
    expect(name).toBe("wasm");
    expect(description).toContain("matrix products int8 (AVX512-VNNI");
    for (const device of ["ort-cpu", "cuda", "webgpu"] as const)
      await expect(openDevice({ device, matmul: "int8" })).rejects.toThrow(
        `--matmul int8 is of --device wasm, but --device is ${device}`,
      );
  });
});

test.skipIf(hasInt8())("a machine without AVX512-VNNI says so", async () => {
  await expect(executor("int8", 1)).rejects.toThrow(/--matmul int8 needs Linux on x64 and a processor with AVX512-VNNI/);
});
