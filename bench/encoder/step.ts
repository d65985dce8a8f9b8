/**
 * Training steps of a text encoder with random weights in all-MiniLM-L6-v2's shape: all weights are trained by contrast, `--rows` texts of
 * `--length` tokens in a micro-batch, AdamW in f32. Prints one JSON line, with `--profile` the time by operator too. See bench/encoder.ts.
 */
import { parseArgs } from "node:util";
import { createRandom } from "../../src/base/random.ts";
import { peakProcessMemory } from "../../src/base/process/free-memory.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import type { Graph, Node } from "../../src/graph/types.ts";
import { withPooling } from "../../src/load/embedder.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { embedderHead } from "../../src/objectives/index.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { limitedMemory, parseMemory } from "../../src/train/memory/limit.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { createLearner } from "../../src/train/step/learner.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import type { MatmulChoice } from "../../src/wasm/matmul.ts";
import { median } from "../report.ts";
import { MINILM, randomCheckpoint } from "../shapes.ts";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "64" },
    length: { type: "string", default: "128" },
    steps: { type: "string", default: "4" },
    threads: { type: "string", default: "2" },
    strategy: { type: "string", default: "per-segment" },
    memory: { type: "string" },
    matmul: { type: "string", default: "auto" },
    profile: { type: "boolean", default: false },
  },
});
const [rows, length] = [Number(values.rows), Number(values.length)];
const tokens = rows * length;
const config = withPooling(parseConfig(MINILM, "bench/shapes.ts (MiniLM)"), "mean");

const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
const profile = new Map<string, { seconds: number; calls: number }>();
let isWarm = false;
let lastNode: Node | null = null;
function record(node: Node | null, seconds: number, graph: Graph): void {
  if (!isWarm) return;
  const shape = (name: string) => `[${graph.types.get(name)!.shape.join(",")}]`;
  const sizes = node === null || node.op !== "Gemm" ? "" : node.inputs.slice(0, 2).map(shape).join(" ");
  const flags = node?.op === "Gemm" ? `${node.attrs["transA"] ? "'" : "-"}${node.attrs["transB"] ? "'" : "-"}` : "";
  const key = `${node?.op ?? "copy"} ${sizes} ${flags}`;
  const entry = profile.get(key) ?? { seconds: 0, calls: 0 };
  entry.seconds += seconds;
  if (node === null || node !== lastNode) entry.calls++;
  lastNode = node;
  profile.set(key, entry);
}

const executor = await createWasmExecutor({
  threads: Number(values.threads),
  matmul: values.matmul as MatmulChoice,
  ...(values.profile && { profile: record, ...(values.threads === "1" && { clock: () => 1000 * cpuSeconds() }) }),
});
const limited = limitedMemory(executor, {});
const engine = createEngine(executor, {
  config,
  source: randomCheckpoint(config, "f32", "logits"),
  tuning: { method: "full" },
  head: "logits",
  texts: rows,
  strategy: values.memory
    ? { name: "budget", bytes: parseMemory(values.memory, limited.free), ...limited }
    : { name: values.strategy as "per-segment" | "sqrt" | "off" },
  tokens: [tokens],
  optimizer: chooseOptimizer({ optimizer: "adamw" }),
});
Bun.gc(true);
const learner = createLearner(engine, embedderHead("mean"));
const optimizer = createOptimizer(engine, { clip: 1 });
const random = createRandom(1, "tokens");
const starts = Int32Array.from({ length: tokens }, (_, t) => t - (t % length));
const batch: MicroBatch = {
  tokens,
  ids: Int32Array.from({ length: tokens }, () => random.below(config.vocabSize)),
  labels: new Int32Array(tokens).fill(-100),
  starts,
  positions: starts.map((start, t) => t - start),
  weights: null,
  labelled: 0,
  weight: 0,
  used: tokens,
  examples: rows / 2,
  spans: Array.from({ length: rows / 2 }, (_, example) =>
    [0, 1].map((text) => ({ from: (2 * example + text) * length, to: (2 * example + text + 1) * length })),
  ),
  members: Array.from({ length: rows / 2 }, (_, example) => example),
};
const times: number[] = [];
const cpuTimes: number[] = [];
let loss = 0;
for (let step = 1; step <= Number(values.steps); step++) {
  const [begin, cpuBegin] = [performance.now(), cpuSeconds()];
  optimizer.zeroGradients();
  loss = learner.learn(batch, batch.examples, 1, step).loss;
  optimizer.step(step, 2e-5);
  times.push((performance.now() - begin) / 1000);
  cpuTimes.push(cpuSeconds() - cpuBegin);
  isWarm = true;
}
const later = <T>(all: readonly T[]) => (all.length > 1 ? all.slice(1) : all);
const seconds = median(later(times));
console.log(
  JSON.stringify({
    tokens,
    threads: executor.threads,
    matmul: executor.matmul.name,
    loss,
    stepSeconds: seconds,
    tokensPerSecond: tokens / seconds,
    stepCpuSeconds: median(later(cpuTimes)),
    peakRss: peakProcessMemory(),
    measuredPeak: engine.measuredPeak,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
  }),
);
const steps = later(times).length;
for (const [key, entry] of [...profile].sort(([, a], [, b]) => b.seconds - a.seconds))
  console.log(
    `${((1000 * entry.seconds) / steps).toFixed(1).padStart(9)} ms  ${String(entry.calls / steps).padStart(5)}  ${key}`,
  );
engine.close();
executor.close();
