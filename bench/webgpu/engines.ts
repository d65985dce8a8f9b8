import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import type { OffloadOptions } from "../../src/train/memory/offload.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { llama, lora, packedBatch } from "../../test/support/engine.ts";
import {
  batchFile,
  type GoldenFamily,
  type GoldenMethod,
  goldenTuning,
  isZero,
  METHODS,
  modelFolder,
  readAdapter,
} from "../../test/support/golden.ts";
import { relativeError } from "../../test/support/ops.ts";
import { randomCheckpoint } from "../shapes.ts";
import type { Check } from "../webgpu.ts";

const BOUND = 1e-4;

const openWebGpu = () => createOrtExecutor({ provider: "webgpu", threads: 1 });

interface Way {
  readonly name: string;
  readonly strategy: Checkpointing;
  readonly isOffloaded?: true;
}

const WAYS: readonly Way[] = [
  { name: "off", strategy: { name: "off" } },
  { name: "per-segment", strategy: { name: "per-segment" } },
  { name: "sqrt", strategy: { name: "sqrt" } },
  { name: "optimal", strategy: { name: "optimal", limit: { share: 0.6 } } },
  { name: "off with offload", strategy: { name: "off" }, isOffloaded: true },
];

/** Loss and gradients of a batch, on an executor that is closed behind them. */
function gradientsOf(
  executor: Executor,
  family: GoldenFamily,
  method: GoldenMethod,
  strategy: Checkpointing,
  offload: OffloadOptions | null,
) {
  try {
    const config = loadConfig(modelFolder(family));
    const batch = readStepBatch(batchFile(family, "padded"), config);
    const source = openModelWeights(modelFolder(family), config);
    const tuning = goldenTuning(family, method);
    const tokens = [batch.ids.length];
    const { resident, ...engine } = createEngine(executor, {
      config,
      source,
      tuning,
      strategy,
      tokens,
      optimizer: null,
      offload,
    });
    source.close();
    for (const [name, data] of method === "lora" ? readAdapter(family).tensors : [])
      executor.write(resident.param.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    engine.zeroGradients();
    const loss = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
    const gradients = new Map<string, Float32Array>();
    for (const { name, type } of resident.params.filter(({ trainable }) => trainable))
      gradients.set(name, readTensor(executor, resident.gradient.get(name)!, type));
    engine.close();
    return { loss, gradients };
  } finally {
    executor.close();
  }
}

type Gradients = ReturnType<typeof gradientsOf>;

/** The largest relative error of a loss or a gradient, and whose it is. */
function worst(actual: Gradients, expected: Gradients): { readonly error: number; readonly name: string } {
  let most = { error: Math.abs(actual.loss / expected.loss - 1), name: "loss" };
  for (const [name, gradient] of expected.gradients) {
    if (isZero(name)) continue;
    const error = relativeError(actual.gradients.get(name)!, gradient);
    if (!(error <= most.error)) most = { error, name };
  }
  return most;
}

const bitsOf = ({ loss, gradients }: Gradients): string => {
  const hash = new Bun.CryptoHasher("sha256").update(Float64Array.of(loss));
  for (const gradient of gradients.values()) hash.update(gradient);
  return hash.digest("hex");
};

/** Each family by every strategy. */
export async function strategies(check: Check, families: readonly GoldenFamily[], folder: string): Promise<void> {
  for (const family of families) {
    for (const method of METHODS) {
      const expected = gradientsOf(await createWasmExecutor({ threads: 1 }), family, method, { name: "off" }, null);
      const found = WAYS.map(({ strategy, isOffloaded }) =>
        gradientsOf(openWebGpu(), family, method, strategy, isOffloaded ? { folder, leastBytes: 64 } : null),
      );
      const { error, name } = worst(found[0]!, expected);
      const others = WAYS.filter((_, i) => bitsOf(found[i]!) !== bitsOf(found[0]!)).map((way) => way.name);
      const same = others.length === 0 ? "the same bits by every strategy" : `other bits by ${others.join(", ")}`;
      check(
        `${family}, ${method}`,
        error <= BOUND && others.length === 0,
        `${name} is off by ${error.toExponential(1)}; ${same}`,
      );
    }
  }
}

/** Bytes that the process may grow by in the second half of the steps, for what drivers and garbage collection do by themselves. */
const GROWTH = 2 ** 23;

/** Steps with the same buffers, and the process's growth. */
export async function flatMemory(check: Check, steps: number): Promise<void> {
  const [tokens, config] = [16, llama(2)];
  const executor = openWebGpu();
  const optimizer = chooseOptimizer({ weightDecay: 0.01 });
  const source = randomCheckpoint(config, "f32");
  const strategy = { name: "per-segment" } as const;
  const engine = createEngine(executor, { config, source, tuning: lora(0), strategy, tokens: [tokens], optimizer });
  initialiseAdapter(engine, 3);
  const update = createOptimizer(engine, { clip: 1 });
  const batch = packedBatch(tokens, config.vocabSize);
  const rss: number[] = [];
  const buffers: number[] = [];
  for (let step = 1; step <= steps; step++) {
    update.zeroGradients();
    engine.forwardBackward(batch, 1 / batch.labelled, 11, step);
    update.step(step, 1e-3);
    Bun.gc(true);
    rss.push(process.memoryUsage.rss());
    buffers.push(executor.buffers!().held);
  }
  engine.close();
  executor.close();
  const [second, half] = [buffers[1]!, Math.floor(steps / 2)];
  const isFlat = buffers.slice(1).every((held) => held === second);
  check(`${steps} steps`, isFlat, `${second} bytes of buffers from the second step to the last`);
  const growth = rss.at(-1)! - rss[half]!;
  const detail = `the process grew by ${mebibytes(rss.at(-1)! - rss[1]!)} from the second step on, ${mebibytes(growth)} of it in the second half`;
  check("growth of the process", growth <= GROWTH, detail);
}

const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
