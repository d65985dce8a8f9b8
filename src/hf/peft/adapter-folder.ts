import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../base/errors.ts";

/** The two files of an adapter in PEFT's format. */
export const CONFIG_FILE = "adapter_config.json";
export const TENSOR_FILE = "adapter_model.safetensors";

/** The training state in the folder of a checkpoint of a run, which holds the adapter's parameters under these names among others. */
export const CHECKPOINT_FILE = "state.safetensors";
export const CHECKPOINT_PREFIX = "param/";

const PICKLE_FILE = "adapter_model.bin";
/** The matrices of MLX-LM, which writes an adapter_config.json of its own. */
const MLX_FILE = "adapters.safetensors";

/** Folders that trainers write beside or in place of an adapter: the newest one has the largest number. */
const CHECKPOINT = /^checkpoint-(\d+)$/;

/**
 * Refuses a folder that holds no adapter in PEFT's format, and says what there is instead and how to use it.
 * @throws {UserError}
 */
export function checkFolder(folder: string): void {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) return;
  const names = readdirSync(folder);
  if ((names.includes(TENSOR_FILE) || names.includes(CHECKPOINT_FILE)) && names.includes(CONFIG_FILE)) return;
  if (names.includes(MLX_FILE)) {
    throw new UserError(
      `${folder} holds an adapter of MLX-LM (${MLX_FILE}), not one of PEFT; write a whole model with mlx_lm.fuse and give its folder as --model`,
    );
  }
  if (names.includes(PICKLE_FILE) && !names.includes(TENSOR_FILE)) {
    throw new UserError(
      `${folder} holds ${PICKLE_FILE}, a pickle, which is not read; load the adapter with PEFT and save it again, ` +
        `PeftModel.from_pretrained(model, "${folder}").save_pretrained("OUT"): that writes ${TENSOR_FILE}`,
    );
  }
  const newest = newestCheckpoint(folder, names);
  if (newest !== null) throw new UserError(`${folder} holds no ${CONFIG_FILE}, but ${newest} holds an adapter: give that folder`);
}

function newestCheckpoint(folder: string, names: readonly string[]): string | null {
  const found = names
    .filter((name) => CHECKPOINT.test(name) && existsSync(join(folder, name, CONFIG_FILE)))
    .sort((a, b) => Number(CHECKPOINT.exec(a)![1]) - Number(CHECKPOINT.exec(b)![1]));
  return found.length === 0 ? null : join(folder, found.at(-1)!);
}
