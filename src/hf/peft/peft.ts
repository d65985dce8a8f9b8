import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { fileIo, makeFolder, writeTextAtomic, type FileIo } from "../../base/files/files.ts";
import { show } from "../../base/json.ts";
import { adapterKind, PART_SUFFIXES, isTransposed } from "../../models/adapters/index.ts";
import { isExpertParameter, isTargetParameter, unwrapped } from "../../models/adapters/expert-parameters.ts";
import type { AdapterKind, Site } from "../../models/adapters/kind.ts";
import { parameterOf, partName, withoutPrefix } from "../../models/adapters/names.ts";
import type { ModelConfig } from "../../models/config.ts";
import { modulesOf } from "../../models/families/index.ts";
import { adapterModule } from "../weights/model-weights.ts";
import { openSafetensors, type TensorEntry, type TensorSource } from "../weights/safetensors.ts";
import { writeSafetensors, type TensorData } from "../weights/safetensors-write.ts";
import { type AdapterConfig, type AdapterSettings, type ConfigToWrite, configText, readAdapterConfig } from "./adapter-config.ts";
import { CHECKPOINT_FILE, CHECKPOINT_PREFIX, CONFIG_FILE, TENSOR_FILE } from "./adapter-folder.ts";
import { isAdapted, isSaved } from "./peft-modules.ts";

/**
 * Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`. The parts of a module's adapter are named
 * `base_model.model.<module>.<suffix>`; a parameter of the base model that is trained whole has its own name in the suffix's place.
 */

/** PEFT's name for all linear layers of the blocks. */
export const ALL_LINEAR = "all-linear";

/**
 * The modules of a model that names, or the one name "all-linear", stand for: linear layers of the blocks, and by name the head and
 * the embedding.
 * @throws {UserError} names that the model's family does not have
 */
export function resolveTargets(names: readonly string[], model: Pick<ModelConfig, "family">): string[] {
  const { linear, head, embedding } = modulesOf(model);
  const known = [...linear, head, embedding];
  const unknown = names.find((name) => name !== ALL_LINEAR && !known.includes(name));
  if (unknown !== undefined) {
    throw new UserError(
      `target module ${show(unknown)} is unknown in models of type ${model.family}; expected ${ALL_LINEAR} or some of ${known.join(", ")}`,
    );
  }
  const all = names.includes(ALL_LINEAR) || names.length === 0;
  return known.filter((name) => names.includes(name) || (all && linear.includes(name)));
}

/** Tells whether a parameter of the base model is trained whole. */
export function isWhole(
  parameter: string,
  { bias, modulesToSave }: Pick<AdapterSettings, "bias" | "modulesToSave">,
  adapts: (module: string) => boolean,
): boolean {
  if (isSaved(parameter, modulesToSave)) return true;
  const at = parameter.lastIndexOf(".");
  if (bias === "none" || parameter.slice(at + 1) !== "bias") return false;
  return bias === "all" || adapts(parameter.slice(0, at));
}

export interface AdapterToWrite extends ConfigToWrite {
  /** Under PEFT's names. */
  readonly tensors: readonly TensorData[];
}

/** Writes `adapter_config.json` alone, into a folder that holds the parameters already. @throws {UserError} */
export function writeAdapterConfig(folder: string, config: ConfigToWrite, io: FileIo = fileIo): void {
  writeTextAtomic(join(folder, CONFIG_FILE), configText(config), io);
}

/** Writes both files; when the second fails, a first that was not there before is taken away. @throws {UserError} */
export function writeAdapter(folder: string, adapter: AdapterToWrite, io: FileIo = fileIo): void {
  makeFolder(folder);
  const tensors = join(folder, TENSOR_FILE);
  const existed = existsSync(tensors);
  writeSafetensors(tensors, adapter.tensors, { format: "pt" }, io);
  try {
    writeAdapterConfig(folder, adapter, io);
  } catch (error) {
    if (!existed) rmSync(tensors, { force: true });
    throw error;
  }
}

/** The adapter of one module. */
export interface AdapterModule {
  readonly layer: Site["layer"];
  /** The shape of the matrix that it changes; null: its parts do not tell. */
  readonly shape: readonly [rows: number | null, columns: number | null];
  /** Settings of this module, as the adapter's kind has them. */
  readonly setup: object;
  /** By suffix. */
  readonly parts: ReadonlyMap<string, TensorEntry>;
}

