import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { readJsonObject, show } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { KIND_FLAGS, kindOfPeft } from "../../models/adapters/index.ts";
import { checkFolder, CONFIG_FILE } from "./adapter-folder.ts";
import type { ModuleRules } from "./peft-modules.ts";

/** Which biases of the base model are trained, in PEFT's words: none, all, or those of the adapted modules. */
export const BIASES = ["none", "all", "lora_only"] as const;
export type Bias = (typeof BIASES)[number];

/** Numbers by module: keys are names, or regular expressions of the end of a module's name. */
export type Pattern = Readonly<Record<string, number>>;

/** Describes what an adapter is, besides its modules and matrices. */
export interface AdapterSettings {
  /** The kind of adapter: a row of the table in models/adapters. */
  readonly method: string;
  readonly rank: number;
  readonly alpha: number;
  readonly rslora: boolean;
  readonly dropout: number;
  /** Rank and alpha of modules that have others. */
  readonly rankPattern: Pattern;
  readonly alphaPattern: Pattern;
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
}

/** Values of `init_lora_weights` that leave the base model's weights as they are. */
const PLAIN_INITIALISATIONS = ["gaussian", "eva", "orthogonal"];

const pattern = z.record(z.string(), z.number().positive()).nullish();
const names = z.union([z.string(), z.array(z.string())]).nullish();

const schema = z.object({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).max(1).default(0),
  bias: z.string().default("none"),
  fan_in_fan_out: z.boolean().nullish(),
  use_rslora: z.boolean().nullish(),
  modules_to_save: z.array(z.string()).nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  target_modules: names,
  exclude_modules: names,
  layers_to_transform: z.union([z.int(), z.array(z.int())]).nullish(),
  layers_pattern: names,
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  ensure_weight_tying: z.boolean().nullish(),
});

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
  "velora_config",
] as const;

function isOff(value: unknown): boolean {
  return !value || (Array.isArray(value) && value.length === 0);
}

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
  const refuse = (what: string) => new UserError(`${path}: ${what} is not supported; expected an adapter of LoRA or DoRA`);
  const kind = kindOfPeft(config.peft_type, (flag) => !isOff(raw[flag]));
  if (kind === null) throw refuse(`peft_type ${show(config.peft_type)}`);
  const bias = BIASES.find((name) => name === config.bias);
  if (bias === undefined) throw refuse(`bias ${show(config.bias)}`);
  if (config.fan_in_fan_out) throw refuse("fan_in_fan_out");
  const { init_lora_weights: initialisation } = config;
  if (typeof initialisation === "string" && !PLAIN_INITIALISATIONS.includes(initialisation)) {
    throw refuse(`init_lora_weights ${show(initialisation)}, which changes the base model's weights,`);
  }
  for (const key of UNSUPPORTED) if (!isOff(raw[key])) throw refuse(key);
  return {
    path,
    base: config.base_model_name_or_path ?? null,
    method: kind.name,
    rank: config.r,
    alpha: config.lora_alpha,
    rslora: config.use_rslora ?? false,
    dropout: config.lora_dropout,
    rankPattern: config.rank_pattern ?? {},
    alphaPattern: config.alpha_pattern ?? {},
    bias,
    modulesToSave: config.modules_to_save ?? [],
    rules: config,
    tied: config.ensure_weight_tying ?? false,
  };
}

/** Describes what the files to be written say of the modules. */
export interface ConfigToWrite extends AdapterSettings {
  /** The base model, as the user named it. */
  readonly base: string;
  readonly targets: readonly string[];
  /** Decoder blocks whose targets are adapted; null: all. */
  readonly layers: readonly number[] | null;
  /** Modules that are not adapted whatever their name, a regular expression of Python; null: none. */
  readonly exclude: string | null;
}

/** The text of `adapter_config.json`, keys in the order of the alphabet as PEFT has them. */
export function configText(
  adapter: ConfigToWrite,
  { type, flags }: { readonly type: string; readonly flags: readonly string[] },
): string {
  const config = {
    alpha_pattern: adapter.alphaPattern,
    base_model_name_or_path: adapter.base,
    bias: adapter.bias,
    ...(adapter.exclude !== null && { exclude_modules: adapter.exclude }),
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    ...(adapter.layers !== null && { layers_pattern: null, layers_to_transform: adapter.layers }),
    lora_alpha: adapter.alpha,
    lora_dropout: adapter.dropout,
    modules_to_save: adapter.modulesToSave.length === 0 ? null : adapter.modulesToSave,
    peft_type: type,
    r: adapter.rank,
    rank_pattern: adapter.rankPattern,
    target_modules: [...adapter.targets].sort(),
    task_type: "CAUSAL_LM",
    use_rslora: adapter.rslora,
    ...Object.fromEntries(KIND_FLAGS.map((flag) => [flag, flags.includes(flag)])),
  };
  const ordered = Object.entries(config).sort(([a], [b]) => (a < b ? -1 : 1));
  return `${JSON.stringify(Object.fromEntries(ordered), null, 2)}\n`;
}
