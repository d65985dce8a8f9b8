import { UserError } from "../errors.ts";
import type { ModelConfig } from "../hf/config.ts";
import { layerOf, modulesOf } from "../hf/modules.ts";
import { type Adapter, resolveTargets } from "../hf/peft.ts";
import type { Tuning } from "../models/linear.ts";
import { loraScale, type TrainConfig } from "./config.ts";

/** What a configuration trains. @throws {UserError} targets or blocks that the model does not have */
export function tuningOf(
  config: Pick<TrainConfig, "method" | "rank" | "alpha" | "rslora" | "dropout" | "targets" | "lastLayers">,
  model: Pick<ModelConfig, "family" | "layers" | "modulePrefix">,
): Tuning {
  const first = firstLayer(config, model);
  if (config.method === "full") {
    if (first === null) return { method: "full" };
    // What stands above the blocks goes along with them, but for a head that is the embedding.
    const embedding = `${model.modulePrefix}${modulesOf(model).embedding}.`;
    return { method: "full", trains: (name) => !name.startsWith(embedding) && (layerOf(name, model) ?? first) >= first };
  }
  return {
    method: "lora",
    rank: config.rank,
    scale: loraScale(config),
    dropout: config.dropout,
    targets: new Set(resolveTargets(config.targets, model)),
    ...(first === null ? {} : { adapts: (module) => layerOf(module, model)! >= first }),
  };
}

/** The first block that is trained, from 0; null: everything is. @throws {UserError} */
function firstLayer({ lastLayers }: Pick<TrainConfig, "lastLayers">, { layers }: Pick<ModelConfig, "layers">): number | null {
  if (lastLayers === undefined) return null;
  if (lastLayers > layers) throw new UserError(`--last-layers ${lastLayers}: the model has ${layers} layers`);
  return layers - lastLayers;
}

/** The blocks that have adapters, as PEFT's `layers_to_transform`; null: all. @throws {UserError} */
export function adaptedLayers(config: Pick<TrainConfig, "lastLayers">, model: Pick<ModelConfig, "layers">): number[] | null {
  const first = firstLayer(config, model);
  return first === null ? null : Array.from({ length: model.layers - first }, (_, i) => first + i);
}

/** What trains an adapter further that `readAdapter` has opened. */
export function tuningOfAdapter({ rank, scale, targets, modules }: Adapter, dropout: number): Tuning {
  return { method: "lora", rank, scale, dropout, targets: new Set(targets), adapts: (module) => modules.has(module) };
}