export interface Adapter extends AdapterConfig {
  /** Last parts of the names of the adapted modules: `q_proj`, ... */
  readonly targets: readonly string[];
  /** By the module's name in the base model: `model.layers.0.self_attn.q_proj`. Files may have older names of it. */
  readonly modules: ReadonlyMap<string, AdapterModule>;
  /** Parameters of the base model that were trained whole, by their names there. */
  readonly whole: ReadonlyMap<string, TensorEntry>;
  /** Weights of the base model that PEFT saves along without having trained them: of an adapted head or embedding. */
  readonly copies: ReadonlyMap<string, TensorEntry>;
  /** Open until its `close` is called. */
  readonly source: TensorSource;
}

/** What is to be known of a model to read an adapter of it. */
type AdaptedModel = Pick<ModelConfig, "family" | "modulePrefix" | "experts">;

/**
 * Opens an adapter; ranks and scales may differ between modules. Its modules are those whose parts the file holds, under the names
 * that they have in `model`. Whether it fits a base model, and holds all that it should, is said by `checkAdapter`.
 * @throws {UserError} missing or malformed files, and kinds and settings that are not supported
 */
export function openAdapter(folder: string, model: AdaptedModel): Adapter {
  const config = readAdapterConfig(folder);
  const source = openTensors(folder);
  try {
    const { modules, whole, copies } = readTensors(source, config, model);
    return {
      ...config,
      targets: [
        ...new Set([...modules.keys()].filter((name) => !isExpertParameter(name)).map((name) => name.split(".").at(-1)!)),
      ].sort(),
      modules,
      whole,
      copies,
      source,
    };
  } catch (error) {
    source.close();
    throw error;
  }
}

/** The parameters of an adapter folder, or of a checkpoint of a run. @throws {UserError} */
function openTensors(folder: string): TensorSource {
  const path = join(folder, TENSOR_FILE);
  const state = join(folder, CHECKPOINT_FILE);
  if (existsSync(path) || !existsSync(state)) return openSafetensors(path);
  const source = openSafetensors(state);
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of source.tensors) {
    if (!name.startsWith(CHECKPOINT_PREFIX)) continue;
    const plain = name.slice(CHECKPOINT_PREFIX.length);
    if (isTransposed(plain)) {
      source.close();
      throw new UserError(
        `${state}: the adapter of an embedding can be used when the run has exported it, not from a checkpoint`,
      );
    }
    tensors.set(plain, { ...entry, name: plain });
  }
  return { ...source, tensors };
}

/** Suffixes of parts, longest first, so that none is taken for the end of another. */
const SUFFIXES = [...PART_SUFFIXES].sort((a, b) => b.length - a.length);

const either = (names: readonly string[]): string => names.map((name) => name.replaceAll(".", String.raw`\.`)).join("|");

/** The place behind a part where PEFT's own names hold that of an adapter. */
const WITH_ADAPTER = new RegExp(
  String.raw`\.(${either(SUFFIXES.map((suffix) => suffix.replace(/\.weight$/, "")))})\.default(?=\.|$)`,
);

/** Returns what a name in a file stands for where it holds the name of an adapter (`default`), or of a layer, as some tools leave it. */
function plainName(name: string): string {
  return name
    .replace(/\.modules_to_save\.default(?=\.)/, "")
    .replace(WITH_ADAPTER, ".$1")
    .replace(/\.lora_magnitude_vector\.weight$/, ".lora_magnitude_vector");
}

function readTensors(
  source: TensorSource,
  config: AdapterConfig,
  model: AdaptedModel,
): Pick<Adapter, "modules" | "whole" | "copies"> {
  const found = new Map<string, Map<string, TensorEntry>>();
  const others: [name: string, entry: TensorEntry][] = [];
  for (const [stored, entry] of source.tensors) {
    const name = withoutPrefix(plainName(stored));
    const suffix = name === null ? undefined : SUFFIXES.find((candidate) => name.endsWith(`.${candidate}`));
    if (name === null) throw strange(source, entry);
    // The untrained weights of a module that was trained whole.
    if (/\.original_module\.\w+$/.test(name)) continue;
    if (suffix === undefined) {
      others.push([name, entry]);
      continue;
    }
    const module = name.slice(0, -suffix.length - 1);
    const parts = found.get(module) ?? new Map<string, TensorEntry>();
    found.set(module, parts.set(suffix, entry));
  }
  const modules = new Map<string, AdapterModule>();
  for (const [stored, parts] of found) {
    const name = unwrapped(stored, config.rules.target_parameters ?? []);
    modules.set(moduleOf(name, config, model), readModule(source, config, model, name, parts));
  }
  const whole = new Map<string, TensorEntry>();
  const copies = new Map<string, TensorEntry>();
  for (const [name, entry] of others) {
    const { parameter: stored, inBaseLayer } = parameterOf(name);
    const at = stored.lastIndexOf(".");
    const parameter = moduleOf(stored.slice(0, at), config, model) + stored.slice(at);
    if (isWhole(parameter, config, (module) => modules.has(module))) whole.set(parameter, entry);
    else if ((inBaseLayer || isTable(parameter, model)) && parameter.endsWith(".weight")) copies.set(parameter, entry);
    else throw strange(source, entry);
  }
  if (modules.size === 0 && whole.size === 0) throw new UserError(`${source.path} holds no matrices of an adapter`);
  return { modules, whole, copies };
}

