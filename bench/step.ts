import { parseArgs } from "node:util";
import { createRandom } from "../src/random.ts";
import { createEngine } from "../src/train/engine.ts";
import { peakProcessMemory } from "../src/train/limit.ts";
import { formatBytes } from "../src/train/memory.ts";
import { createOptimizer } from "../src/train/optimizer.ts";
import { initialiseAdapter } from "../src/train/weights.ts";
import { createOrtExecutor } from "../src/ort/executor.ts";
import type { OrtProvider } from "../src/ort/providers.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import type { MatmulChoice } from "../src/wasm/matmul.ts";
import { LINEAR_MODULES } from "../src/hf/peft.ts";
import { randomCheckpoint, type ShapeName, SHAPES, shapeConfig } from "./shapes.ts";

/**
 * Whole training steps (forward, backward, clipping, AdamW) on random weights in a published model's exact shapes, LoRA
 * r = 16 on all linear layers. Prints one JSON line: seconds to the end of the first step, median of the others,
 * tokens/s, peak RSS. `--device` is wasm, or ort-cpu or cuda (ONNX Runtime).
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
    layers: { type: "string" },
    matmul: { type: "string", default: "auto" },
    profile: { type: "boolean", default: false },
  },
});
const tokens = Number(values.tokens);
if (!(values.shape in SHAPES)) throw new Error(`--shape: one of ${Object.keys(SHAPES).join(", ")}`);
const config = shapeConfig(values.shape as ShapeName, values.layers ? Number(values.layers) : undefined);
/** Seconds by operator and shape, in steps after the first. */
const profile = new Map<string, number>();
let warm = false;
const openWasm = () =>
  createWasmExecutor({
    threads: Number(values.threads),
    matmul: values.matmul as MatmulChoice,
    ...(values.profile
      ? {
          profile: (node, seconds, graph) => {
            if (!warm) return;
            const shapes =
              node?.op === "Gemm" ? node.inputs.slice(0, 2).map((input) => graph.types.get(input)!.shape.join("x")) : [];
            const key =
              `${node?.op ?? "copy"} ${shapes.join(" ")} ${node?.attrs["transA"] ?? ""}${node?.attrs["transB"] ?? ""}`.trim();
            profile.set(key, (profile.get(key) ?? 0) + seconds);
          },
        }
      : {}),
  });
const isWasm = values.device === "wasm";
const wasm = isWasm ? await openWasm() : null;
const provider = (values.device === "ort-cpu" ? "cpu" : values.device) as OrtProvider;
const ort = isWasm ? null : createOrtExecutor({ provider, threads: Number(values.threads) });
const executor = wasm ?? ort!;
const engine = createEngine(executor, {
  config,
  source: randomCheckpoint(config, values.dtype as "f32" | "bf16"),
  tuning: { method: "lora", rank: 16, scale: 2, dropout: 0, targets: new Set(LINEAR_MODULES) },
  strategy: { name: values.strategy as "per-segment" | "sqrt" | "off" },
  tokens: [tokens],
  optimizer: true,
});
initialiseAdapter(executor, engine.resident, 1);
const optimizer = createOptimizer(executor, engine.resident.trainable, {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  clip: 1,
});
const random = createRandom(1, "tokens");
const ids = Int32Array.from({ length: tokens }, () => random.below(config.vocabSize));
const batch = {
  ids,
  labels: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100),
  starts: new Int32Array(tokens),
  positions: Int32Array.from(ids, (_, t) => t),
};
const times: number[] = [];
/** Processor seconds of all threads. */
const cpuTimes: number[] = [];
const cpuSeconds = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
};
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
/** Of all steps but the first; of the first if there is no other. */
const medianOf = (all: readonly number[]) => {
  const later = all.slice(all.length > 1 ? 1 : 0).sort((a, b) => a - b);
  return (later[Math.floor((later.length - 1) / 2)]! + later[Math.ceil((later.length - 1) / 2)]!) / 2;
};
const median = medianOf(times);
console.log(
  JSON.stringify({
    shape: values.shape,
    tokens,
    dtype: values.dtype,
    strategy: values.strategy,
    threads: executor.threads,
    device: values.device,
    ...(wasm && { matmul: wasm.matmul.name }),
    // With weights and ONNX Runtime's temporary memory.
    ...(ort && { peakDeviceMemory: ort.reserved + ort.temporary() }),
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
const profiled = [...profile.values()].reduce((sum, seconds) => sum + seconds, 0);
for (const [key, seconds] of [...profile].sort((a, b) => b[1] - a[1])) {
  console.log(
    `${((100 * seconds) / profiled).toFixed(1).padStart(5)} %  ${((1000 * seconds) / Math.max(1, times.length - 1)).toFixed(1).padStart(8)} ms  ${key}`,
  );
}
executor.close();
