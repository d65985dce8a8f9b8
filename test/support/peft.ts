import { join } from "node:path";
import { readTensor } from "../../src/runtime/resident.ts";
import { elements } from "../../src/graph/types.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { createRandom } from "../../src/base/random.ts";
import { type TrainConfig, trainConfigSchema } from "../../src/train/config.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { exportTrained } from "../../src/train/run/export/export.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { isAdapter } from "../../src/models/adapters/names.ts";
import { tuningOf } from "../../src/train/step/tuning.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { batchFile, type GoldenFamily, modelFolder } from "./golden.ts";

const FEW = { rank: 3, alpha: 5, rslora: true, targets: ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"] };

/** The adapters of test/golden/peft that we write: of which family, by which settings of a run. */
export const WRITTEN = {
  qwen3: { family: "qwen3", settings: FEW },
  // On the last blocks alone.
  gemma2: { family: "gemma2", settings: { ...FEW, lastLayers: 2 } },
  "gemma3-vision": { family: "gemma3-vision", settings: { ...FEW, lastLayers: 1 } },
  phi3: { family: "phi3", settings: { ...FEW, targets: ["qkv_proj", "gate_up_proj", "down_proj"] } },
  internlm2: { family: "internlm2", settings: { ...FEW, targets: ["wqkv", "wo", "w1", "w2"] } },
  "written-dora": {
    family: "qwen2",
    settings: {
      ...FEW,
      method: "dora",
      bias: "all",
      rankPattern: { q_proj: 2, "layers.1.mlp.down_proj": 4 },
      alphaPattern: { v_proj: 3 },
    },
  },
  // Without targets, so that they are the kind's own; on the last block alone, which its configuration names by modules.
  "written-ia3": { family: "qwen2", settings: { method: "ia3", lastLayers: 1, modulesToSave: ["norm"] } },
  "written-ia3-phi3": {
    family: "phi3",
    settings: { method: "ia3", targets: ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], feedforward: ["o_proj"] },
  },
  "written-ia3-vision": { family: "gemma3-vision", settings: { method: "ia3", targets: ["all-linear"] } },
  // One part of a model with images: names must not mean modules of the others.
  "written-vision": { family: "gemma3-vision", settings: { ...FEW, method: "dora", modulesToSave: ["norm"] } },
  "written-tables": { family: "gemma3", settings: { ...FEW, targets: ["q_proj", "lm_head", "embed_tokens"], lastLayers: 2 } },
  "written-whole": {
    family: "internlm3",
    settings: { ...FEW, targets: ["q_proj", "up_proj"], bias: "lora_only", modulesToSave: ["lm_head", "0.mlp.down_proj"] },
  },
} as const satisfies Record<string, { readonly family: GoldenFamily; readonly settings: object }>;

export type Written = keyof typeof WRITTEN;

export const peftFixture = (name: Written): string => join(import.meta.dir, "../golden/peft", name);

/** An engine with a seeded random adapter, as it stands after a training run. */
export async function adaptedEngine(
  name: Written,
): Promise<{ engine: Engine; config: TrainConfig; batch: ReturnType<typeof readStepBatch> }> {
  const { family, settings } = WRITTEN[name];
  const config = trainConfigSchema.parse({ model: family, data: "none", ...settings });
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
  initialiseAdapter(engine, 1);
  source.close();
  for (const { name: parameter, type } of engine.resident.params.filter(isAdapter)) {
    const random = createRandom(23, parameter);
    const address = engine.resident.param.get(parameter)!;
    // Lengths and weights of the base model are moved a little, matrices are drawn.
    const start = /\.lora_(embedding_)?[AB](\.weight)?$/.test(parameter) ? null : readTensor(executor, address, type);
    const values = Float32Array.from({ length: elements(type.shape) }, (_, i) => {
      const drawn = Math.fround(2 * random.uniform() - 1) / 4;
      return start === null ? drawn : start[i]! * (1 + drawn);
    });
    executor.write(address, new Uint8Array(values.buffer));
  }
  return { engine, config, batch };
}

/** `bun test/support/peft.ts` writes the adapters that test/golden/peft/make.py hands to PEFT. */
if (import.meta.main) {
  for (const name of Object.keys(WRITTEN) as Written[]) {
    const { engine, config } = await adaptedEngine(name);
    const folder = join(peftFixture(name), "adapter");
    exportTrained(folder, engine, config);
    engine.executor.close();
  }
}
