import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import type { AdapterSettings } from "../../hf/peft/adapter-config.ts";
import { type Adapter, isWhole, resolveTargets, sizeOf } from "../../hf/peft/peft.ts";
import { describeModules, isSaved, isSavedModule, patternValue } from "../../hf/peft/peft-modules.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { isVision } from "../../hf/weights/model-weights.ts";
import { checkModules } from "../../load/adapter.ts";
import { adapterKind } from "../../models/adapters/index.ts";
import type { ModelConfig } from "../../models/config.ts";
import { modulesOf } from "../../models/families/index.ts";
import { layerOf } from "../../models/names.ts";
import type { Tuning } from "../../models/tuning.ts";
import { loraAlpha, type TrainConfig } from "../config.ts";

type TuningConfig = Pick<
  TrainConfig,
  | "method"
  | "rank"
  | "alpha"
  | "rslora"
  | "dropout"
  | "targets"
  | "lastLayers"
  | "rankPattern"
  | "alphaPattern"
  | "bias"
  | "modulesToSave"
>;
type Model = Pick<ModelConfig, "family" | "layers" | "modulePrefix">;

/** Returns what a configuration says of its adapters. */
export function settingsOf(config: TuningConfig): AdapterSettings {
  return {
    method: config.method,
    rank: config.rank,
    alpha: loraAlpha(config),
    rslora: config.rslora,
    dropout: config.dropout,
    rankPattern: config.rankPattern ?? {},
    alphaPattern: config.alphaPattern ?? {},
    bias: config.bias,
    modulesToSave: config.modulesToSave ?? [],
  };
}

/**
 * Returns what a configuration trains.
 * @param base names of the base model's weights
 * @throws {UserError} targets, blocks, modules or patterns that the model does not have
 */
export function tuningOf(config: TuningConfig, model: Model, base: Pick<TensorSource, "tensors">): Tuning {
  const first = firstLayer(config, model);
  if (config.method === "full") {
    checkPlain(config);
    if (first === null) return { method: "full" };
    // What stands above the blocks goes along with them, but for a head that is the embedding.
    const embedding = `${model.modulePrefix}${modulesOf(model).embedding}.`;
    return { method: "full", trains: (name) => !name.startsWith(embedding) && (layerOf(name, model) ?? first) >= first };
  }
  const { head, embedding, linear } = modulesOf(model);
  const targets = resolveTargets(config.targets, model);
  const kind = adapterKind(config.method);
  const tables = [
    { name: head, module: head, layer: "head" },
    { name: embedding, module: model.modulePrefix + embedding, layer: "embedding" },
  ] as const;
  for (const { name, layer } of tables) {
    if (!targets.includes(name) || kind.sites.includes(layer)) continue;
    throw new UserError(`--targets ${name}: --method ${kind.name} has none of it; train it whole with --modules-to-save ${name}`);
  }
  const settings = settingsOf(config);
  const isTarget = (module: string): boolean => {
    if (isSavedModule(module, settings.modulesToSave)) return false;
    const table = tables.find((candidate) => candidate.module === module);
    if (table) return targets.includes(table.name);
    const layer = layerOf(module, model);
    return layer !== null && linear.includes(last(module)) && targets.includes(last(module)) && layer >= (first ?? 0);
  };
  checkSettings(settings, isTarget, model, base);
  const sizes = new Map<string, ReturnType<typeof sizeOf>>();
  const adapts = (module: string) => {
    if (!isTarget(module)) return null;
    let size = sizes.get(module);
    if (!size) sizes.set(module, (size = sizeOf(settings, module, "the patterns")));
    return size;
  };
  return { method: config.method, dropout: config.dropout, adapts, frozen: false, ...wholes(settings, isTarget) };
}

const last = (module: string): string => module.split(".").at(-1)!;

/** Returns what is trained whole beside adapters. */
function wholes(settings: AdapterSettings, adapts: (module: string) => boolean): Pick<Tuning, "trains"> {
  if (settings.bias === "none" && settings.modulesToSave.length === 0) return {};
  return { trains: (name) => isWhole(name, settings, adapts) };
}

/** @throws {UserError} what is only for adapters */
function checkPlain({ bias, modulesToSave, rankPattern, alphaPattern }: TuningConfig): void {
  const given = {
    "--bias": bias !== "none",
    "--modules-to-save": modulesToSave !== undefined,
    "--rank-pattern": rankPattern !== undefined,
    "--alpha-pattern": alphaPattern !== undefined,
  };
  for (const [flag, isGiven] of Object.entries(given))
    if (isGiven) throw new UserError(`${flag} is for adapters; got --method full, which trains all weights`);
}

