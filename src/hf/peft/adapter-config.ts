import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { readJsonObject, show } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { ADAPTER_TITLES, adapterKind, flagsOfPeft, kindOfPeft } from "../../models/adapters/index.ts";
import { type Bias, BIASES, type WrittenModules } from "../../models/adapters/kind.ts";
import { checkFolder, CONFIG_FILE } from "./adapter-folder.ts";
import type { ModuleRules } from "./peft-modules.ts";

/** Describes what an adapter is, besides its modules and matrices. */
export interface AdapterSettings {
  /** The kind of adapter: a row of the table in models/adapters. */
  readonly method: string;
  /** The settings that are the kind's own. */
  readonly own: object;
  readonly bias: Bias;
  /** Ends of the names of modules that are trained whole. */
  readonly modulesToSave: readonly string[];
}

/** `adapter_config.json`, read and checked. */
export interface AdapterConfig extends AdapterSettings {
  readonly path: string;
  /** The base model that it names. */
  readonly base: string | null;
  readonly rules: ModuleRules;
  /** True if what is shared in the base model stays shared. */
  readonly tied: boolean;
  /** True if it is for the model without a head, whose modules' names lack what those of the whole model begin with. */
  readonly isBare: boolean;
}

const names = z.union([z.string(), z.array(z.string())]).nullish();

const schema = z.object({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  bias: z.string().default("none"),
  modules_to_save: z.array(z.string()).nullish(),
  target_modules: names,
  target_parameters: z.array(z.string()).nullish(),
  exclude_modules: names,
  layers_to_transform: z.union([z.int(), z.array(z.int())]).nullish(),
  layers_pattern: names,
  ensure_weight_tying: z.boolean().nullish(),
  task_type: z.string().nullish(),
});

/** The base model that an adapter names, or null. @throws {UserError} no adapter there */
export function baseModelOf(folder: string): string | null {
  checkFolder(folder);
  const path = join(folder, CONFIG_FILE);
  return parseWith(schema.pick({ base_model_name_or_path: true }), readJsonObject(path), path).base_model_name_or_path ?? null;
}

/** @throws {UserError} a missing or malformed file, and settings that are not supported */
export function readAdapterConfig(folder: string): AdapterConfig {
  checkFolder(folder);
  const path = join(folder, CONFIG_FILE);
  const raw = readJsonObject(path);
  const config = parseWith(schema, raw, path);
  const refuse = (what: string) => new UserError(`${path}: ${what} is not supported; expected an adapter of ${ADAPTER_TITLES}`);
  const kind = kindOfPeft(config.peft_type, (flag) => Boolean(raw[flag]));
  if (kind === null) throw refuse(`peft_type ${show(config.peft_type)}`);
  const bias = BIASES.find((name) => name === config.bias);
  if (bias === undefined) throw refuse(`bias ${show(config.bias)}`);
  return {
    path,
    base: config.base_model_name_or_path ?? null,
    method: kind.name,
    own: kind.peft.read(raw, path, refuse),
    bias,
    modulesToSave: config.modules_to_save ?? [],
    rules: config,
    tied: config.ensure_weight_tying ?? false,
    isBare: config.task_type === EMBEDDING_TASK,
  };
}

/** PEFT's word for adapters of models without a head, whose hidden states become embeddings. */
export const EMBEDDING_TASK = "FEATURE_EXTRACTION";

/** Describes what the files to be written say of the modules. */
export interface ConfigToWrite extends AdapterSettings, WrittenModules<object> {
  /** The base model, as the user named it. */
  readonly base: string;
  /** What the model is for, in PEFT's words; null: the adapter is for an encoder as it is, with its names of modules. */
  readonly task: "CAUSAL_LM" | "SEQ_CLS" | typeof EMBEDDING_TASK | null;
  /** Modules that are not adapted whatever their name, a regular expression of Python; null: none. */
  readonly exclude: string | null;
}

/** The text of `adapter_config.json`, keys in the order of the alphabet as PEFT has them. */
export function configText(adapter: ConfigToWrite): string {
  const kind = adapterKind(adapter.method);
  const config = {
    base_model_name_or_path: adapter.base,
    ...("bias" in kind.flags && { bias: adapter.bias }),
    ...(adapter.exclude !== null && { exclude_modules: adapter.exclude }),
    inference_mode: true,
    modules_to_save: adapter.modulesToSave.length === 0 ? null : adapter.modulesToSave,
    peft_type: kind.peft.type,
    target_modules: [...adapter.targets].sort(),
    ...(adapter.parameters.length > 0 && { target_parameters: [...adapter.parameters].sort() }),
    task_type: adapter.task,
    ...flagsOfPeft(kind),
    ...kind.peft.write(adapter.own, adapter),
  };
  const ordered = Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1));
  return `${JSON.stringify(Object.fromEntries(ordered), null, 2)}\n`;
}
