import { GraphBuilder } from "../graph/builder.ts";
import { byteLength, elements, type Graph, type TensorType, typeOf } from "../graph/types.ts";
import { Add } from "../ops/add.ts";
import { Gemm } from "../ops/gemm.ts";
import { RMSNormalization } from "../ops/rms-norm.ts";
import { SwiGLU } from "../ops/swiglu.ts";
import { createRandom } from "../base/random.ts";
import { type Address, align, type Call, type Executor } from "../runtime/executor.ts";

/** Describes what an executor was found to do. */
export interface SelfTest {
  /** Largest error of an operator against float64, relative to its largest result; f32 rounds to 6e-8. */
  readonly error: number;
  /** Operator with that error. */
  readonly worst: string;
  /** Billions of multiplications and additions per second in a matrix product of `PRODUCT` rows, columns and terms. */
  readonly gflops: number;
  /** Billions of bytes read and written per second by an addition of vectors, as programs run it. */
  readonly gbps: number;
}

/** Error from which on a device does not work. */
export const BOUND = 1e-5;

const PRODUCT = 512;
/** Elements of a vector: 16 MiB, more than most caches hold. */
const VECTOR = 1 << 22;
const EPSILON = 1e-6;

interface Sample {
  readonly name: string;
  readonly graph: Graph;
  readonly reference: (inputs: readonly Float32Array[]) => Float64Array;
}

/** Tests kernels against float64 and measures their speed; about half a second, after memory has been touched. */
export function selfTest(executor: Executor, seconds = 0.2): SelfTest {
  let error = 0;
  let worst = "none";
  for (const { name, graph, reference } of samples()) {
    const { call, addresses, inputs, output } = place(executor, graph);
    // A device that reads its inputs once, when they are bound, would compute with these zeros for good.
    for (const [i, address] of addresses.entries()) executor.zero(address, inputs[i]!.byteLength);
    executor.run(call);
    for (const [i, address] of addresses.entries()) executor.write(address, new Uint8Array(inputs[i]!.buffer));
    executor.run(call);
    const bytes = executor.read(output, byteLength(typeOf(graph, "y")));
    const found = relativeError(new Float32Array(bytes.buffer, bytes.byteOffset), reference(inputs));
    if (found > error) [error, worst] = [found, name];
  }
  const product = place(executor, productGraph(PRODUCT, PRODUCT, PRODUCT)).call;
  const sum = place(executor, sumGraph(VECTOR)).call;
  return {
    error,
    worst,
    gflops: (2 * PRODUCT ** 3) / bestTime(executor, product, seconds) / 1e9,
    gbps: (3 * 4 * VECTOR) / bestTime(executor, sum, seconds) / 1e9,
  };
}

const matrix = (rows: number, columns: number): TensorType => ({ dtype: "f32", shape: [rows, columns] });

function productGraph(m: number, n: number, k: number): Graph {
  return oneNode("product", [matrix(m, k), matrix(n, k)], (builder, [a, b]) =>
    builder.value(Gemm, [a!, b!], { transA: 0, transB: 1, alpha: 1, beta: 1 }, "y"),
  );
}

function sumGraph(size: number): Graph {
  return oneNode("sum", [matrix(1, size), matrix(1, size)], (builder, [a, b]) => builder.value(Add, [a!, b!], {}, "y"));
}

function oneNode(
  name: string,
  inputs: readonly TensorType[],
  node: (builder: GraphBuilder, inputs: readonly string[]) => string,
): Graph {
  const builder = new GraphBuilder(name);
  const names = inputs.map((type, i) => builder.input(`x${i}`, "boundary", type));
  builder.output({ name: node(builder, names), role: "boundary" });
  return builder.build();
}

function samples(): Sample[] {
  const [m, n, k] = [131, 93, 87];
  return [
    {
      name: "Gemm",
      graph: productGraph(m, n, k),
      reference([a, b]) {
        const y = new Float64Array(m * n);
        for (let i = 0; i < m; i++)
          for (let j = 0; j < n; j++) for (let l = 0; l < k; l++) y[i * n + j]! += a![i * k + l]! * b![j * k + l]!;
        return y;
      },
    },
    {
      name: "SwiGLU",
      graph: oneNode("swiglu", [matrix(m, n), matrix(m, n)], (builder, [gate, up]) =>
        builder.value(SwiGLU, [gate!, up!], {}, "y"),
      ),
      // silu(gate) * up
      reference: ([gate, up]) => Float64Array.from(gate!, (value, i) => (value / (1 + Math.exp(-value))) * up![i]!),
    },
    {
      name: "RMSNormalization",
      graph: oneNode("norm", [matrix(m, n), { dtype: "f32", shape: [n] }], (builder, [x, scale]) =>
        builder.value(RMSNormalization, [x!, scale!], { axis: -1, epsilon: EPSILON }, "y"),
      ),
      reference([x, scale]) {
        return Float64Array.from(x!, (value, i) => {
          const start = i - (i % n);
          const squares = x!.subarray(start, start + n).reduce((sum, each) => sum + each * each, 0);
          return (value / Math.sqrt(squares / n + EPSILON)) * scale![i % n]!;
        });
      },
    },
  ];
}

interface Placed {
  readonly call: Call;
  readonly inputs: readonly Float32Array<ArrayBuffer>[];
  /** Where the inputs lie. */
  readonly addresses: readonly Address[];
  readonly output: Address;
}

/** Reserves memory for a graph, its inputs filled with normal numbers. */
function place(executor: Executor, graph: Graph): Placed {
  const program = executor.prepare(graph);
  const addresses = new Map<string, Address>();
  const inputs = graph.inputs.map(({ name }) => {
    const type = typeOf(graph, name);
    const random = createRandom(1, `${graph.name} ${name}`);
    // A vector that only speed is measured with repeats itself.
    const block = Float32Array.from({ length: Math.min(elements(type.shape), 1 << 16) }, () => random.normal());
    const data = new Float32Array(elements(type.shape));
    for (let at = 0; at < data.length; at += block.length) data.set(block.subarray(0, data.length - at), at);
    const address = executor.reserve(byteLength(type));
    executor.write(address, new Uint8Array(data.buffer));
    addresses.set(name, address);
    return data;
  });
  const output = executor.reserve(byteLength(typeOf(graph, "y")));
  addresses.set("y", output);
  const call = executor.bind(program, addresses, executor.reserve(align(program.workspace)));
  return { call, inputs, addresses: graph.inputs.map(({ name }) => addresses.get(name)!), output };
}

/** Infinite where a result is no number. */
function relativeError(actual: Float32Array, expected: Float64Array): number {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return expected.reduce((error, value, i) => {
    const difference = Math.abs(actual[i]! - value) / largest;
    return Math.max(error, Number.isNaN(difference) ? Infinity : difference);
  }, 0);
}

/** Least seconds of a call, over `seconds` and three calls. */
function bestTime(executor: Executor, call: Call, seconds: number): number {
  const run = () => {
    executor.run(call);
    executor.wait?.();
  };
  run();
  let best = Infinity;
  const end = performance.now() + 1000 * seconds;
  for (let i = 0; i < 3 || performance.now() < end; i++) {
    const begin = performance.now();
    run();
    best = Math.min(best, (performance.now() - begin) / 1000);
  }
  return best;
}
