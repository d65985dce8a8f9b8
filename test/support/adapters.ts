import { createRandom } from "../../src/base/random.ts";
import { elements } from "../../src/graph/types.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { isAdapter } from "../../src/models/adapters/names.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { exportTrained } from "../../src/train/run/export/export.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { tuningOf } from "../../src/train/step/tuning.ts";

/** Writes an adapter folder as a run leaves it, with seeded random values that change answers. */
export function writeRandomAdapter(executor: Executor, model: string, out: string, settings: object, seed: number): string {
  const config = trainConfigSchema.parse({ model, data: "none", ...settings });
  const declared = loadConfig(model);
  const source = openModelWeights(model, declared);
  const engine = createEngine(executor, {
    config: declared,
    source,
    tuning: tuningOf(config, declared, source),
    strategy: { name: "per-segment" },
    tokens: [8],
    optimizer: null,
  });
  initialiseAdapter(engine, 1);
  source.close();
  for (const { name, type } of engine.resident.params.filter(isAdapter)) {
    const random = createRandom(seed, name);
    const address = engine.resident.param.get(name)!;
    const start = /\.lora_(embedding_)?[AB](\.weight)?$/.test(name) ? null : readTensor(executor, address, type);
    const values = Float32Array.from({ length: elements(type.shape) }, (_, i) => {
      const drawn = Math.fround(2 * random.uniform() - 1) / 2;
      return start === null ? drawn : start[i]! * (1 + drawn);
    });
    executor.write(address, new Uint8Array(values.buffer));
  }
  exportTrained(out, engine, config);
  return out;
}
