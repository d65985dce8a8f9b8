import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { parseWith } from "../../base/schema.ts";
import { fileIo, makeFolder, writeTextAtomic, type FileIo } from "../../base/files/files.ts";
import { readJsonObject, show } from "../../base/json.ts";
import { adapterModule } from "../weights/model-weights.ts";
import { layerOf } from "../../models/names.ts";
import { modulesOf } from "../../models/families/index.ts";
import { isAdapted, patternValue } from "./peft-modules.ts";
import { openSafetensors, type TensorEntry, type TensorSource } from "../weights/safetensors.ts";
import { writeSafetensors, type TensorData } from "../weights/safetensors-write.ts";

/**
 * LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`, whose tensors are named
 * `base_model.model.<module>.lora_A.weight` [rank, in] and `...lora_B.weight` [out, rank].
 * A module's output gets `scale * B A x`, with scale = alpha / rank, or alpha / sqrt(rank) for rsLoRA.
 */

/** What PEFT calls all linear layers of the blocks. */
export const ALL_LINEAR = "all-linear";

const CONFIG_FILE = "adapter_config.json";
const TENSOR_FILE = "adapter_model.safetensors";
const PREFIX = "base_model.model.";

/**
 * The modules of a model's blocks that names, or the one name "all-linear", stand for.
 * @throws {UserError} names that the model's family does not have
 */
export function resolveTargets(names: readonly string[], model: Pick<ModelConfig, "family">): string[] {
  const known = modulesOf(model).linear;
  const unknown = names.find((name) => name !== ALL_LINEAR && !known.includes(name));
  if (unknown !== undefined) {
    throw new UserError(
      `target module ${show(unknown)} is unknown in models of type ${model.family}; expected ${ALL_LINEAR} or some of ${known.join(", ")}`,
    );
  }
  return names.includes(ALL_LINEAR) || names.length === 0 ? [...known] : known.filter((name) => names.includes(name));
}

export interface AdapterToWrite {
  /** The base model, as the user named it. */
  readonly base: string;
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly rslora: boolean;
  readonly targets: readonly string[];
  /** Decoder blocks whose targets are adapted; null: all. */
  readonly layers: readonly number[] | null;
  /** Modules that are not adapted whatever their name, a regular expression of Python; null: none. */
  readonly exclude: string | null;
  /** Under PEFT's names. */
  readonly tensors: readonly TensorData[];
}

