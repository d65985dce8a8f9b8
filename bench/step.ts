import { uniformAdapters } from "../src/models/tuning.ts";
import { parseArgs } from "node:util";
import type { Graph, Node } from "../src/graph/types.ts";
import { createRandom } from "../src/base/random.ts";
import { chooseOptimizer, type OptimizerName } from "../src/optimizers/index.ts";
import { createEngine } from "../src/train/step/engine.ts";
import { peakProcessMemory } from "../src/base/process/free-memory.ts";
import { limitedMemory, parseMemory } from "../src/train/memory/limit.ts";
import { formatBytes } from "../src/base/bytes.ts";
import { createOptimizer } from "../src/train/step/optimizer.ts";
import { initialiseAdapter } from "../src/load/adapter.ts";
import { createOrtExecutor } from "../src/ort/executor.ts";
import type { OrtProvider } from "../src/ort/providers.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import type { MatmulChoice } from "../src/wasm/matmul.ts";
import { LINEAR_MODULES } from "../src/models/families/index.ts";
import { randomCheckpoint, type ShapeName, SHAPES, shapeConfig, storageOf } from "./shapes.ts";

/**
 * Whole training steps (forward, backward, clipping, AdamW) on random weights in a published model's exact shapes, LoRA
 * r = 16 on all linear layers, or with `--tuning full` all weights. Prints one JSON line: seconds to the end of the first step, median of the others,
 * tokens/s, peak RSS. `--strategy auto` is what `train` does by default, `--memory` gives the whole process a limit, and the fastest schedule in it. `--profile` adds the time by operator. `--device` is wasm, or ort-cpu or
 * cuda (ONNX Runtime), which also compute in `--dtype` f32, bf16 or f16; q8, nf4, q8-all and nf4-all are quantised weights.
 *
 *     bun bench/step.ts --shape smollm2-135m --tokens 512 --steps 4
 */
const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "smollm2-135m" },
    tokens: { type: "string", default: "512" },
    steps: { type: "string", default: "4" },
    device: { type: "string", default: "wasm" },
    threads: { type: "string", default: "2" },
    dtype: { type: "string", default: "f32" },
    strategy: { type: "string", default: "per-segment" },
    optimizer: { type: "string", default: "adamw" },
    tuning: { type: "string", default: "lora" },
    memory: { type: "string" },
    layers: { type: "string" },
    matmul: { type: "string", default: "auto" },
    profile: { type: "boolean", default: false },
  },
});
const tokens = Number(values.tokens);
if (values.tuning !== "lora" && values.tuning !== "full") throw new Error(`--tuning: lora or full; got ${values.tuning}`);
const isFull = values.tuning === "full";
const { stored, ...storage } = storageOf(values.dtype);
if (!(values.shape in SHAPES)) throw new Error(`--shape: one of ${Object.keys(SHAPES).join(", ")}`);
const config = shapeConfig(values.shape as ShapeName, values.layers ? Number(values.layers) : undefined);
/** Time of steps after the first, by operator and shapes. */
interface ProfileEntry {
  readonly op: string;
  /** The product of a `Gemm`: stored shapes and transpositions of both operands. */
  readonly product?: {
    readonly a: readonly number[];
    readonly b: readonly number[];
    readonly transA: boolean;
    readonly transB: boolean;
  };
  seconds: number;
  calls: number;
}
const profile = new Map<string, ProfileEntry>();
let warm = false;
let lastNode: Node | null = null;
function record(node: Node | null, seconds: number, graph: Graph): void {
  if (!warm) return;
  const shape = (i: number) => graph.types.get(node!.inputs[i]!)!.shape;
  const flag = (name: string) => node!.attrs[name] === 1;
  const product = node?.op === "Gemm" && { a: shape(0), b: shape(1), transA: flag("transA"), transB: flag("transB") };
  const key = `${node?.op ?? "copy"} ${product ? JSON.stringify(product) : ""}`;
  const entry = profile.get(key) ?? { op: node?.op ?? "copy", ...(product && { product }), seconds: 0, calls: 0 };
  entry.seconds += seconds;
  // An operator may be several commands, one behind the other.
  if (node === null || node !== lastNode) entry.calls++;
  lastNode = node;
  profile.set(key, entry);
}
/** Processor seconds of all threads. */
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
const openWasm = () =>
  createWasmExecutor({
    threads: Number(values.threads),
    matmul: values.matmul as MatmulChoice,
    // On one thread processor time is the same, and does not depend on what else the machine does.
    ...(values.profile && { profile: record, ...(values.threads === "1" && { clock: () => 1000 * cpuSeconds() }) }),
  });
