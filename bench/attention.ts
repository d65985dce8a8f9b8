/**
 * Fused attention beside the matrix product that bounds it, in the same process and minute.
 *
 *     bun bench/attention.ts [threads ...]
 *
 * GFLOP/s: 4 * dim operations per visible (query, key) pair and head forward, 10 * dim backward (5 products: the
 * recomputed scores count as work, skipped pairs do not).
 */
import { GraphBuilder } from "../src/graph/builder.ts";
import { type Attrs, byteLength, type Graph, type TensorType } from "../src/graph/types.ts";
import { Attention, AttentionGrad } from "../src/ops/attention.ts";
import { Gemm } from "../src/ops/gemm.ts";
import type { OpDef } from "../src/ops/types.ts";
import { createWasmExecutor, type WasmExecutor } from "../src/wasm/executor.ts";

interface Shape {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  /** Length of the packed examples; `tokens` for one. */
  readonly example: number;
}

const SHAPES: readonly Shape[] = [
  { tokens: 512, heads: 9, kvHeads: 3, dim: 64, example: 512 },
  { tokens: 1024, heads: 9, kvHeads: 3, dim: 64, example: 1024 },
  { tokens: 2048, heads: 9, kvHeads: 3, dim: 64, example: 2048 },
  { tokens: 2048, heads: 9, kvHeads: 3, dim: 64, example: 256 },
  { tokens: 1024, heads: 14, kvHeads: 2, dim: 64, example: 1024 },
  { tokens: 1024, heads: 8, kvHeads: 8, dim: 64, example: 1024 },
  { tokens: 1024, heads: 8, kvHeads: 8, dim: 32, example: 1024 },
  { tokens: 1024, heads: 8, kvHeads: 4, dim: 80, example: 1024 },
  { tokens: 1024, heads: 8, kvHeads: 4, dim: 128, example: 1024 },
];

const f32 = (...shape: number[]): TensorType => ({ dtype: "f32", shape });

/** A graph of one node. */
function graphOf<A extends Attrs>(op: OpDef<A>, inputs: readonly TensorType[], attrs: A): Graph {
  const builder = new GraphBuilder(op.name);
  const names = inputs.map((type, i) => builder.input(`in${i}`, "batch", type));
  for (const name of builder.node(op, names, attrs, "out")) builder.output({ name, role: "boundary" });
  return builder.build();
}

interface Work {
  readonly label: string;
  readonly operations: number;
  run(): void;
}

/** Work on its own memory: normal-looking f32 inputs, `starts` for i32. */
function prepare(executor: WasmExecutor, label: string, operations: number, graph: Graph, example: number): Work {
  const program = executor.prepare(graph);
  const addresses = new Map<string, number>();
  const outputs = new Set(graph.outputs.map(({ name }) => name));
  for (const [name, type] of graph.types) {
    const bytes = byteLength(type);
    const address = executor.reserve(bytes);
    addresses.set(name, address);
    if (outputs.has(name)) continue;
    const values =
      type.dtype === "i32"
        ? Int32Array.from({ length: bytes / 4 }, (_, t) => t - (t % example))
        : Float32Array.from({ length: bytes / 4 }, (_, i) => Math.sin(i * 12.9898 + 1));
    executor.write(address, new Uint8Array(values.buffer));
  }
  const call = executor.bind(program, addresses, executor.reserve(program.workspace));
  return { label, operations, run: () => executor.run(call) };
}

function attentionWork(executor: WasmExecutor, { tokens, heads, kvHeads, dim, example }: Shape): Work[] {
  const q = f32(tokens, heads * dim);
  const k = f32(tokens, kvHeads * dim);
  const inputs: TensorType[] = [q, k, k, { dtype: "i32", shape: [tokens] }];
  const attrs = { heads, kvHeads, scale: 1 / Math.sqrt(dim) };
  let pairs = 0;
  for (let t = 0; t < tokens; t++) pairs += (t % example) + 1;
  const title = `T ${tokens}${example < tokens ? ` in ${example}s` : ""}, ${heads}/${kvHeads} heads of ${dim}`;
  const forward = graphOf(Attention, inputs, attrs);
  const backward = graphOf(AttentionGrad, [...inputs, q, f32(tokens, heads), q], attrs);
  return [
    prepare(executor, `${title}, forward`, 4 * dim * heads * pairs, forward, example),
    prepare(executor, `${title}, backward`, 10 * dim * heads * pairs, backward, example),
  ];
}

/** GFLOP/s of each work, median over rounds of one run each. */
function measure(works: readonly Work[], rounds: number): number[] {
  const times = works.map((): number[] => []);
  for (const { run } of works) for (let i = 0; i < 5; i++) run();
  for (let round = 0; round < rounds; round++) {
    works.forEach(({ run }, i) => {
      const begin = Bun.nanoseconds();
      run();
      times[i]!.push(Bun.nanoseconds() - begin);
    });
  }
  return works.map(({ operations }, i) => operations / times[i]!.toSorted((a, b) => a - b)[rounds >> 1]!);
}

export async function benchAttention(threadCounts: readonly number[], rounds = 15): Promise<void> {
  for (const threads of threadCounts) {
    const executor = await createWasmExecutor({ threads });
    const product = graphOf(Gemm, [f32(512, 576), f32(1536, 576)], { transB: 1 });
    const gemm = prepare(executor, "product 512 x 576 x 1536", 2 * 512 * 576 * 1536, product, 1);
    measure([gemm], 50);
    for (const shape of SHAPES) {
      const works = [gemm, ...attentionWork(executor, shape)];
      const rates = measure(works, rounds);
      works.slice(1).forEach(({ label }, i) => {
        const rate = rates[i + 1]!;
        const share = Math.round((100 * rate) / rates[0]!);
        console.log(
          `${threads} threads  ${label.padEnd(46)} ${rate.toFixed(1).padStart(6)} GFLOP/s  ${share} % of the product's ${rates[0]!.toFixed(1)}`,
        );
      });
    }
    executor.close();
  }
}

if (import.meta.main) {
  const counts = process.argv.slice(2).map(Number);
  await benchAttention(counts.length > 0 ? counts : [1, 2]);
}