/** Writes both files; when the second fails, a first that was not there before is taken away. @throws {UserError} */
export function writeAdapter(folder: string, adapter: AdapterToWrite, io: FileIo = fileIo): void {
  const config = {
    alpha_pattern: {},
    base_model_name_or_path: adapter.base,
    bias: "none",
    ...(adapter.exclude !== null && { exclude_modules: adapter.exclude }),
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    ...(adapter.layers !== null && { layers_pattern: null, layers_to_transform: adapter.layers }),
    lora_alpha: adapter.alpha,
    lora_dropout: adapter.dropout,
    modules_to_save: null,
    peft_type: "LORA",
    r: adapter.rank,
    rank_pattern: {},
    target_modules: [...adapter.targets].sort(),
    task_type: "CAUSAL_LM",
    use_dora: false,
    use_rslora: adapter.rslora,
  };
  makeFolder(folder);
  const tensors = join(folder, TENSOR_FILE);
  const existed = existsSync(tensors);
  writeSafetensors(tensors, adapter.tensors, { format: "pt" }, io);
  try {
    writeTextAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(config, null, 2)}\n`, io);
  } catch (error) {
    if (!existed) rmSync(tensors, { force: true });
    throw error;
  }
}

/** The two matrices of one module. */
export interface AdapterModule {
  readonly rank: number;
  readonly scale: number;
  /** [rank, in] */
  readonly a: TensorEntry;
  /** [out, rank] */
  readonly b: TensorEntry;
}

export interface Adapter {
  readonly base: string | null;
  readonly rank: number;
  readonly alpha: number;
  readonly rslora: boolean;
  readonly scale: number;
  readonly dropout: number;
  /** Last parts of the names of the adapted modules: `q_proj`, ... */
  readonly targets: readonly string[];
  /** By the module's name in the base model: `model.layers.0.self_attn.q_proj`. Files may have older names of it. */
  readonly modules: ReadonlyMap<string, AdapterModule>;
  /** Open until its `close` is called. */
  readonly source: TensorSource;
}

/** Values of `init_lora_weights` that leave the base model's weights as they are. */
const PLAIN_INITIALISATIONS = ["gaussian", "eva", "orthogonal"];

const pattern = z.record(z.string(), z.number().positive()).nullish();

const schema = z.object({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).max(1).default(0),
  bias: z.string().default("none"),
  fan_in_fan_out: z.boolean().nullish(),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
  modules_to_save: z.array(z.string()).nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  target_modules: z.union([z.string(), z.array(z.string())]).nullish(),
  layers_to_transform: z.union([z.int(), z.array(z.int())]).nullish(),
  layers_pattern: z.union([z.string(), z.array(z.string())]).nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});

type RawAdapter = z.infer<typeof schema>;

/** Settings that change what an adapter computes and that are not supported. */
const UNSUPPORTED = [
  "lora_bias",
  "layer_replication",
  "target_parameters",
  "trainable_token_indices",
  "alora_invocation_tokens",
  "use_qalora",
  "use_bdlora",
  "arrow_config",
  "kasa_config",
  "monteclora_config",
] as const;

function isOff(value: unknown): boolean {
  return !value || (Array.isArray(value) && value.length === 0);
}

/** The base model that an adapter names, or null. @throws {UserError} no adapter there */
export function baseModelOf(folder: string): string | null {
  const path = join(folder, CONFIG_FILE);
  return parseWith(schema.pick({ base_model_name_or_path: true }), readJsonObject(path), path).base_model_name_or_path ?? null;
}

/**
 * Opens an adapter; ranks and scales may differ between modules. Its modules are those whose matrices the file holds, under the names
 * that they have in `model`.
 * @throws {UserError} missing or malformed files, DoRA, biases, saved modules and other things that LoRA alone is not
 */
export function openAdapter(folder: string, model?: Pick<ModelConfig, "modulePrefix">): Adapter {
  const path = join(folder, CONFIG_FILE);
  const raw = readJsonObject(path);
  const config = parseWith(schema, raw, path);
  rejectUnsupported(raw, config, path);
  const source = openSafetensors(join(folder, TENSOR_FILE));
  try {
    const modules = readModules(source, config, path, model?.modulePrefix);
    return {
      base: config.base_model_name_or_path ?? null,
      rank: config.r,
      alpha: config.lora_alpha,
      rslora: config.use_rslora ?? false,
      scale: scaleOf(config.lora_alpha, config.r, config),
      dropout: config.lora_dropout,
      targets: [...new Set(Array.from(modules.keys(), (name) => name.split(".").at(-1)!))].sort(),
      modules,
      source,
    };
  } catch (error) {
    source.close();
    throw error;
  }
}

/**
 * Opens an adapter to train further: one rank and one scale for all its modules, which are linear layers of the blocks.
 * @throws {UserError} as `openAdapter`; also for rank or alpha patterns in use and for other modules
 */
export function readAdapter(folder: string, model: Pick<ModelConfig, "family" | "layers" | "modulePrefix">): Adapter {
  const adapter = openAdapter(folder, model);
  try {
    checkModules(adapter, model, `${folder}: training further needs an adapter of the blocks' linear layers`);
    for (const [name, module] of adapter.modules) {
      if (module.rank === adapter.rank && module.scale === adapter.scale) continue;
      throw new UserError(
        `${folder}: module ${name} has rank ${module.rank} and scale ${module.scale}, the others ${adapter.rank} and ${adapter.scale}; ` +
          "training further needs one rank and one alpha for all",
      );
    }
  } catch (error) {
    adapter.source.close();
    throw error;
  }
  return adapter;
}

