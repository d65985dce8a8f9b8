import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../errors.ts";
import { parseWith } from "./config.ts";
import { makeFolder, readJsonObject, writeTextAtomic } from "./files.ts";
import { openSafetensors, type TensorData, type TensorSource, writeSafetensors } from "./safetensors.ts";

/** Files of a PEFT adapter folder (https://github.com/huggingface/peft, LoRA's `LoraConfig`). */
const CONFIG_FILE = "adapter_config.json";
const WEIGHTS_FILE = "adapter_model.safetensors";

export interface AdapterSpec {
  /** Folder or hub name of the base model. */
  readonly base: string;
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  /** Scale alpha / sqrt(rank) instead of alpha / rank. */
  readonly rslora: boolean;
  /** Module names: `q_proj`, `down_proj`, ... */
  readonly targets: readonly string[];
}

/** An adapter on disk. */
export interface Adapter extends AdapterSpec {
  /** What the adapter's output is multiplied by. */
  readonly scale: number;
  readonly source: TensorSource;
}

/**
 * Writes an adapter folder that PEFT loads. Tensor names are PEFT's:
 * `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` [rank, in], `...lora_B.weight` [out, rank].
 * The configuration is written last, so a folder with it is complete.
 * @throws {UserError} full disk, unwritable folder
 */
export function writeAdapter(folder: string, spec: AdapterSpec & { readonly tensors: readonly TensorData[] }): void {
  makeFolder(folder);
  writeSafetensors(join(folder, WEIGHTS_FILE), spec.tensors);
  const config = {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    base_model_name_or_path: spec.base,
    r: spec.rank,
    lora_alpha: spec.alpha,
    lora_dropout: spec.dropout,
    target_modules: [...spec.targets].sort(),
    bias: "none",
    fan_in_fan_out: false,
    use_rslora: spec.rslora,
    use_dora: false,
    modules_to_save: null,
    rank_pattern: {},
    alpha_pattern: {},
    init_lora_weights: true,
    inference_mode: true,
  };
  writeTextAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(config, null, 2)}\n`);
}

const adapterSchema = z.object({
  peft_type: z.literal("LORA"),
  base_model_name_or_path: z.string().nullish(),
  r: z.number().int().positive(),
  lora_alpha: z.number().positive(),
  lora_dropout: z.number().min(0).lt(1).default(0),
  target_modules: z.array(z.string()).min(1),
  bias: z.literal("none").default("none"),
  fan_in_fan_out: z.literal(false).nullish(),
  use_rslora: z.boolean().nullish(),
  use_dora: z.literal(false).nullish(),
  modules_to_save: z.array(z.string()).max(0).nullish(),
  rank_pattern: z.record(z.string(), z.number()).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
});

/** Opens an adapter folder. @throws {UserError} missing or malformed files, kinds of adapter that are not supported */
export function readAdapter(folder: string): Adapter {
  const path = join(folder, CONFIG_FILE);
  const config = parseWith(adapterSchema, readJsonObject(path), path);
  for (const key of ["rank_pattern", "alpha_pattern"] as const) {
    if (Object.keys(config[key] ?? {}).length > 0)
      throw new UserError(`${path}: ${key} is not supported; every module must have the same rank and alpha`);
  }
  const rslora = config.use_rslora ?? false;
  return {
    base: config.base_model_name_or_path ?? "",
    rank: config.r,
    alpha: config.lora_alpha,
    dropout: config.lora_dropout,
    rslora,
    targets: config.target_modules,
    scale: config.lora_alpha / (rslora ? Math.sqrt(config.r) : config.r),
    source: openSafetensors(join(folder, WEIGHTS_FILE)),
  };
}
