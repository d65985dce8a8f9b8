import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";
import { Gather } from "../../src/ops/gather.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "../../src/ops/linear-cross-entropy.ts";
import { createQuantiser } from "../../src/wasm/quantiser.ts";
import {
  checkForward,
  type Data,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  half,
  i32,
  random,
  relativeError,
  runGraph,
  runWasm,
  type TestTensor,
  toFloat64,
} from "../support/ops.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import { expectParity } from "../support/ort.ts";
import { QUANTISED_FORMATS, quantised, type QuantisedTensor } from "../support/quantised.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

/** x W^T + c or x W, W [rows, columns] of codes, both executors' graph. */
function product(x: TestTensor, { codes, scales }: QuantisedTensor, transB: number, c: TestTensor | null) {
  const builder = new GraphBuilder("product");
  const feeds = new Map<string, TestTensor>();
  const input = (name: string, tensor: TestTensor) => {
    feeds.set(name, tensor);
    return builder.input(name, "boundary", { dtype: tensor.dtype, shape: tensor.shape });
  };
  const w = builder.value(Dequantize, [input("codes", codes), input("scales", scales)], {});
  const addend = c ? [input("c", c)] : [];
  builder.output({ name: builder.value(Gemm, [input("x", x), w, ...addend], { transB }, "y"), role: "boundary" });
  return { graph: builder.build(), feeds };
}

function reference(x: TestTensor, values: TestTensor, transB: number, c: TestTensor | null): Float64Array {
  const [m, k] = x.shape as [number, number];
  const n = values.shape[transB ? 0 : 1]!;
  const [a, b, sum] = [toFloat64(x), toFloat64(values), toFloat64(c)];
  return Float64Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let y = sum[sum.length === n ? j : at] ?? 0;
    for (let p = 0; p < k; p++) y += a[i * k + p]! * b[transB ? j * k + p : p * n + j]!;
    return y;
  });
}