/** @throws {UserError} an adapter of other modules than the linear layers of the model's blocks */
export function checkModules(
  { modules }: Pick<Adapter, "modules">,
  model: Pick<ModelConfig, "family" | "layers" | "modulePrefix">,
  what: string,
): void {
  const known = modulesOf(model).linear;
  for (const name of modules.keys()) {
    const layer = layerOf(name, model);
    if (layer !== null && layer < model.layers && known.includes(name.split(".").at(-1)!)) continue;
    throw new UserError(`${what}; this one changes ${name}`);
  }
}

function rejectUnsupported(raw: Readonly<Record<string, unknown>>, config: RawAdapter, path: string): void {
  const refuse = (what: string) => new UserError(`${path}: ${what} is not supported; expected a plain LoRA adapter`);
  if (config.peft_type !== "LORA") throw refuse(`peft_type ${show(config.peft_type)}`);
  if (config.use_dora) throw refuse("DoRA (use_dora)");
  if (config.bias !== "none") throw refuse(`bias ${show(config.bias)}`);
  if (config.modules_to_save && config.modules_to_save.length > 0)
    throw refuse(`modules_to_save ${show(config.modules_to_save)}`);
  if (config.fan_in_fan_out) throw refuse("fan_in_fan_out");
  const { init_lora_weights: initialisation } = config;
  if (typeof initialisation === "string" && !PLAIN_INITIALISATIONS.includes(initialisation)) {
    throw refuse(`init_lora_weights ${show(initialisation)}, which changes the base model's weights,`);
  }
  for (const key of UNSUPPORTED) if (!isOff(raw[key])) throw refuse(key);
}

function readModules(
  source: TensorSource,
  config: RawAdapter,
  where: string,
  modulePrefix: string | undefined,
): Map<string, AdapterModule> {
  const parts = new Map<string, { a?: TensorEntry; b?: TensorEntry }>();
  for (const [name, entry] of source.tensors) {
    const match = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name);
    if (!match || entry.shape.length !== 2) {
      throw new UserError(
        `${source.path}: tensor ${show(name)} [${entry.shape.join(", ")}] is not a LoRA matrix of a linear layer`,
      );
    }
    const module = parts.get(match[1]!) ?? {};
    parts.set(match[1]!, module);
    module[match[2] === "A" ? "a" : "b"] = entry;
  }
  if (parts.size === 0) throw new UserError(`${source.path} holds no LoRA matrices`);
  const modules = new Map<string, AdapterModule>();
  for (const [name, { a, b }] of parts) {
    if (!a || !b) throw new UserError(`${source.path}: module ${show(name)} lacks ${PREFIX}${name}.lora_${a ? "B" : "A"}.weight`);
    if (!isAdapted(name, config, where)) {
      throw new UserError(
        `${source.path}: module ${show(name)} is none that adapter_config.json names in target_modules and layers_to_transform; do the files belong together?`,
      );
    }
    const rank = patternValue(config.rank_pattern, name, where) ?? config.r;
    if (a.shape[0] !== rank || b.shape[1] !== rank) {
      throw new UserError(
        `${source.path}: module ${show(name)} has lora_A [${a.shape.join(", ")}] and lora_B [${b.shape.join(", ")}], but adapter_config.json says rank ${rank}`,
      );
    }
    const alpha = patternValue(config.alpha_pattern, name, where) ?? config.lora_alpha;
    modules.set(adapterModule(name, modulePrefix), { rank, scale: scaleOf(alpha, rank, config), a, b });
  }
  return modules;
}

function scaleOf(alpha: number, rank: number, config: RawAdapter): number {
  return alpha / (config.use_rslora ? Math.sqrt(rank) : rank);
}
