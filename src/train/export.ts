import { fromFloat32 } from "../hf/halves.ts";
import { copyCompanions, writeWeights } from "../hf/model-folder.ts";
import { writeAdapter } from "../hf/peft.ts";
import type { TensorData } from "../hf/safetensors.ts";
import type { FloatType } from "../graph/types.ts";
import { readTensor } from "../runtime/resident.ts";
import { loraAlpha, type TrainConfig } from "./config.ts";
import type { Engine } from "./engine.ts";

/** Writes what was trained: a PEFT adapter, or a whole model folder in the base's dtypes. The weights come last. */
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
  copyCompanions(baseFolder, folder);
  writeWeights(folder, trainedTensors(engine, stored));
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