describe.each(QUANTISED_FORMATS)("%s", (format) => {
  test("Dequantize gives exactly code times scale; 1 and 2 threads alike", async () => {
    for (const shape of [
      [1, 64],
      [3, 192],
      [70, 128],
    ] as const) {
      const { codes, scales, values } = quantised(random(generator(shape[0]), shape), format);
      await checkForward({ op: Dequantize, inputs: [codes, scales], attrs: {}, reference: () => [values.data], bound: 0 });
    }
  });

  // Rows for every kernel, every remainder of rows (6) and of columns (8), several blocks of k (192) and of columns (1024).
  for (const [m, rows, columns] of [
    [1, 7, 64],
    [2, 9, 128],
    [3, 65, 320],
    [4, 1, 64],
    [7, 24, 448],
    [13, 70, 192],
    [64, 3, 1216],
    [130, 61, 64],
    [9, 300, 1088],
  ] as const) {
    test(`products of ${m} rows with a matrix [${rows}, ${columns}] and its transpose: error 1e-6; 1 to 5 threads alike`, async () => {
      const rng = generator(m + rows);
      const w = quantised(random(rng, [rows, columns]), format);
      for (const transB of [0, 1]) {
        const n = transB ? rows : columns;
        for (const shape of [null, [n], [m, n]]) {
          const [x, c] = [random(rng, [m, transB ? columns : rows]), shape && random(rng, shape)];
          const { graph, feeds } = product(x, w, transB, c);
          const y = (await runGraph(graph, feeds)).get("y")!;
          expectWithin(`transB ${transB}`, relativeError(y, reference(x, w.values, transB, c)), 1e-6);
          for (const threads of [2, 3, 5])
            expectSameBits(`${threads} threads`, [(await runGraph(graph, feeds, { threads })).get("y")!], [y]);
        }
      }
    });
  }

  test("a row has the bits in a product of up to 8 that it has alone, for any number of threads", async () => {
    const rng = generator(12);
    const [rows, columns] = [37, 192];
    const w = quantised(random(rng, [rows, columns]), format);
    const all = random(rng, [8, columns]);
    const run = async (x: TestTensor, threads: number) => {
      const { graph, feeds } = product(x, w, 1, null);
      return (await runGraph(graph, feeds, { threads })).get("y")!;
    };
    const alone: Data[] = [];
    for (let i = 0; i < 8; i++) alone.push(await run(f32([1, columns], all.data.subarray(i * columns, (i + 1) * columns)), 1));
    for (let m = 2; m <= 8; m++) {
      for (const threads of [1, 3]) {
        const y = await run(f32([m, columns], all.data.subarray(0, m * columns)), threads);
        for (let i = 0; i < m; i++) expectSameBits(`row ${i} of ${m}`, [y.slice(i * rows, (i + 1) * rows)], [alone[i]!]);
      }
    }
  });

  test("ONNX Runtime agrees on a product within 1e-6, optimized or not", async () => {
    const rng = generator(5);
    const w = quantised(random(rng, [40, 192]), format);
    for (const transB of [0, 1]) {
      const { graph, feeds } = product(random(rng, [11, transB ? 192 : 40]), w, transB, null);
      await expectParity(graph, feeds, 1e-6);
    }
  });

  test.each(["wasm", "native"] as const)(
    "head with codes, %s: loss and gradient as with the numbers, error 1e-6; 1 to 3 threads alike",
    async (matmul) => {
      const rng = generator(31);
      // Blocks of the vocabulary that end unevenly, rows without a label.
      const [tokens, width, vocab] = [150, 128, 1031];
      const { codes, scales, values } = quantised(random(rng, [vocab, width], 0.2), format);
      const labels = Array.from({ length: tokens }, (_, t) => (t % 3 === 0 ? -100 : (t * 31) % vocab));
      const feeds = new Map<string, TestTensor>([
        ["h", random(rng, [tokens, width])],
        ["labels", i32([tokens], labels)],
        ["scale", f32([1], [0.01])],
        ["dloss", f32([1], [0.7])],
        ["codes", codes],
        ["scales", scales],
        ["values", values],
      ]);
      const graphOf = (isQuantised: boolean) => {
        const builder = new GraphBuilder("head");
        const input = (name: string) => builder.input(name, "boundary", feeds.get(name)!);
        const w = isQuantised ? builder.value(Dequantize, [input("codes"), input("scales")], {}) : input("values");
        const inputs = [input("h"), w, input("labels"), input("scale")];
        for (const name of builder.node(LinearCrossEntropy, inputs, {}, "loss")) builder.output({ name, role: "boundary" });
        const [dh, , loss] = builder.node(LinearCrossEntropyGrad, [...inputs, input("dloss")], {}, "dh");
        for (const name of [dh!, loss!]) builder.output({ name, role: "boundary" });
        return builder.build();
      };
      const run = async (threads: number, isQuantised = true) =>
        runOn(await executor(matmul, threads), graphOf(isQuantised), feeds);
      const [actual, expected] = [await run(1), await run(1, false)];
      for (const [name, result] of expected) expectWithin(name, relativeError(actual.get(name)!, result), 1e-6);
      for (const threads of [2, 3])
        expectSameBits(`${threads} threads`, [...(await run(threads)).values()], [...actual.values()]);
    },
  );

  test("rows of codes and of scales are gathered as they are", async () => {
    const { codes, scales } = quantised(random(generator(8), [9, 128]), format);
    const ids = [3, 0, 8, 8, 3];
    for (const table of [codes, scales]) {
      const width = table.shape[1]!;
      const inputs = [table, i32([ids.length], ids)];
      const [rows] = await runWasm(Gather, inputs, {});
      const bytes = new Uint8Array(rows!.buffer);
      const all = new Uint8Array(table.data.buffer);
      const line = all.length / 9;
      expect(Buffer.from(bytes)).toEqual(Buffer.concat(ids.map((id) => all.subarray(id * line, (id + 1) * line))));
      expect(Gather.infer([table, i32([5], ids)], {})).toEqual([{ dtype: table.dtype, shape: [5, width] }]);
    }
  });

  test("the kernel quantises as defined, from f32, bf16 and f16, bit for bit; zeros, subnormals and ties too", () => {
    const rng = generator(21);
    const x = random(rng, [130, 64], 0.02);
    x.data.fill(0, 0, 64);
    // A block of tiny numbers, one of a single number, and one in whose steps ties lie.
    for (let i = 0; i < 64; i++) {
      x.data[64 + i]! *= 1e-38;
      x.data[128 + i] = i === 9 ? -3 : 0;
      x.data[192 + i] = i === 0 ? 127 : (i - 32) / 2;
    }
    const { input, run } = createQuantiser();
    for (const dtype of ["f32", "bf16", "f16"] as const) {
      const stored = dtype === "f32" ? x : half(x, dtype);
      const expected = quantised(f32(x.shape, toFloat64(stored)), format);
      input.set(new Uint8Array(stored.data.buffer, stored.data.byteOffset, stored.data.byteLength));
      const { codes, scales } = run(format, dtype, x.data.length);
      const own = (bytes: Uint8Array) => new Uint8Array(bytes);
      expectSameBits(`${dtype} scales`, [new Float32Array(own(scales).buffer)], [expected.scales.data]);
      expectSameBits(`${dtype} codes`, [format === "q8" ? new Int8Array(own(codes).buffer) : own(codes)], [expected.codes.data]);
    }
  });

  test("a number that is not finite shows in its block's scale alone", () => {
    const x = random(generator(3), [3, 64]);
    for (const value of [NaN, -NaN, Infinity, -Infinity]) {
      x.data[70] = value;
      const { input, run } = createQuantiser();
      input.set(new Uint8Array(x.data.buffer));
      const scales = new Float32Array(new Uint8Array(run(format, "f32", 192).scales).buffer);
      expect([...scales].map(Number.isFinite)).toEqual([true, false, true]);
    }
  });
});

test("Dequantize refuses scales that do not fit", () => {
  const infer = (dtype: "i8" | "u8" | "f32", codes: number[], scales: number[]) =>
    Dequantize.infer(
      [
        { dtype, shape: codes },
        { dtype: "f32", shape: scales },
      ],
      {},
    );
  expect(infer("u8", [3, 64], [3, 2])).toEqual([{ dtype: "f32", shape: [3, 128] }]);
  expect(() => infer("i8", [3, 128], [3, 1])).toThrow("got i8[3, 128], f32[3, 1]");
  expect(() => infer("i8", [3, 96], [3, 1])).toThrow("Dequantize: expected codes i8[rows, columns]");
  expect(() => infer("f32", [3, 64], [3, 1])).toThrow("Dequantize: expected codes");
});
