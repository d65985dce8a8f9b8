import { InferenceSession, Tensor } from "onnxruntime-node";
import { elements, type Graph, typeOf } from "../../src/graph/types.ts";
import { type DType } from "../../src/base/dtype.ts";
import { toFloat32 } from "../../src/base/float16.ts";
import { PORTABLE } from "../../src/onnx/target.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { expectWithin, relativeError, runGraph, type TestTensor } from "./ops.ts";

/** The values of a tensor, flat. bf16 and f16 are their bits in a `Uint16Array`. */
export type TensorData =
  Float32Array | Uint16Array | Int32Array | BigInt64Array | Uint32Array | BigUint64Array | Int8Array | Uint8Array;

const ORT_TYPES: Readonly<Record<DType, Tensor.Type>> = {
  f32: "float32",
  bf16: "float32",
  f16: "float32",
  i32: "int32",
  i64: "int64",
  u32: "uint32",
  u64: "uint64",
  i8: "int8",
  u8: "uint8",
  bool: "bool",
};

/**
 * Runs a graph, written as an ONNX model, on ONNX Runtime's CPU provider (one thread), and returns its outputs: the
 * reference that the kernels are compared with. Half-precision inputs are widened to f32 first (exact; the `Cast`
 * behind them then does nothing), because the addon cannot pass them under Bun. `optimize` lets ONNX Runtime rewrite
 * the graph; it is written for `target`.
 */
export async function runOrt(
  graph: Graph,
  inputs: ReadonlyMap<string, TensorData>,
  optimize = false,
  target = PORTABLE,
): Promise<Map<string, TensorData>> {
  const session = await InferenceSession.create(writeModel(widenInputs(graph), undefined, target), {
    graphOptimizationLevel: optimize ? "all" : "disabled",
    executionProviders: ["cpu"],
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    enableCpuMemArena: false,
    enableMemPattern: false,
    logSeverityLevel: 3,
    extra: { session: { disable_prepacking: "1" } },
  });
  try {
    const feeds: Record<string, Tensor> = {};
    for (const { name } of graph.inputs) {
      const data = inputs.get(name);
      const type = typeOf(graph, name);
      if (data?.length !== elements(type.shape)) {
        throw new Error(`input ${name}: expected ${elements(type.shape)} elements, got ${data?.length ?? "none"}`);
      }
      feeds[name] = new Tensor(ORT_TYPES[type.dtype], widen(data, type.dtype), [...type.shape]);
    }
    const results = await session.run(feeds);
    return new Map(graph.outputs.map(({ name }) => [name, results[name]!.data as TensorData]));
  } finally {
    await session.release();
  }
}

const isHalf = (dtype: DType): dtype is "bf16" | "f16" => dtype === "bf16" || dtype === "f16";

function widenInputs(graph: Graph): Graph {
  const types = new Map(graph.types);
  for (const { name } of graph.inputs) {
    const type = typeOf(graph, name);
    if (isHalf(type.dtype)) types.set(name, { ...type, dtype: "f32" });
  }
  return { ...graph, types };
}

function widen(data: TensorData, dtype: DType): TensorData {
  return isHalf(dtype) ? toFloat32(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), dtype) : data;
}

/**
 * Checks that the kernels and ONNX Runtime, with its optimizations off and on, give the same outputs: floats within
 * `bound` (norm-wise relative difference), integers exactly.
 */
export async function expectParity(
  graph: Graph,
  feeds: ReadonlyMap<string, TestTensor>,
  bound: number,
  optimizations: readonly boolean[] = [false, true],
): Promise<void> {
  const actual = await runGraph(graph, feeds);
  const inputs = new Map([...feeds].map(([name, tensor]) => [name, tensor.data]));
  for (const optimize of optimizations) {
    const expected = await runOrt(graph, inputs, optimize);
    for (const { name } of graph.outputs) {
      const error = relativeError(actual.get(name)!, expected.get(name) as Float32Array);
      const what = `${graph.name}: ${name}${optimize ? " (optimized)" : ""}`;
      expectWithin(what, error, typeOf(graph, name).dtype === "f32" ? bound : 0);
    }
  }
}