/** @throws {UserError} names and patterns that mean nothing of the model */
function checkSettings(
  { rankPattern, alphaPattern, modulesToSave, bias }: AdapterSettings,
  isTarget: (module: string) => boolean,
  model: Model,
  base: Pick<TensorSource, "tensors">,
): void {
  const weights = [...base.tensors.keys(), `${modulesOf(model).head}.weight`].filter((name) => !isVision(name));
  const modules = weights.filter((name) => name.endsWith(".weight")).map((name) => name.slice(0, -".weight".length));
  const adapted = modules.filter(isTarget);
  for (const [flag, pattern] of [
    ["--rank-pattern", rankPattern],
    ["--alpha-pattern", alphaPattern],
  ] as const) {
    for (const key of Object.keys(pattern)) {
      if (adapted.some((module) => patternValue({ [key]: 1 }, module, flag) !== null)) continue;
      throw new UserError(
        `${flag}: ${show(key)} is the name of no module with an adapter; there are ${someOf(adapted.map(last))}`,
      );
    }
  }
  for (const name of modulesToSave) {
    if (weights.some((weight) => isSaved(weight, [name]))) continue;
    throw new UserError(
      `--modules-to-save: ${show(name)} is the name of no module of the model; there are ${someOf(modules.map(last))}`,
    );
  }
  if (bias !== "none" && !weights.some((name) => isWhole(name, { bias, modulesToSave: [] }, isTarget))) {
    throw new UserError(`--bias ${bias}: the model has no biases${bias === "all" ? "" : " in its adapted modules"}`);
  }
}

const someOf = (names: readonly string[]): string => [...new Set(names)].sort().join(", ");

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
export function withAdapter<C extends TuningConfig>(config: C, adapter: Adapter, model: Model, given: readonly string[]): C {
  if (config.method === "full") throw new UserError("an adapter needs --method lora, got full");
  const { targets, layers } = describeModules([...adapter.modules.keys()], model);
  const isLast = layers !== null && layers.every((layer, i) => layer === model.layers - layers.length + i);
  const own = {
    method: adapter.method as TrainConfig["method"],
    rank: adapter.rank,
    alpha: adapter.alpha,
    rslora: adapter.rslora,
    targets: allTargets(model).filter((name) => adapter.targets.includes(name)) as TrainConfig["targets"],
    lastLayers: isLast ? layers.length : undefined,
    rankPattern: orAbsent(adapter.rankPattern),
    alphaPattern: orAbsent(adapter.alphaPattern),
    bias: adapter.bias,
    modulesToSave: adapter.modulesToSave.length === 0 ? undefined : [...adapter.modulesToSave],
  };
  const asked = { ...config, targets: resolveTargets(config.targets, model) };
  const text = (value: unknown) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  for (const key of Object.keys(own) as (keyof typeof own)[]) {
    if (!given.includes(key) || text(asked[key]) === text(own[key])) continue;
    const has = own[key] === undefined ? `of ${targets.join(", ")} in layers ${layers?.join(", ")}` : String(own[key]);
    throw new UserError(`${key} ${String(asked[key])} is not what the adapter has (${key} ${has}); it keeps its own`);
  }
  return { ...config, ...own };
}

const orAbsent = (pattern: AdapterSettings["rankPattern"]) => (Object.keys(pattern).length === 0 ? undefined : { ...pattern });

const allTargets = (model: Model): string[] => {
  const { linear, head, embedding } = modulesOf(model);
  return [...linear, head, embedding];
};

/**
 * Returns what trains an adapter further that was opened for its base model.
 * @throws {UserError} an adapter of modules in which its kind cannot be trained, or with weights that it does not train
 */
export function tuningOfAdapter(adapter: Adapter, model: Model, dropout: number): Tuning {
  const { method, modules, source } = adapter;
  checkModules(adapter, model, "cannot be trained further, only merged");
  const [copy] = adapter.copies.keys();
  if (copy !== undefined) {
    throw new UserError(
      `${source.path} holds a ${copy} of its own, which it does not train: merge the adapter (remat merge), and train the result`,
    );
  }
  const adapts = (module: string) => modules.get(module) ?? null;
  return { method, dropout, adapts, frozen: false, ...wholes(adapter, (module) => modules.has(module)) };
}
