import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../../src/graph/builder.ts";
import type { Graph, Quantised } from "../../../src/graph/types.ts";
import { Dequantize, NF4_VALUES } from "../../../src/ops/dequantize.ts";
import { Gemm } from "../../../src/ops/gemm.ts";
import { fewRowsRoutines } from "../../../src/wasm/machine-code/executable.ts";
import type { MatmulChoice } from "../../../src/wasm/matmul.ts";
import { runOn, sharedExecutors } from "../../support/executor.ts";
import { type Data, f32, generator, random, type TestTensor } from "../../support/ops.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

interface Case {
  readonly type: Quantised;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly addend?: "matrix" | "row";
  readonly alpha?: number;
}

/** y = alpha a w^T + c, w of codes. */
function product({ type, m, n, k, addend, alpha = 1 }: Case): Graph {
  const builder = new GraphBuilder("product");
  const a = builder.input("a", "boundary", { dtype: "f32", shape: [m, k] });
  const codes = builder.input(
    "codes",
    "param",
    type === "nf4" ? { dtype: "u8", shape: [n, k / 2] } : { dtype: "i8", shape: [n, k] },
  );
  const scales = builder.input("scales", "param", { dtype: "f32", shape: [n, k / 64] });
  const w = builder.value(Dequantize, [codes, scales], {});
  const c = addend ? [builder.input("c", "boundary", { dtype: "f32", shape: addend === "row" ? [n] : [m, n] })] : [];
  builder.output({ name: builder.value(Gemm, [a, w, ...c], { alpha, beta: 1, transA: 0, transB: 1 }, "y"), role: "boundary" });
  return builder.build();
}

function feedsOf(graph: Graph): Map<string, TestTensor> {
  const rng = generator(3);
  return new Map(
    graph.inputs.map(({ name }) => {
      const { dtype, shape } = graph.types.get(name)!;
      const { data } = random(rng, shape);
      if (dtype === "f32") return [name, f32(shape, Float32Array.from(data))];
      const bytes = Array.from(data, (value) => Math.max(-127, Math.min(127, Math.round(50 * value))));
      return [name, { dtype, shape, data: dtype === "i8" ? Int8Array.from(bytes) : Uint8Array.from(bytes) } as TestTensor];
    }),
  );
}

/** The product in float64, and the sum of |a w| of each element. */
function expectedOf({ type, m, n, k, addend, alpha = 1 }: Case, feeds: ReadonlyMap<string, TestTensor>) {
  const [a, codes, scales, c] = ["a", "codes", "scales", "c"].map((name) => feeds.get(name)?.data as Data | undefined);
  const w = (j: number, p: number) => {
    const byte = type === "nf4" ? (codes![(j * k + p) >> 1]! >> (4 * (p & 1))) & 15 : 0;
    const value = type === "nf4" ? NF4_VALUES[byte]! : codes![j * k + p]!;
    return value * scales![j * (k / 64) + Math.floor(p / 64)]!;
  };
  return Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let [sum, size] = [0, 0];
    for (let p = 0; p < k; p++) {
      sum += a![i * k + p]! * w(j, p);
      size += Math.abs(a![i * k + p]! * w(j, p));
    }
    return { value: alpha * sum + (addend ? c![addend === "row" ? j : at]! : 0), size: Math.abs(alpha) * size + 1 };
  });
}

const bits = (data: Data): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

const CASES: readonly Case[] = (["nf4", "q8"] as const).flatMap((type): Case[] => [
  { type, m: 1, n: 37, k: 64 },
  { type, m: 1, n: 100, k: 576, addend: "row" },
  { type, m: 2, n: 33, k: 128, alpha: 0.5 },
  { type, m: 3, n: 1, k: 192, addend: "matrix" },
  { type, m: 8, n: 50, k: 1536, addend: "matrix", alpha: 2 },
]);

describe.skipIf(fewRowsRoutines() === null)("products of few rows with codes, by machine code", () => {
  for (const shape of CASES) {
    test(`${JSON.stringify(shape)}: as in float64; same bits for 1, 2 and 3 threads, and for each row alone`, async () => {
      const graph = product(shape);
      const feeds = feedsOf(graph);
      const run = async (matmul: MatmulChoice, threads: number) =>
        runOn(await executor(matmul, threads), graph, feeds, {}).get("y")!;
      const actual = await run("native", 1);
      expectedOf(shape, feeds).forEach(({ value, size }, i) => expect(Math.abs(actual[i]! - value) / size).toBeLessThan(1e-6));
      expect(bits(actual).equals(bits(await run("wasm", 1)))).toBe(false);
      for (const threads of [2, 3]) expect(bits(await run("native", threads)).equals(bits(actual))).toBe(true);
      const { m, n, k, addend } = shape;
      for (let row = 0; row < m; row++) {
        const alone = product({ ...shape, m: 1 });
        const part = new Map(feeds);
        const cut = (name: string, width: number, one: readonly number[]) =>
          part.set(name, f32(one, (feeds.get(name)!.data as Float32Array).slice(row * width, (row + 1) * width)));
        cut("a", k, [1, k]);
        if (addend === "matrix") cut("c", n, [1, n]);
        const y = runOn(await executor("native", 2), alone, part, {}).get("y")!;
        expect(bits(y).equals(bits(actual.slice(row * n, (row + 1) * n)))).toBe(true);
      }
    });
  }
});
