import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { loadConfig } from "../../src/hf/config.ts";
import { openSafetensors } from "../../src/hf/safetensors.ts";
import { createRandom } from "../../src/random.ts";
import { type TrainConfig, trainConfigSchema } from "../../src/train/config.ts";
import { createEngine, type Engine } from "../../src/train/engine.ts";
import { exportTrained } from "../../src/train/export.ts";
import { readStepBatch } from "../../src/train/step-batch.ts";
import { isAdapter } from "../../src/train/weights.ts";
import { tuningOf } from "../../src/train/session.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { batchFile, modelFolder } from "./golden.ts";

/** The family whose checkpoint carries the adapter of test/golden/peft. */
const FAMILY = "qwen3";

export const PEFT_FIXTURE = join(import.meta.dir, "../golden/peft");

/** An engine with a seeded random adapter, as it stands after a training run. */
export async function adaptedEngine(): Promise<{ engine: Engine; config: TrainConfig; batch: ReturnType<typeof readStepBatch> }> {
  const config = trainConfigSchema.parse({
    model: "qwen3",
    data: "none",
    rank: 3,
    alpha: 5,
    rslora: true,
    targets: ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
  });
  const model = loadConfig(modelFolder(FAMILY));
  const batch = readStepBatch(batchFile(FAMILY, "rows"), model);
  const source = openSafetensors(modelFolder(FAMILY));
  const tokens = [batch.ids.length];
  const executor = await createWasmExecutor({ threads: 1 });
  const engine = createEngine(executor, {
    config: model,
    source,
    tuning: tuningOf(config),
    strategy: { name: "per-segment" },
    tokens,
    logits: { tokens, rows: batch.ids.length },
    optimizer: false,
  });
  source.close();
  for (const { name, type } of engine.resident.params.filter(isAdapter)) {
    const random = createRandom(23, name);
    const values = Float32Array.from({ length: elements(type.shape) }, () => Math.fround(2 * random.uniform() - 1) / 4);
    executor.write(engine.resident.param.get(name)!, new Uint8Array(values.buffer));
  }
  return { engine, config, batch };
}

/** `bun test/support/peft.ts` writes the adapter that test/golden/peft/make.py hands to PEFT. */
if (import.meta.main) {
  const { engine, config } = await adaptedEngine();
  exportTrained(join(PEFT_FIXTURE, "adapter"), engine, config, modelFolder("qwen3"));
  engine.executor.close();
}
