import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import type { AdapterSettings } from "../../hf/peft/adapter-config.ts";
import { type Adapter, isWhole } from "../../hf/peft/peft.ts";
import { describeModules, isSaved, isSavedModule } from "../../hf/peft/peft-modules.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { isVision } from "../../hf/weights/model-weights.ts";
import { checkModules } from "../../load/adapter.ts";
import { expertParameters, isExpertParameter, isTargetParameter } from "../../models/adapters/expert-parameters.ts";
import { type AdapterFlag, adapterKind } from "../../models/adapters/index.ts";
import type { ModelConfig } from "../../models/config.ts";
import { isLinear, modulesOf } from "../../models/families/index.ts";
import { layerOf } from "../../models/names.ts";
import type { AdapterTuning, Tuning } from "../../models/tuning.ts";
import { checkMethod, targetsOf, type TrainConfig } from "../config.ts";

type TuningConfig = Pick<TrainConfig, "method" | AdapterFlag | "targets" | "lastLayers" | "modulesToSave">;
/** The settings that an adapter does not keep. */
type RunsOwn = Pick<TuningConfig, "dropout" | "freezeA">;
type Model = Pick<ModelConfig, "family" | "layers" | "modulePrefix" | "experts">;

/** Returns what a configuration says of its adapters. */
export function settingsOf(config: TuningConfig, model: Pick<ModelConfig, "family">): AdapterSettings {
  const { method, bias = "none", modulesToSave = [] } = config;
  return { method, own: adapterKind(method).settings(config, modulesOf(model)), bias, modulesToSave };
}

/**
 * Returns what a configuration trains.
 * @param base names of the base model's weights
 * @throws {UserError} settings that the method does not have; targets, blocks, modules or patterns that the model does not have
 */
export function tuningOf(config: TuningConfig, model: Model, base: Pick<TensorSource, "tensors">): Tuning {
  checkMethod(config);
  const first = firstLayer(config, model);
  if (config.method === "full") {
    if (first === null) return { method: "full" };
    // What stands above the blocks goes along with them, but for a head that is the embedding.
    const { embedding, layerInputs } = modulesOf(model);
    const below = [embedding, ...Object.values(layerInputs ?? {})].map((module) => `${model.modulePrefix}${module}.`);
    const isBelow = (name: string) => below.some((begin) => name.startsWith(begin));
    return { method: "full", trains: (name) => !isBelow(name) && (layerOf(name, model) ?? first) >= first };
  }
  const { head, embedding } = modulesOf(model);
  const targets = targetsOf(config, model);
  const kind = adapterKind(config.method);
  const tables = [
    { name: last(head), module: head, layer: "head" },
    { name: last(embedding), module: model.modulePrefix + embedding, layer: "embedding" },
  ] as const;
  for (const { name, layer } of tables) {
    if (!targets.includes(name) || kind.sites.includes(layer)) continue;
    throw new UserError(`--targets ${name}: --method ${kind.name} has none of it; train it whole with --modules-to-save ${name}`);
  }
  const settings = settingsOf(config, model);
  const parameters = checkedParameters(config, base);
  const isTarget = (module: string): boolean => {
    if (isExpertParameter(module)) return isTargetParameter(module, parameters) && layerOf(module, model)! >= (first ?? 0);
    if (isSavedModule(module, settings.modulesToSave)) return false;
    const table = tables.find((candidate) => candidate.module === module);
    if (table) return targets.includes(table.name);
    if (!isLinear(module, model) || !targets.includes(last(module))) return false;
    const layer = layerOf(module, model);
    return layer === null ? first === null : layer >= (first ?? 0);
  };
  checkSettings(config, settings, isTarget, model, base);
  const setups = new Map<string, object>();
  const adapts = (module: string) => {
    if (!isTarget(module)) return null;
    let setup = setups.get(module);
    if (!setup) setups.set(module, (setup = kind.setup(settings.own, module, "the patterns")));
    return setup;
  };
  return { ...ownOf(config), method: config.method, adapts, frozen: false, ...wholes(settings, isTarget) };
}

/** The parameters of experts that a run names. @throws {UserError} names of none of the model's */
function checkedParameters({ targetParameters = [] }: TuningConfig, base: Pick<TensorSource, "tensors">): readonly string[] {
  const known = expertParameters(base.tensors.keys());
  const unknown = targetParameters.find((name) => !known.some((parameter) => isTargetParameter(parameter, [name])));
  if (unknown === undefined) return targetParameters;
  const ends = [
    ...new Set(
      known.map((name) =>
        name
          .split(".")
          .slice(-3)
          .join(".")
          .replace(/^\d+\./, ""),
      ),
    ),
  ];
  const has = known.length === 0 ? "the model has no experts" : `expected names, or ends of names, of ${ends.join(", ")}`;
  throw new UserError(`--target-parameters: ${show(unknown)} is no parameter of experts of the model; ${has}`);
}