/** The module's name in the base model. */
function moduleOf(stored: string, { isBare }: AdapterConfig, { modulePrefix }: Pick<ModelConfig, "modulePrefix">): string {
  const name = adapterModule(stored, modulePrefix);
  return isBare && !name.startsWith(modulePrefix) ? modulePrefix + name : name;
}

function isTable(parameter: string, model: Pick<ModelConfig, "family" | "modulePrefix">): boolean {
  const { head, embedding } = modulesOf(model);
  return parameter === `${head}.weight` || parameter === `${model.modulePrefix}${embedding}.weight`;
}

function strange({ path }: TensorSource, { name, shape }: TensorEntry): UserError {
  return new UserError(
    `${path}: tensor ${show(name)} [${shape.join(", ")}] is no part of the adapter that ${CONFIG_FILE} describes; do the files belong together?`,
  );
}

/** @param name as in the file @throws {UserError} parts that are missing, or do not fit each other or the configuration */
function readModule(
  source: TensorSource,
  config: AdapterConfig,
  model: AdaptedModel,
  name: string,
  parts: ReadonlyMap<string, TensorEntry>,
): AdapterModule {
  const { path } = source;
  const kind = adapterKind(config.method);
  const module = moduleOf(name, config, model);
  const isOfExperts = isExpertParameter(module);
  const isNamed = isOfExperts
    ? isTargetParameter(module, config.rules.target_parameters ?? [])
    : isAdapted(name, config.rules, config.path);
  if (!isNamed) {
    throw new UserError(
      `${path}: module ${show(name)} is none that ${CONFIG_FILE} names in target_modules and layers_to_transform, or target_parameters; do the files belong together?`,
    );
  }
  if (isOfExperts && model.experts === null)
    throw new UserError(
      `${path}: module ${show(name)} is of experts, which the base model does not have; is it the adapter's base model?`,
    );
  const setup = kind.setup(config.own, name, config.path);
  const isEmbedding = kind.names.embedding.some(({ suffix }) => !isOfLayer(kind, suffix) && parts.has(suffix));
  const layer = isOfExperts ? "experts" : isEmbedding ? "embedding" : module === modulesOf(model).head ? "head" : "linear";
  const find = (suffix: string): TensorEntry => {
    const entry = parts.get(suffix);
    if (!entry) throw new UserError(`${path}: module ${show(name)} lacks ${partName(name, suffix)}`);
    return entry;
  };
  const shape = kind.shapeOf(layer, (suffix) => find(suffix).shape, setup);
  const [rows, columns] = shape.map((size) => size ?? 1) as [number, number];
  const experts = isOfExperts ? { experts: model.experts!.count } : {};
  const expected = kind.parts({ layer, rows, columns, ...experts }, setup);
  for (const part of expected) {
    if (find(part.suffix).shape.join() === part.shape.join()) continue;
    const shapes = Array.from(parts, ([suffix, entry]) => `${suffix.replace(/\.weight$/, "")} [${entry.shape.join(", ")}]`).join(
      " and ",
    );
    throw new UserError(`${path}: module ${show(name)} has ${shapes}, but ${CONFIG_FILE} says ${kind.describe(setup)}`);
  }
  const unknown = [...parts].find(([suffix]) => !expected.some((part) => part.suffix === suffix));
  if (unknown) throw strange(source, unknown[1]);
  return { layer, shape, setup, parts };
}

/** Tells whether a part of that name may be a linear layer's. */
const isOfLayer = ({ names }: AdapterKind, suffix: string): boolean => names.linear.some((part) => part.suffix === suffix);
