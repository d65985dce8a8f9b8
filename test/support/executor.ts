import { afterAll } from "bun:test";
import { byteLength, type Graph, typeOf } from "../../src/graph/types.ts";
import { type Address, align, type Executor } from "../../src/runtime/executor.ts";
import { createWasmExecutor, type WasmExecutor } from "../../src/wasm/executor.ts";
import type { MatmulChoice } from "../../src/wasm/matmul.ts";
import { type Data, dataOf, type TestTensor } from "./ops.ts";

/** Executors of a test file, one for each way of multiplying and number of threads; closed when its tests have ended. */
export function sharedExecutors(): (matmul: MatmulChoice, threads: number) => Promise<WasmExecutor> {
  const open = new Map<string, WasmExecutor>();
  afterAll(() => {
    open.forEach((made) => made.close());
    open.clear();
  });
  return async (matmul, threads) => {
    const key = `${matmul} ${threads}`;
    if (!open.has(key)) open.set(key, await createWasmExecutor({ matmul, threads }));
    return open.get(key)!;
  };
}

/**
 * Runs a graph on any executor, `times` times over the same memory, and returns its outputs. Outputs that update an
 * input lie in its memory when `inPlace`, as in training; the feeds are written anew before each run, `after` is called
 * behind it.
 */
export function runOn(
  executor: Executor,
  graph: Graph,
  feeds: ReadonlyMap<string, TestTensor>,
  { inPlace = true, times = 1, after = () => {} }: { inPlace?: boolean; times?: number; after?: () => void } = {},
): Map<string, Data> {
  const program = executor.prepare(graph);
  const addresses = new Map<string, Address>();
  for (const { name } of graph.inputs) addresses.set(name, executor.reserve(byteLength(typeOf(graph, name))));
  for (const { name, updates } of graph.outputs) {
    if (addresses.has(name)) continue;
    const target = inPlace && updates !== undefined ? addresses.get(updates) : undefined;
    addresses.set(name, target ?? executor.reserve(byteLength(typeOf(graph, name))));
  }
  const call = executor.bind(program, addresses, executor.reserve(align(program.workspace)));
  for (let time = 0; time < times; time++) {
    for (const { name } of graph.inputs) {
      const { buffer, byteOffset, byteLength } = feeds.get(name)!.data;
      executor.write(addresses.get(name)!, new Uint8Array(buffer, byteOffset, byteLength));
    }
    executor.run(call);
    after();
  }
  return new Map(
    graph.outputs.map(({ name }) => {
      const type = typeOf(graph, name);
      return [name, dataOf(type.dtype, executor.read(addresses.get(name)!, byteLength(type)))];
    }),
  );
}