/** Returns what of a tuning is each run's own, whatever adapter it begins with. */
const ownOf = ({ dropout = 0, freezeA = false }: RunsOwn): Pick<AdapterTuning, "dropout" | "freezeA"> => ({ dropout, freezeA });

const last = (module: string): string => module.split(".").at(-1)!;

/** Returns what is trained whole beside adapters. */
function wholes(settings: AdapterSettings, adapts: (module: string) => boolean): Pick<Tuning, "trains"> {
  if (settings.bias === "none" && settings.modulesToSave.length === 0) return {};
  return { trains: (name) => isWhole(name, settings, adapts) };
}

/** @throws {UserError} names and patterns that mean nothing of the model */
function checkSettings(
  config: TuningConfig,
  { method, modulesToSave, bias }: AdapterSettings,
  isTarget: (module: string) => boolean,
  model: Model,
  base: Pick<TensorSource, "tensors">,
): void {
  const weights = [...base.tensors.keys(), `${modulesOf(model).head}.weight`].filter((name) => !isVision(name));
  const modules = weights.filter((name) => name.endsWith(".weight")).map((name) => name.slice(0, -".weight".length));
  adapterKind(method).check?.(config, [...modules, ...expertParameters(base.tensors.keys())].filter(isTarget));
  for (const name of modulesToSave) {
    if (weights.some((weight) => isSaved(weight, [name]))) continue;
    throw new UserError(
      `--modules-to-save: ${show(name)} is the name of no module of the model; there are ${[...new Set(modules.map(last))].sort().join(", ")}`,
    );
  }
  if (bias !== "none" && !weights.some((name) => isWhole(name, { bias, modulesToSave: [] }, isTarget))) {
    throw new UserError(`--bias ${bias}: the model has no biases${bias === "all" ? "" : " in its adapted modules"}`);
  }
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
export function withAdapter<C extends TuningConfig>(config: C, adapter: Adapter, model: Model, given: readonly string[]): C {
  if (config.method === "full") {
    throw new UserError(
      "--method full trains all weights; an adapter is trained further with its own method, or merged before (remat merge)",
    );
  }
  const { targets, layers } = describeModules([...adapter.modules.keys()], model);
  const isLast = layers !== null && layers.every((layer, i) => layer === model.layers - layers.length + i);
  const kind = adapterKind(adapter.method);
  const method = adapter.method as TrainConfig["method"];
  const own = {
    method,
    ...kind.asked(adapter.own, new Map(Array.from(adapter.modules, ([name, { setup }]) => [name, setup]))),
    targets: allTargets(model).filter((name) => adapter.targets.includes(name)) as NonNullable<TrainConfig["targets"]>,
    lastLayers: isLast ? layers.length : undefined,
    ...("bias" in kind.flags && { bias: adapter.bias }),
    modulesToSave: adapter.modulesToSave.length === 0 ? undefined : [...adapter.modulesToSave],
  };
  const asked = { ...config, targets: targetsOf({ method, targets: config.targets }, model) };
  const text = (value: unknown) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  for (const key of Object.keys(own) as (keyof typeof own)[]) {
    if (!given.includes(key) || text(asked[key]) === text(own[key])) continue;
    const has = own[key] === undefined ? `of ${targets.join(", ")} in layers ${layers?.join(", ")}` : String(own[key]);
    throw new UserError(`${key} ${String(asked[key])} is not what the adapter has (${key} ${has}); it keeps its own`);
  }
  checkMethod({ ...config, method });
  return { ...config, ...own };
}

const allTargets = (model: Model): string[] => {
  const { linear, head, embedding } = modulesOf(model);
  return [...linear, last(head), last(embedding)];
};

/**
 * Returns what trains an adapter further that was opened for its base model.
 * @throws {UserError} an adapter of modules in which its kind cannot be trained, or with weights that it does not train
 */
export function tuningOfAdapter(adapter: Adapter, model: Model, own: RunsOwn = {}): Tuning {
  const { method, modules, source } = adapter;
  checkModules(adapter, model, "cannot be trained further, only merged");
  const [copy] = adapter.copies.keys();
  if (copy !== undefined) {
    throw new UserError(
      `${source.path} holds a ${copy} of its own, which it does not train: merge the adapter (remat merge), and train the result`,
    );
  }
  const adapts = (module: string) => modules.get(module)?.setup ?? null;
  return { ...ownOf(own), method, adapts, frozen: false, ...wholes(adapter, (module) => modules.has(module)) };
}
