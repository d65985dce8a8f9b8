/**
 * A step with weights in memory against the same step with all of them in their file, in one process and by turns: the same gradients to the
 * bit, and a ratio of times. The page cache is warm.
 *
 *     bun bench/large/residency.ts [--case 1.5b-bf16] [--tokens 512] [--rounds 3] [--threads 2]
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../../src/base/random.ts";
import { elements } from "../../src/graph/types.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { openSafetensors, readBytes, type TensorSource } from "../../src/hf/weights/safetensors.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { isOnDisk } from "../../src/load/streamed-weights.ts";
import { isAdapter } from "../../src/models/adapters/names.ts";
import { modulesOf } from "../../src/models/families/index.ts";
import { uniformAdapters } from "../../src/models/tuning.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { NOMINAL_BANDWIDTH } from "../../src/train/memory/stream.ts";
import type { Engine } from "../../src/train/step/engine.ts";
import { openEngine } from "../../src/train/step/open-engine.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { median } from "../report.ts";
import { randomCheckpoint } from "../shapes.ts";
import { CASES, type LargeCase } from "./cases.ts";

const { values: flags } = parseArgs({
  options: {
    case: { type: "string", default: "1.5b-bf16" },
    tokens: { type: "string", default: "512" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
const { config, rank, strategy, storage }: LargeCase = CASES[flags.case as keyof typeof CASES];
const [tokens, threads] = [Number(flags.tokens), Number(flags.threads)];
const folder = mkdtempSync(join(tmpdir(), "remat-residency-"));
try {
  const source = storedSource();
  const engines = {
    resident: await engineOf(source, "off"),
    streamed: await engineOf(source, "all"),
  };
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % config.vocabSize);
  const batch = { ids, labels: ids, starts: new Int32Array(tokens), positions: ids.map((_, i) => i) };
  const times: Record<keyof typeof engines, number[]> = { resident: [], streamed: [] };
  const hashes = new Set<bigint | number>();
  // The first turn of each warms programs and page cache up.
  for (let round = 0; round <= Number(flags.rounds); round++) {
    for (const name of round % 2 === 0 ? (["resident", "streamed"] as const) : (["streamed", "resident"] as const)) {
      const engine = engines[name];
      engine.zeroGradients();
      const begin = performance.now();
      engine.forwardBackward(batch, 1 / tokens, 1, 1);
      const seconds = (performance.now() - begin) / 1000;
      if (round > 0) times[name].push(seconds);
      hashes.add(gradientHash(engine));
      console.log(`${name}: ${seconds.toFixed(2)} s`);
    }
  }
  const ratio = median(times.streamed) / median(times.resident);
  console.log(`streamed ${ratio.toFixed(3)} of resident (bound 1.10); gradients ${hashes.size === 1 ? "identical" : "DIFFER"}`);
  process.exitCode = ratio <= 1.1 && hashes.size === 1 ? 0 : 1;
  for (const engine of Object.values(engines)) engine.close();
} finally {
  rmSync(folder, { recursive: true });
}
process.exit();

/** A random checkpoint in a file. */
function storedSource(): TensorSource {
  const random = randomCheckpoint(config, "bf16");
  writeSafetensors(
    join(folder, "model.safetensors"),
    [...random.tensors.values()].map((entry) => ({
      name: entry.name,
      dtype: "bf16" as const,
      shape: entry.shape,
      data: new Uint16Array(readBytes(random, entry).buffer),
    })),
  );
  return openSafetensors(folder);
}

async function engineOf(source: TensorSource, mode: "off" | "all"): Promise<Engine> {
  const executor = await createWasmExecutor({ matmul: "auto", threads });
  const engine = await openEngine(
    executor,
    {
      config,
      source,
      tuning: uniformAdapters({ rank: rank ?? 16, scale: 2, dropout: 0, targets: new Set(modulesOf(config).linear) }),
      strategy,
      ...storage,
      tokens: [tokens],
      optimizer: chooseOptimizer({}),
      stream: { mode, canStream: (param) => isOnDisk(source, param), folder, bandwidth: NOMINAL_BANDWIDTH, free: () => Infinity },
    },
    (plan) => plan(),
    { cache: false },
  );
  initialiseAdapter(engine, 1);
  // B = 0 would leave A without a gradient.
  const random = createRandom(5, "lora_B");
  for (const { name, type } of engine.resident.params.filter(
    (param) => isAdapter(param) && param.name.endsWith("lora_B.weight"),
  )) {
    const values = Float32Array.from({ length: elements(type.shape) }, () => 0.01 * random.normal());
    executor.write(engine.resident.param.get(name)!, new Uint8Array(values.buffer));
  }
  return engine;
}

/** Hashes the gradients of all adapters. */
function gradientHash({ executor, resident }: Engine): bigint | number {
  const hashes = resident.params
    .filter(({ trainable }) => trainable)
    .map(({ name, type }) => Bun.hash(readTensor(executor, resident.gradient.get(name)!, type)));
  return Bun.hash(hashes.join());
}