const isWasm = values.device === "wasm";
const wasm = isWasm ? await openWasm() : null;
const provider = (values.device === "ort-cpu" ? "cpu" : values.device) as OrtProvider;
const ort = isWasm ? null : createOrtExecutor({ provider, threads: Number(values.threads) });
const executor = wasm ?? ort!;
const limited = limitedMemory(executor, {});
const engine = createEngine(executor, {
  config,
  source: randomCheckpoint(config, stored),
  ...storage,
  tuning: isFull ? { method: "full" } : uniformAdapters({ rank: 16, scale: 2, dropout: 0, targets: new Set(LINEAR_MODULES) }),
  strategy: values.memory
    ? { name: "budget", bytes: parseMemory(values.memory, limited.free), ...limited }
    : values.strategy === "auto"
      ? { name: "auto", free: limited.known }
      : { name: values.strategy as "per-segment" | "sqrt" | "off" },
  tokens: [tokens],
  optimizer: chooseOptimizer({ optimizer: values.optimizer as OptimizerName }),
});
if (!isFull) initialiseAdapter(engine, 1);
// As createSession does.
Bun.gc(true);
const optimizer = createOptimizer(engine, { clip: 1 });
const random = createRandom(1, "tokens");
const ids = Int32Array.from({ length: tokens }, () => random.below(config.vocabSize));
const batch = {
  ids,
  labels: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100),
  starts: new Int32Array(tokens),
  positions: Int32Array.from(ids, (_, t) => t),
};
const times: number[] = [];
const cpuTimes: number[] = [];
let firstStep = 0;
let firstLoss = 0;
let loss = 0;
for (let step = 1; step <= Number(values.steps); step++) {
  const begin = performance.now();
  const cpuBegin = cpuSeconds();
  optimizer.zeroGradients();
  loss = engine.forwardBackward(batch, 1 / (tokens - 1), 1, step);
  optimizer.step(step, 1e-4);
  times.push((performance.now() - begin) / 1000);
  cpuTimes.push(cpuSeconds() - cpuBegin);
  warm = true;
  // `performance.now` counts from the start of the process.
  if (step === 1) [firstStep, firstLoss] = [performance.now() / 1000, loss];
}
/** Returns the median of all steps but the first, or the first if there is no other. */
const medianOf = (all: readonly number[]) => {
  const later = all.slice(all.length > 1 ? 1 : 0).sort((a, b) => a - b);
  return (later[Math.floor((later.length - 1) / 2)]! + later[Math.ceil((later.length - 1) / 2)]!) / 2;
};
const median = medianOf(times);
/** All that is taken on the card, CUDA's context too. */
const card = ort?.card?.memory();
console.log(
  JSON.stringify({
    shape: values.shape,
    tokens,
    dtype: values.dtype,
    tuning: values.tuning,
    strategy: values.memory ? `memory ${values.memory}` : values.strategy,
    threads: executor.threads,
    device: values.device,
    ...(wasm && { matmul: wasm.matmul.name }),
    // What ONNX Runtime's allocator took, which never gives anything back: weights and temporary memory too.
    ...(ort && { peakDeviceMemory: ort.reserved + ort.temporary.bytes }),
    ...(card && { cardMemory: card.total - card.free }),
    firstLoss,
    loss,
    firstStepSeconds: firstStep,
    stepSeconds: median,
    tokensPerSecond: tokens / median,
    stepCpuSeconds: medianOf(cpuTimes),
    peakRss: peakProcessMemory(),
    predictedPeak: engine.predicted.peak,
    measuredPeak: engine.measuredPeak,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    readable: `${formatBytes(engine.measuredPeak)} of predicted ${formatBytes(engine.predicted.peak)}`,
  }),
);
const laterSteps = Math.max(1, times.length - 1);
const entries = [...profile.values()]
  .map((entry) => ({ ...entry, seconds: entry.seconds / laterSteps, calls: entry.calls / laterSteps }))
  .sort((a, b) => b.seconds - a.seconds);
const profiled = entries.reduce((sum, entry) => sum + entry.seconds, 0);
for (const { op, product, seconds, calls } of entries) {
  const text = product
    ? `${product.a.join("x")}${product.transA ? "'" : ""} ${product.b.join("x")}${product.transB ? "'" : ""}`
    : "";
  console.log(
    `${((100 * seconds) / profiled).toFixed(1).padStart(5)} %  ${(1000 * seconds).toFixed(1).padStart(8)} ms  ${String(calls).padStart(4)} ${op} ${text}`,
  );
}
// For bench/profile.ts.
if (values.profile) console.log(`profile ${JSON.stringify(entries)}`);
executor.close();
