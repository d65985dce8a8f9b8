import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/hf/weights/model-weights.ts";
import { createRandom } from "../../src/base/random.ts";
import { type TrainConfig, trainConfigSchema } from "../../src/train/config.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { exportTrained } from "../../src/train/run/export.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { isAdapter } from "../../src/models/adapters/names.ts";
import { tuningOf } from "../../src/train/step/tuning.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { batchFile, type GoldenFamily, modelFolder } from "./golden.ts";

/** The families whose checkpoints carry the adapters of test/golden/peft. */
export const PEFT_FAMILIES = ["qwen3", "gemma2", "gemma3-vision", "phi3", "internlm2"] as const;

const TARGETS: Partial<Record<GoldenFamily, TrainConfig["targets"]>> = {
  phi3: ["qkv_proj", "gate_up_proj", "down_proj"],
  internlm2: ["wqkv", "wo", "w1", "w2"],
};

/** Families whose adapter is on the last blocks alone. */
const LAST_LAYERS: Partial<Record<GoldenFamily, number>> = { gemma2: 2, "gemma3-vision": 1 };

export const peftFixture = (family: GoldenFamily): string => join(import.meta.dir, "../golden/peft", family);

/** An engine with a seeded random adapter, as it stands after a training run. */
export async function adaptedEngine(
  family: GoldenFamily,
): Promise<{ engine: Engine; config: TrainConfig; batch: ReturnType<typeof readStepBatch> }> {
  const config = trainConfigSchema.parse({
    model: family,
    data: "none",
    rank: 3,
    alpha: 5,
    rslora: true,
    lastLayers: LAST_LAYERS[family],
    targets: TARGETS[family] ?? ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
  });
  const model = loadConfig(modelFolder(family));
  const batch = readStepBatch(batchFile(family, "rows"), model);
  const source = openModelWeights(modelFolder(family), model);
  const tokens = [batch.ids.length];
  const executor = await createWasmExecutor({ threads: 1 });
  const engine = createEngine(executor, {
    config: model,
    source,
    tuning: tuningOf(config, model, source),
    strategy: { name: "per-segment" },
    tokens,
    logits: { tokens, rows: batch.ids.length },
    optimizer: null,
  });
  source.close();
  for (const { name, type } of engine.resident.params.filter(isAdapter)) {
    const random = createRandom(23, name);
    const values = Float32Array.from({ length: elements(type.shape) }, () => Math.fround(2 * random.uniform() - 1) / 4);
    executor.write(engine.resident.param.get(name)!, new Uint8Array(values.buffer));
  }
  return { engine, config, batch };
}

/** `bun test/support/peft.ts` writes the adapters that test/golden/peft/make.py hands to PEFT. */
if (import.meta.main) {
  for (const family of PEFT_FAMILIES) {
    const { engine, config } = await adaptedEngine(family);
    exportTrained(join(peftFixture(family), "adapter"), engine, config, modelFolder(family));
    engine.executor.close();
  }
}
