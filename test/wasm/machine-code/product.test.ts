import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { UserError } from "../../../src/base/errors.ts";
import { GraphBuilder } from "../../../src/graph/builder.ts";
import type { Graph } from "../../../src/graph/types.ts";
import { Cast, CAST_TO } from "../../../src/ops/cast.ts";
import { Gemm } from "../../../src/ops/gemm.ts";
import { openDevice } from "../../../src/device.ts";
import { bf16Kernel, hasBf16 } from "../../../src/wasm/machine-code/executable.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import type { MatmulChoice } from "../../../src/wasm/matmul.ts";
import { runOn, sharedExecutors } from "../../support/executor.ts";
import { type Data, f32, generator, half, random, type TestTensor } from "../../support/ops.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

interface Case {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA?: number;
  readonly transB?: number;
  readonly addend?: "matrix" | "row";
  readonly alpha?: number;
  readonly half?: "bf16" | "f16";
}

function product({ m, n, k, transA = 0, transB = 0, addend, alpha = 1, half: stored }: Case): Graph {
  const builder = new GraphBuilder("product");
  const a = builder.input("a", "boundary", { dtype: "f32", shape: transA ? [k, m] : [m, k] });
  const input = builder.input("b", "param", { dtype: stored ?? "f32", shape: transB ? [n, k] : [k, n] });
  const b = stored ? builder.value(Cast, [input], { to: CAST_TO.f32 }) : input;
  const c = addend ? [builder.input("c", "accumulator", { dtype: "f32", shape: addend === "row" ? [n] : [m, n] })] : [];
  const y = builder.value(Gemm, [a, b, ...c], { alpha, beta: 1, transA, transB }, "y");
  builder.output({ name: y, role: "param-grad", ...(addend === "matrix" && { updates: "c" }) });
  return builder.build();
}

/** Values that bf16 has, so that rounding changes none, and others. */
function feedsOf(graph: Graph, isExact: boolean): Map<string, TestTensor> {
  const rng = generator(3);
  return new Map(
    graph.inputs.map(({ name }) => {
      const { dtype, shape } = graph.types.get(name)!;
      const values = random(rng, shape);
      const few = f32(
        shape,
        Float32Array.from(values.data, (value) => Math.round(16 * value) / 16),
      );
      const used = isExact ? few : values;
      return [name, dtype === "bf16" || dtype === "f16" ? half(used, dtype) : used];
    }),
  );
}

const bits = (data: Data): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

/** The values' magnitudes, without an addend. */
const magnitudes = (feeds: Map<string, TestTensor>): Map<string, TestTensor> =>
  new Map(
    [...feeds].map(([name, { dtype, shape, data }]) => {
      if (name === "c") return [name, f32(shape, new Float32Array(data.length))];
      if (dtype !== "f32")
        return [name, { dtype, shape, data: Uint16Array.from(data as Uint16Array, (bits) => bits & 0x7fff) } as TestTensor];
      return [name, f32(shape, Float32Array.from(data as Float32Array, Math.abs))];
    }),
  );

const CASES: readonly Case[] = [
  { m: 32, n: 64, k: 64, transB: 1 },
  { m: 130, n: 72, k: 96, transB: 1 },
  { m: 131, n: 73, k: 97 },
  { m: 67, n: 201, k: 301, transB: 1, addend: "row" },
  { m: 67, n: 200, k: 300, addend: "matrix" },
  { m: 515, n: 64, k: 200, transB: 1, alpha: 2 },
  // More than a block of columns, and of terms.
  { m: 45, n: 1100, k: 70, transB: 1 },
  { m: 45, n: 71, k: 1601, addend: "matrix" },
  { m: 512, n: 200, k: 16, transB: 1, addend: "matrix" },
  // More columns than rows, shared by threads.
  { m: 45, n: 1152, k: 200, transB: 1, addend: "row" },
  { m: 130, n: 1152, k: 600, addend: "matrix", half: "bf16" },
  { m: 600, n: 1149, k: 530, transA: 1, transB: 1, half: "bf16" },
  { m: 333, n: 150, k: 191, transA: 1 },
  { m: 333, n: 150, k: 190, transA: 1, transB: 1, addend: "matrix", alpha: 0.5 },
  { m: 130, n: 72, k: 97, transB: 1, half: "bf16" },
  { m: 130, n: 75, k: 96, half: "bf16", addend: "matrix" },
  { m: 130, n: 72, k: 96, transB: 1, half: "f16" },
];

/** Products of adapters, in bf16 with AMX alone, but for one of few terms. */
const ADAPTERS: readonly Case[] = [
  { m: 515, n: 16, k: 200, transB: 1 },
  { m: 131, n: 577, k: 9, alpha: 2, addend: "matrix" },
  { m: 16, n: 576, k: 511, transA: 1, addend: "matrix" },
  { m: 577, n: 8, k: 512, transA: 1, alpha: 0.5 },
];
const IS_AMX = bf16Kernel() === "amx";

