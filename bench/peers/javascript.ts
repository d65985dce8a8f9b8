/**
 * Matrix products in other JavaScript systems, which have no step to compare: none of them fine-tunes a language model
 * on the CPU. Prints GFLOP/s of the best of several runs, one line per system.
 *
 *     PEERS=/folder/with/node_modules bun bench/peers/javascript.ts [--threads 2]
 *
 * onnxruntime-node comes with Remat; onnxruntime-web, @tensorflow/tfjs-core with @tensorflow/tfjs-backend-wasm and @jax-js/jax are taken
 * from PEERS where they are there. Nothing is installed. Each system runs in a process of its own.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { elements, type Shape } from "../../src/graph/types.ts";
import { messageOf } from "../../src/base/errors.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { BENCHMARKS, machine, ownVersions, versionsText, writeSection } from "../report.ts";

const { values } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    system: { type: "string" },
    seconds: { type: "string", default: "1" },
    output: { type: "string", default: BENCHMARKS },
  },
});
const threads = Number(values.threads);
const PEERS = process.env["PEERS"];

/** [m, k] times [k, n]. */
const PRODUCTS = [
  [512, 576, 1536],
  [512, 1536, 576],
  [1024, 1024, 1024],
] as const satisfies Product[];

type Product = readonly [m: number, k: number, n: number];

/** Makes a function that computes the product to its end. */
type Prepare = (product: Product) => Promise<() => unknown>;

function operands([m, k, n]: Product): { a: Float32Array; b: Float32Array } {
  const values = (shape: Shape) => Float32Array.from({ length: elements(shape) }, (_, i) => ((i * 7919) % 1000) / 1000 - 0.5);
  return { a: values([m, k]), b: values([k, n]) };
}

function gemm([m, k, n]: Product) {
  const builder = new GraphBuilder("product");
  const a = builder.input("a", "boundary", { dtype: "f32", shape: [m, k] });
  const b = builder.input("b", "param", { dtype: "f32", shape: [k, n] });
  builder.output({ name: builder.value(Gemm, [a, b], {}, "y"), role: "boundary" });
  return builder.build();
}

async function remat(matmul: "wasm" | "native"): Promise<Prepare> {
  const executor = await createWasmExecutor({ threads, matmul });
  return async (product) => {
    const { a, b } = operands(product);
    const place = (bytes: number, data?: Float32Array) => {
      const address = executor.reserve(bytes);
      if (data) executor.write(address, new Uint8Array(data.buffer));
      return address;
    };
    const program = executor.prepare(gemm(product));
    const addresses = new Map([
      ["a", place(a.byteLength, a)],
      ["b", place(b.byteLength, b)],
      ["y", place(4 * product[0] * product[2])],
    ]);
    const call = executor.bind(program, addresses, executor.reserve(program.workspace));
    return () => executor.run(call);
  };
}

/** Describes what onnxruntime-node and onnxruntime-web share. */
interface OnnxRuntime {
  readonly Tensor: new (type: string, data: Float32Array, dims: readonly number[]) => object;
  readonly InferenceSession: {
    create(model: Uint8Array, options: object): Promise<{ run(feeds: object): Promise<object> }>;
  };
  readonly env: { readonly wasm: { numThreads: number } };
}

async function onnxRuntime(ort: OnnxRuntime, options: object): Promise<Prepare> {
  return async (product) => {
    const [m, k, n] = product;
    const { a, b } = operands(product);
    const session = await ort.InferenceSession.create(writeModel(gemm([m, k, n])), options);
    const feeds = { a: new ort.Tensor("float32", a, [m, k]), b: new ort.Tensor("float32", b, [k, n]) };
    return () => session.run(feeds);
  };
}

/** A module of PEERS. */
async function peer<T>(name: string): Promise<T> {
  if (!PEERS) throw new Error("PEERS is not set");
  const path = Bun.resolveSync(name, PEERS);
  return (await import(pathToFileURL(path).href)) as T;
}

interface Tfjs {
  setBackend(name: string): Promise<boolean>;
  tensor2d(data: Float32Array, shape: readonly number[]): object;
  matMul(a: object, b: object): { data(): Promise<unknown>; dispose(): void };
}

interface JaxArray {
  readonly ref: JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  data(): Promise<unknown>;
}

