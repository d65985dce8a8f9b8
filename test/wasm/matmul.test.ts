import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { fromBinary } from "@bufbuild/protobuf";
import { AttributeProto_AttributeType as AttributeType, ModelProtoSchema } from "../../src/onnx/gen/onnx_pb.ts";
import { IR_VERSION, ONNX_OPSET } from "../../src/onnx/messages.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph } from "../../src/graph/types.ts";
import { Cast, CAST_TO } from "../../src/ops/cast.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { nodeModel } from "../../src/wasm/node-model.ts";
import type { MatmulChoice } from "../../src/wasm/matmul.ts";
import { loadOrt } from "../../src/ort/library.ts";
import { thinRoutines } from "../../src/wasm/machine-code/executable.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import { type Data, generator, half, random, type TestTensor } from "../support/ops.ts";

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

/** y = alpha op(a) op(b) + c; a matrix c is updated in place. */
function product({ m, n, k, transA = 0, transB = 0, addend, alpha = 1, half }: Case): Graph {
  const builder = new GraphBuilder("product");
  const a = builder.input("a", "boundary", { dtype: "f32", shape: transA ? [k, m] : [m, k] });
  const stored = builder.input("b", "param", { dtype: half ?? "f32", shape: transB ? [n, k] : [k, n] });
  const b = half ? builder.value(Cast, [stored], { to: CAST_TO.f32 }) : stored;
  const c = addend ? [builder.input("c", "accumulator", { dtype: "f32", shape: addend === "row" ? [n] : [m, n] })] : [];
  const y = builder.value(Gemm, [a, b, ...c], { alpha, beta: 1, transA, transB }, "y");
  builder.output({ name: y, role: "param-grad", ...(addend === "matrix" && { updates: "c" }) });
  return builder.build();
}

function feedsOf(graph: Graph, seed: number): Map<string, TestTensor> {
  const rng = generator(seed);
  return new Map(
    graph.inputs.map(({ name }) => {
      const { dtype, shape } = graph.types.get(name)!;
      const values = random(rng, shape);
      return [name, dtype === "bf16" || dtype === "f16" ? half(values, dtype) : values];
    }),
  );
}

const bits = (data: Data): Buffer => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

const CASES: readonly Case[] = [
  { m: 130, n: 72, k: 96, transB: 1 },
  { m: 131, n: 72, k: 97 },
  { m: 67, n: 200, k: 300, transB: 1, addend: "row" },
  { m: 67, n: 200, k: 300, addend: "matrix" },
  { m: 515, n: 16, k: 200, transB: 1, alpha: 2 },
  { m: 512, n: 200, k: 16, transB: 1, addend: "matrix", alpha: 0.5 },
  { m: 333, n: 150, k: 190, transA: 1 },
  { m: 333, n: 150, k: 190, transA: 1, addend: "matrix" },
  // Several parts of the sum.
  { m: 300, n: 130, k: 5000, transA: 1, addend: "matrix" },
  { m: 150, n: 130, k: 1300, transA: 1, addend: "row", alpha: 0.5 },
  { m: 150, n: 130, k: 1300, transA: 1, transB: 1, alpha: 2 },
  // More columns of A than fit the scratch of a thread, on one thread.
  { m: 1100, n: 130, k: 700, transA: 1 },
  // Several blocks of rows.
  { m: 1103, n: 40, k: 700, transB: 1, addend: "matrix" },
  { m: 130, n: 72, k: 96, transB: 1, half: "bf16" },
  { m: 130, n: 72, k: 96, addend: "matrix", half: "f16" },
];