describe.skipIf(!hasBf16())("products in bf16", () => {
  for (const shape of [...CASES, ...(IS_AMX ? ADAPTERS : [])]) {
    test(`${JSON.stringify(shape)}: off by the rounding of operands alone; same bits for 1, 2 and 3 threads`, async () => {
      const graph = product(shape);
      const run = async (matmul: MatmulChoice, threads: number, isExact: boolean, inPlace = true) =>
        runOn(await executor(matmul, threads), graph, feedsOf(graph, isExact), { inPlace }).get("y")!;
      const sums = async (isExact: boolean) =>
        runOn(await executor("wasm", 1), graph, magnitudes(feedsOf(graph, isExact)), {}).get("y")!;
      const off = (actual: Data, expected: Data, magnitude: Data) => {
        let [most, squares, norm] = [0, 0, 0];
        for (let i = 0; i < expected.length; i++) {
          most = Math.max(most, Math.abs(actual[i]! - expected[i]!) / magnitude[i]!);
          squares += (actual[i]! - expected[i]!) ** 2;
          norm += expected[i]! ** 2;
        }
        return { most, relative: Math.sqrt(squares / norm) };
      };
      // Products of 4 bits by 4 are exact, and so are their sums.
      expect(off(await run("bf16", 1, true), await run("wasm", 1, true), await sums(true)).most).toBeLessThan(2e-7);
      const [actual, expected] = [await run("bf16", 1, false), await run("wasm", 1, false)];
      // An operand is rounded by up to 2^-8 of it, by 2^-8 / sqrt(3) / 1.4 in the root of the mean square: two of them by 2^-7 and by 2.3e-3.
      const { most, relative } = off(actual, expected, await sums(false));
      expect(most).toBeLessThan(2 ** -7 + 2 ** -16);
      expect(relative).toBeWithin(5e-4, shape.half === "bf16" ? 1.7e-3 : 2.4e-3);
      for (const threads of [2, 3]) expect(bits(await run("bf16", threads, false)).equals(bits(actual))).toBe(true);
      expect(bits(await run("bf16", 2, false, false)).equals(bits(actual))).toBe(true);
    });
  }

  const few: Case = { m: 7, n: 200, k: 200, transB: 1 };
  test.each(IS_AMX ? [few] : [few, ADAPTERS[0]!])("%j stays in f32", async (shape) => {
    const graph = product(shape);
    const feeds = feedsOf(graph, false);
    const run = async (matmul: MatmulChoice) => runOn(await executor(matmul, 2), graph, feeds, {}).get("y")!;
    expect(bits(await run("bf16")).equals(bits(await run("native")))).toBe(true);
  });

  test("what is not finite stays in its row", async () => {
    const shape: Case = { m: 40, n: 70, k: 80, transB: 1 };
    const graph = product(shape);
    const feeds = feedsOf(graph, false);
    const a = feeds.get("a")! as TestTensor & { readonly data: Float32Array };
    [a.data[3 * 80 + 5], a.data[9 * 80]] = [Infinity, NaN];
    const y = runOn(await executor("bf16", 2), graph, feeds, {}).get("y")!;
    for (let i = 0; i < y.length; i++) expect(Number.isFinite(y[i]!)).toBe(![3, 9].includes(Math.floor(i / 70)));
  });

  test("auto never takes it; its name is the executor's, by which times are kept", async () => {
    expect((await executor("auto", 1)).matmul.name).toBe("native");
    const made = await executor("bf16", 1);
    expect(made.matmul.name).toBe("bf16");
    expect(made.name).toBe("wasm with bf16 products");
  });

  test.each(["ort-cpu", "cuda", "webgpu"] as const)("--device %s has none: refused", async (device) => {
    const refusal = expect(openDevice({ device, matmul: "bf16" }));
    await refusal.rejects.toThrow(UserError);
    await expect(openDevice({ device, matmul: "bf16" })).rejects.toThrow(
      `--matmul bf16 is of --device wasm, but --device is ${device}`,
    );
  });

  test("--device auto is wasm then", async () => {
    const { name, executor: made, description, close } = await openDevice({ device: "auto", matmul: "bf16", threads: 1 });
    close();
    expect([name, made.name]).toEqual(["wasm", "wasm with bf16 products"]);
    expect(description).toContain(`matrix products bf16 (${bf16Kernel() === "amx" ? "AMX" : "AVX512-BF16"}, with ONNX Runtime`);
  });
});

test.skipIf(hasBf16())("a machine without the unit says what is missing", async () => {
  await expect(createWasmExecutor({ matmul: "bf16", threads: 1 })).rejects.toThrow(
    /--matmul bf16 needs Linux on x64 and a processor with AVX512-BF16, but .*; use --matmul auto/,
  );
});
