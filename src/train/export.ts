import { copyFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { fileError, readJsonObject, writeTextAtomic } from "../hf/files.ts";
import { fromFloat32 } from "../hf/halves.ts";
import { writeAdapter } from "../hf/peft.ts";
import { type TensorData, writeSafetensors } from "../hf/safetensors.ts";
import type { FloatType } from "../graph/types.ts";
import { readTensor } from "../runtime/resident.ts";
import { loraAlpha, type TrainConfig } from "./config.ts";
import type { Engine } from "./engine.ts";

/** Files of a model folder that go along with the weights. */
const COMPANIONS = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
  "generation_config.json",
];

/** Writes what was trained: a PEFT adapter, or a whole model folder. Each file appears whole or not at all. */
export function exportTrained(folder: string, engine: Engine, config: TrainConfig, baseFolder: string): void {
  if (config.method === "lora") {
    writeAdapter(folder, {
      base: config.model,
      rank: config.rank,
      alpha: loraAlpha(config),
      dropout: config.dropout,
      rslora: config.rslora,
      targets: config.targets,
      tensors: trainedTensors(engine, () => "f32"),
    });
    return;
  }
  const stored = (name: string): FloatType => (engine.sourceType(name) ?? "f32") as FloatType;
  writeSafetensors(join(folder, "model.safetensors"), trainedTensors(engine, stored));
  writeTextAtomic(join(folder, "config.json"), `${JSON.stringify(readJsonObject(join(baseFolder, "config.json")), null, 2)}\n`);
  for (const name of COMPANIONS) {
    const from = join(baseFolder, name);
    if (!existsSync(from)) continue;
    try {
      copyFileSync(from, join(folder, name));
    } catch (error) {
      throw fileError("write", join(folder, name), error);
    }
  }
}

/** The trainable parameters under their names, read out one at a time, in the dtype that `typeOf` gives. */
function trainedTensors(engine: Engine, typeOf: (name: string) => FloatType): TensorData[] {
  const { params, param } = engine.resident;
  return params
    .filter((info) => info.trainable)
    .map(({ name, type }) => {
      const dtype = typeOf(name);
      const data = () => {
        const values = readTensor(engine.executor, param.get(name)!, type);
        return dtype === "f32" ? values : fromFloat32(values, dtype);
      };
      return { name, dtype, shape: type.shape, data };
    });
}
