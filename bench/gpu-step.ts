import { parseArgs } from "node:util";
import { LINEAR_MODULES } from "../src/hf/peft.ts";
import { createOrtExecutor } from "../src/ort/executor.ts";
import type { OrtProvider } from "../src/ort/providers.ts";
import { createRandom } from "../src/random.ts";
import { createEngine } from "../src/train/engine.ts";
import { createOptimizer } from "../src/train/optimizer.ts";
import { initialiseAdapter } from "../src/train/weights.ts";
import { randomCheckpoint, type ShapeName, SHAPES, shapeConfig } from "./shapes.ts";

/**
 * The work of bench/step.ts on a provider of ONNX Runtime, in a process of its own. Prints one JSON line: tokens/s, and
 * the most device memory that was taken, weights and all.
 *
 *     bun bench/gpu-step.ts --provider cuda --shape qwen2.5-0.5b --tokens 2048 --steps 4 --dtype bf16
 */
const { values } = parseArgs({
  options: {
    provider: { type: "string", default: "cuda" },
    shape: { type: "string", default: "qwen2.5-0.5b" },
    tokens: { type: "string", default: "2048" },
    steps: { type: "string", default: "4" },
    dtype: { type: "string", default: "bf16" },
    layers: { type: "string" },
  },
});
const tokens = Number(values.tokens);
if (!(values.shape in SHAPES)) throw new Error(`--shape: one of ${Object.keys(SHAPES).join(", ")}`);
const config = shapeConfig(values.shape as ShapeName, values.layers ? Number(values.layers) : undefined);
const executor = createOrtExecutor({ provider: values.provider as OrtProvider });
const engine = createEngine(executor, {
  config,
  source: randomCheckpoint(config, values.dtype as "f32" | "bf16"),
  tuning: { method: "lora", rank: 16, scale: 2, dropout: 0, targets: new Set(LINEAR_MODULES) },
  strategy: { name: "per-segment" },
  tokens: [tokens],
  optimizer: true,
});
initialiseAdapter(executor, engine.resident, 1);
const adamW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, clip: 1 };
const optimizer = createOptimizer(executor, engine.resident.trainable, adamW);
const random = createRandom(1, "tokens");
const ids = Int32Array.from({ length: tokens }, () => random.below(config.vocabSize));
const batch = {
  ids,
  labels: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100),
  starts: new Int32Array(tokens),
  positions: Int32Array.from(ids, (_, t) => t),
};
const times: number[] = [];
const losses: number[] = [];
for (let step = 1; step <= Number(values.steps); step++) {
  const begin = performance.now();
  optimizer.zeroGradients();
  losses.push(engine.forwardBackward(batch, 1 / (tokens - 1), 1, step));
  optimizer.step(step, 1e-4);
  times.push((performance.now() - begin) / 1000);
}
// The first step creates sessions and grows the arena.
const later = times.slice(1).sort((a, b) => a - b);
const median = later[later.length >> 1] ?? times[0]!;
console.log(
  JSON.stringify({
    system: "remat",
    provider: values.provider,
    shape: values.shape,
    tokens,
    dtype: values.dtype,
    losses,
    stepSeconds: median,
    tokensPerSecond: tokens / median,
    peakDeviceMemory: executor.reserved + executor.temporary(),
    predictedPeak: engine.predicted.peak,
    measuredPeak: engine.measuredPeak,
  }),
);
executor.close();
