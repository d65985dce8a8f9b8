import { UserError } from "../../base/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { layerOf } from "../../models/names.ts";
import { modulesOf } from "../../models/families/index.ts";
import { type Adapter, resolveTargets } from "../../hf/peft/peft.ts";
import { describeModules } from "../../hf/peft/peft-modules.ts";
import type { Tuning } from "../../models/linear.ts";
import { loraScale, type TrainConfig } from "../config.ts";

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

/**
 * A configuration with what an adapter decides that is trained further.
 * @param given the keys that were asked for, which must say the same
 * @throws {UserError} one that says something else
 */
export function withAdapter<C extends Pick<TrainConfig, "method" | "rank" | "alpha" | "rslora" | "targets" | "lastLayers">>(
  config: C,
  adapter: Adapter,
  model: Pick<ModelConfig, "family" | "layers" | "modulePrefix">,
  given: readonly string[],
): C {
  if (config.method !== "lora") throw new UserError(`an adapter needs --method lora, got ${config.method}`);
  const { targets, layers } = describeModules([...adapter.modules.keys()], model);
  const isLast = layers !== null && layers.every((layer, i) => layer === model.layers - layers.length + i);
  const own = {
    rank: adapter.rank,
    alpha: adapter.alpha,
    rslora: adapter.rslora,
    targets: modulesOf(model).linear.filter((name) => adapter.targets.includes(name)) as TrainConfig["targets"],
    lastLayers: isLast ? layers.length : undefined,
  };
  const asked = { ...config, targets: resolveTargets(config.targets, model) };
  for (const key of Object.keys(own) as (keyof typeof own)[]) {
    if (!given.includes(key) || String(asked[key]) === String(own[key])) continue;
    throw new UserError(
      `${key} ${String(asked[key])} is not what the adapter has (${key} ${String(own[key] ?? `of ${targets.join(", ")} in layers ${layers?.join(", ")}`)}); it keeps its own`,
    );
  }
  return { ...config, ...own };
}

/** What trains an adapter further that `readAdapter` has opened. */
export function tuningOfAdapter({ rank, scale, targets, modules }: Adapter, dropout: number): Tuning {
  return { method: "lora", rank, scale, dropout, targets: new Set(targets), adapts: (module) => modules.has(module) };
}
