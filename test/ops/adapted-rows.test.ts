import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph } from "../../src/graph/types.ts";
import { AdaptedRows, ENTRY_WORDS, MOST_RANK } from "../../src/ops/adapted-rows.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { writeModel } from "../../src/onnx/write.ts";
import type { Address } from "../../src/runtime/executor.ts";
import { createWasmExecutor, type WasmExecutor } from "../../src/wasm/executor.ts";
import { expectWithin, f32, generator, i32, random, relativeError, type TestTensor, toFloat64 } from "../support/ops.ts";
import { runOn } from "../support/executor.ts";

setDefaultTimeout(120_000);

const executors = new Map<number, WasmExecutor>();
afterAll(() => executors.forEach((executor) => executor.close()));
async function executorOf(threads: number): Promise<WasmExecutor> {
  const found = executors.get(threads) ?? (await createWasmExecutor({ threads }));
  executors.set(threads, found);
  return found;
}

interface Pair {
  /** [rank, inner] and [outer, rank]. */
  readonly a: TestTensor;
  readonly b: TestTensor;
  readonly rank: number;
  readonly scale: number;
}

function put(executor: WasmExecutor, { data }: TestTensor): Address {
  const address = executor.reserve(data.byteLength);
  executor.write(address, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return address;
}

/** A table of `sites` sites, of which `site` has the pairs; the others name nothing that may be read. */
function tableOf(executor: WasmExecutor, pairs: readonly (Pair | null)[], sites: number, site: number): TestTensor {
  const words = new Int32Array(sites * pairs.length * ENTRY_WORDS).fill(-1);
  const scales = new Float32Array(words.buffer);
  pairs.forEach((pair, row) => {
    const at = (site * pairs.length + row) * ENTRY_WORDS;
    words.set(pair ? [put(executor, pair.a), put(executor, pair.b), pair.rank] : [0, 0, 0], at);
    scales[at + 3] = pair?.scale ?? 0;
  });
  return i32([sites, pairs.length, ENTRY_WORDS], words);
}

/** A graph of the operator: on an input, which is copied, or over a value of the graph that nobody else reads (y + 0 x). */
function graphOf(rows: number, inner: number, outer: number, sites: number, site: number, reads: boolean): Graph {
  const builder = new GraphBuilder("rows");
  builder.input("y", "boundary", { dtype: "f32", shape: [rows, outer] });
  builder.input("x", "boundary", { dtype: "f32", shape: [rows, inner] });
  builder.input("table", "cache", { dtype: "i32", shape: [sites, rows, ENTRY_WORDS] });
  const zero = reads ? null : builder.input("w", "param", { dtype: "f32", shape: [outer, inner] });
  const base = zero === null ? "y" : builder.value(Gemm, ["x", zero, "y"], { transB: 1 });
  builder.output({ name: builder.value(AdaptedRows, [base, "x", "table"], { site }, "out"), role: "boundary" });
  return builder.build();
}

/** What a model with one adapter computes of one token. */
function aloneGraph(inner: number, outer: number, { rank, scale }: Pair): Graph {
  const builder = new GraphBuilder("alone");
  builder.input("y", "boundary", { dtype: "f32", shape: [1, outer] });
  builder.input("x", "boundary", { dtype: "f32", shape: [1, inner] });
  builder.input("a", "param", { dtype: "f32", shape: [rank, inner] });
  builder.input("b", "param", { dtype: "f32", shape: [outer, rank] });
  const low = builder.value(Gemm, ["x", "a"], { alpha: 1, beta: 1, transA: 0, transB: 1 });
  builder.output({
    name: builder.value(Gemm, [low, "b", "y"], { alpha: scale, beta: 1, transA: 0, transB: 1 }, "out"),
    role: "boundary",
  });
  return builder.build();
}

const rowOf = (tensor: TestTensor, row: number): TestTensor => {
  const [, columns] = tensor.shape as [number, number];
  return f32([1, columns], tensor.data.subarray(row * columns, (row + 1) * columns) as Float32Array);
};

const CASES: readonly (readonly [rows: number, inner: number, outer: number, ranks: readonly number[]])[] = [
  [1, 1, 1, [1]],
  [2, 7, 5, [3, 0]],
  [3, 64, 96, [8, 8, 8]],
  [8, 100, 33, [0, 16, 1, 0, 5, 64, 16, 2]],
  [5, 576, 1536, [16, 0, 33, 16, MOST_RANK]],
  [13, 30, 40, [4, 4, 4, 4, 0, 0, 0, 1, 1, 1, 9, 9, 9]],
];

for (const [rows, inner, outer, ranks] of CASES)
  for (const reads of [true, false])
    test(`${rows} rows of [${inner}] to [${outer}], ranks ${ranks}${reads ? "" : ", over y"}: error 1e-6, each row the bits of its own two products`, async () => {
      const rng = generator(rows + 10 * inner);
      const x = random(rng, [rows, inner]);
      const y = random(rng, [rows, outer]);
      const pairs = ranks.map((rank): Pair | null =>
        rank === 0 ? null : { a: random(rng, [rank, inner]), b: random(rng, [outer, rank]), rank, scale: 2 * rng() - 0.5 },
      );
      let first: Float32Array | null = null;
      for (const threads of [1, 2, 3]) {
        const executor = await executorOf(threads);
        const graph = graphOf(rows, inner, outer, 3, 1, reads);
        const zero = f32([outer, inner], new Float32Array(outer * inner));
        const feeds = new Map([
          ["x", x],
          ["y", y],
          ["table", tableOf(executor, pairs, 3, 1)],
          ["w", zero],
        ]);
        const out = runOn(executor, graph, feeds).get("out") as Float32Array;
        first ??= out;
        expect(out).toEqual(first);
        pairs.forEach((pair, row) => {
          const made = out.subarray(row * outer, (row + 1) * outer);
          const old = rowOf(y, row).data as Float32Array;
          if (!pair) return expect(made).toEqual(old);
          const own = new Map([
            ["x", rowOf(x, row)],
            ["y", rowOf(y, row)],
            ["a", pair.a],
            ["b", pair.b],
          ]);
          expect(made).toEqual(runOn(executor, aloneGraph(inner, outer, pair), own).get("out") as Float32Array);
          expectWithin("a row", relativeError(made, exact(rowOf(x, row), old, pair)), 1e-6);
        });
      }
    });

function exact(x: TestTensor, y: Float32Array, { a, b, rank, scale }: Pair): Float64Array {
  const [xs, as, bs] = [toFloat64(x), toFloat64(a), toFloat64(b)];
  const low = Float64Array.from({ length: rank }, (_, r) =>
    xs.reduce((sum, value, i) => sum + value * as[r * xs.length + i]!, 0),
  );
  return Float64Array.from(y, (value, o) => value + scale * low.reduce((sum, each, r) => sum + each * bs[o * rank + r]!, 0));
}

test("other shapes are refused, and so is its ONNX form, by name", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const table = { dtype: "i32", shape: [2, 3, ENTRY_WORDS] } as const;
  expect(() => AdaptedRows.infer([type(3, 4), type(2, 5), table], { site: 0 })).toThrow(/AdaptedRows: expected f32 y \[T, out\]/);
  expect(() => AdaptedRows.infer([type(2, 4), type(2, 5), table], { site: 0 })).toThrow(/AdaptedRows: expected f32 y/);
  expect(() => AdaptedRows.infer([type(3, 4), type(3, 5), table], { site: 2 })).toThrow(/more than 2 sites/);
  expect(() => writeModel(graphOf(3, 5, 4, 2, 0, true))).toThrow(/AdaptedRows has no ONNX function: its table holds addresses/);
});