/** A^T B with a short side, for which the library has no good way. */
const SHORT_CASES: readonly Case[] = [
  { m: 16, n: 300, k: 513, transA: 1 },
  { m: 300, n: 16, k: 513, transA: 1 },
  { m: 1, n: 128, k: 32, transA: 1, alpha: 0.5 },
  { m: 129, n: 3, k: 40, transA: 1, addend: "matrix", alpha: 2 },
  { m: 12, n: 200, k: 100, transA: 1, addend: "matrix" },
  { m: 64, n: 1000, k: 250, transA: 1, addend: "matrix", alpha: 0.5 },
  { m: 1000, n: 64, k: 250, transA: 1, addend: "matrix" },
  // Several chains of products.
  { m: 24, n: 130, k: 1500, transA: 1, addend: "matrix" },
  { m: 130, n: 8, k: 1025, transA: 1, addend: "matrix", alpha: 0.5 },
  { m: 16, n: 200, k: 1100, transA: 1 },
  // More columns than a thread takes at a time.
  { m: 20, n: 7001, k: 60, transA: 1, addend: "matrix" },
  { m: 7001, n: 20, k: 60, transA: 1, alpha: 2 },
];

describe("native matrix products", () => {
  for (const shape of [...CASES, ...(thinRoutines() === null ? [] : SHORT_CASES)]) {
    test(`as the kernel's within 2e-6 of sum |a b|, same bits for 1, 2 and 3 threads: ${JSON.stringify(shape)}`, async () => {
      const graph = product(shape);
      const feeds = feedsOf(graph, shape.m);
      const run = async (matmul: MatmulChoice, threads: number, inPlace = true) =>
        runOn(await executor(matmul, threads), graph, feeds, { inPlace }).get("y")!;
      const expected = await run("wasm", 1);
      const actual = await run("native", 1);
      // Normal factors: a sum of k products of deviation 1.
      const scale = (shape.alpha ?? 1) * shape.k;
      let error = 0;
      for (let i = 0; i < expected.length; i++) error = Math.max(error, Math.abs(actual[i]! - expected[i]!) / scale);
      expect(error).toBeLessThan(2e-6);
      expect(bits(actual).equals(bits(expected))).toBe(false);
      for (const threads of [2, 3]) expect(bits(await run("native", threads)).equals(bits(actual))).toBe(true);
      expect(bits(await run("native", 2, false)).equals(bits(actual))).toBe(true);
    });
  }

  test("auto is native where the library loads, and says which", async () => {
    const made = await executor("auto", 1);
    expect(made.matmul.name).toBe("native");
    expect(made.matmul.reason).toBe(`ONNX Runtime ${loadOrt().version}${thinRoutines() === null ? "" : ", experts by AVX-512"}`);
  });

  test("the model of a product, read as protobuf", () => {
    const inputs = [
      ["A", 2],
      ["B", 2],
      ["C", 1],
    ] as const;
    const model = fromBinary(ModelProtoSchema, nodeModel({ op: "Gemm", inputs, attrs: { alpha: 0.5, transA: 1, transB: 0 } }));
    expect(model.irVersion).toBe(BigInt(IR_VERSION));
    expect(model.opsetImport.map(({ domain, version }) => [domain, version])).toEqual([["", BigInt(ONNX_OPSET)]]);
    const [node] = model.graph!.node;
    expect([node!.opType, ...node!.input, ...node!.output]).toEqual(["Gemm", "A", "B", "C", "Y"]);
    expect(node!.attribute.map(({ name, type, f, i }) => [name, type, f, i])).toEqual([
      ["alpha", AttributeType.FLOAT, 0.5, 0n],
      ["transA", AttributeType.INT, 0, 1n],
      ["transB", AttributeType.INT, 0, 0n],
    ]);
    const ranks = model.graph!.input.map(({ name, type }) =>
      type!.value.case === "tensorType" ? [name, type!.value.value.elemType, type!.value.value.shape!.dim.length] : [],
    );
    expect(ranks).toEqual([
      ["A", 1, 2],
      ["B", 1, 2],
      ["C", 1, 1],
    ]);
    expect(model.graph!.output.map(({ name }) => name)).toEqual(["Y"]);
  });
});