const SYSTEMS: Readonly<Record<string, () => Promise<Prepare>>> = {
  "Remat, native": () => remat("native"),
  "Remat, WebAssembly": () => remat("wasm"),
  "onnxruntime-node": async () =>
    onnxRuntime((await import("onnxruntime-node")) as unknown as OnnxRuntime, { intraOpNumThreads: threads }),
  "onnxruntime-web": async () => {
    const ort = await peer<OnnxRuntime>("onnxruntime-web");
    ort.env.wasm.numThreads = threads;
    return onnxRuntime(ort, { executionProviders: ["wasm"] });
  },
  "tfjs-wasm": async () => {
    const tf = await peer<Tfjs>("@tensorflow/tfjs-core");
    await peer("@tensorflow/tfjs-backend-wasm");
    if (!(await tf.setBackend("wasm"))) throw new Error("the wasm backend does not start");
    return async (product) => {
      const [m, k, n] = product;
      const { a, b } = operands(product);
      const [x, y] = [tf.tensor2d(a, [m, k]), tf.tensor2d(b, [k, n])];
      return async () => {
        const result = tf.matMul(x, y);
        await result.data();
        result.dispose();
      };
    };
  },
  "jax-js": async () => {
    const jax = await peer<{
      init(device: string): Promise<unknown>;
      defaultDevice(device: string): unknown;
      numpy: { array(data: Float32Array): JaxArray; matmul(a: JaxArray, b: JaxArray): JaxArray };
    }>("@jax-js/jax");
    await jax.init("wasm");
    jax.defaultDevice("wasm");
    return async (product) => {
      const [m, k, n] = product;
      const { a, b } = operands(product);
      const x = jax.numpy.array(a).reshape([m, k]);
      const y = jax.numpy.array(b).reshape([k, n]);
      return () => jax.numpy.matmul(x.ref, y.ref).data();
    };
  },
};

function peerVersions(): Record<string, string> {
  const names = PEERS ? ["onnxruntime-web", "@tensorflow/tfjs-backend-wasm", "@jax-js/jax"] : [];
  const paths = names.map((name) => [name, join(PEERS!, "node_modules", name, "package.json")] as const);
  return Object.fromEntries(
    paths
      .filter(([, path]) => existsSync(path))
      .map(([name, path]) => [name, (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version]),
  );
}

async function measure(name: string): Promise<string> {
  try {
    const prepare = await SYSTEMS[name]!();
    const rates: string[] = [];
    for (const product of PRODUCTS) {
      const run = await prepare(product);
      let best = Infinity;
      for (const until = performance.now() + 1000 * Number(values.seconds); performance.now() < until;) {
        const begin = performance.now();
        await run();
        best = Math.min(best, performance.now() - begin);
      }
      const [m, k, n] = product;
      rates.push(((2 * m * k * n) / best / 1e6).toFixed(0));
    }
    return `| ${name} | ${rates.join(" | ")} |`;
  } catch (error) {
    return `| ${name} | does not run: ${messageOf(error).split("\n")[0]} ${"| ".repeat(PRODUCTS.length)}|`;
  }
}

if (values.system !== undefined) {
  console.log(await measure(values.system));
  process.exit();
}
const lines = [
  `${machine()}; ${versionsText({ ...ownVersions(), ...peerVersions() })}. [m, k] times [k, n], best run of ${values.seconds} s.`,
  "",
  `| GFLOP/s, ${threads} threads | ${PRODUCTS.map((product) => product.join(" x ")).join(" | ")} |`,
  `| --- | ${PRODUCTS.map(() => "---").join(" | ")} |`,
];
for (const system of Object.keys(SYSTEMS)) {
  const args = [
    join(import.meta.dir, "javascript.ts"),
    "--system",
    system,
    "--threads",
    values.threads,
    "--seconds",
    values.seconds,
  ];
  const child = Bun.spawn([process.execPath, ...args], { stdout: "pipe", stderr: "ignore", timeout: 120_000 });
  const output = await new Response(child.stdout).text();
  lines.push(
    output.split("\n").find((line) => line.startsWith("|")) ?? `| ${system} | stopped with exit code ${await child.exited} |`,
  );
}
console.log(lines.join("\n"));
writeSection(values.output, `products, ${threads} threads`, lines);
