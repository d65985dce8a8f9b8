import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { messageOf, UserError } from "../base/errors.ts";
import { isGguf } from "../gguf/folder/is-gguf.ts";
import { type HubOptions, resolveModel } from "../hf/hub/hub.ts";
import { baseModelOf } from "../hf/peft/adapter-config.ts";
import { checkFolder } from "../hf/peft/adapter-folder.ts";

/** A base model, an adapter, or both, as a user names them: folders, or names on the hub. */
export interface NamedModel {
  readonly model?: string | undefined;
  readonly adapter?: string | undefined;
}

/**
 * The folder of a base model that is named: `resolveModel`'s, or what is made of a GGUF file.
 * @throws {UserError} as both, and a folder that only holds such a file
 */
export async function baseFolder(model: string, options: HubOptions = {}): Promise<string> {
  if (isGguf(model)) {
    // Other models need not wait until this is loaded.
    const { ggufFolder } = await import("../gguf/folder/folder.ts");
    return ggufFolder(model);
  }
  if (model.endsWith(".gguf") && !existsSync(model)) throw new UserError(`${model}: no such file; expected a GGUF file`);
  const folder = await resolveModel(model, options);
  const gguf = existsSync(join(folder, "config.json")) ? undefined : readdirSync(folder).find((name) => name.endsWith(".gguf"));
  if (gguf !== undefined)
    throw new UserError(`${folder} has no config.json; to use ${gguf}, name the file itself: ${join(folder, gguf)}`);
  return folder;
}

/** How a model is found that is not on this machine yet. */
export type FindModelOptions = Pick<HubOptions, "onProgress">;

/** Describes what a verb's `--model` and `--adapter` mean together. */
export interface FoundModel {
  /** The base model as it was named, and its folder on this machine. */
  readonly name: string;
  readonly folder: string;
  /** The adapter's folder. */
  readonly adapter: string | null;
}

/** Tells whether a folder holds an adapter and no model: what training with LoRA leaves. */
const isAdapter = (folder: string): boolean =>
  existsSync(join(folder, "adapter_config.json")) && !existsSync(join(folder, "config.json"));

/**
 * Finds the base model: the one that is named, or the adapter's. A folder that holds an adapter may be given as the model.
 * @throws {UserError} neither is given; an adapter whose base model is not known or not there
 */
export async function findModel(named: NamedModel, options: HubOptions = {}): Promise<FoundModel> {
  const { model } = named;
  const given = model !== undefined && isAdapter(model) ? model : undefined;
  const adapter = named.adapter ?? given ?? null;
  // Adapters of other tools, and folders that hold adapters further inside, are no models either.
  if (model !== undefined && given === undefined && !existsSync(join(model, "config.json"))) checkFolder(model);
  if (given === undefined && model !== undefined) return { name: model, folder: await baseFolder(model, options), adapter };
  if (adapter === null) throw new UserError("--model: a model folder or hub name is needed; it is missing");
  if (given !== undefined && given !== adapter) {
    throw new UserError(`--model ${given} is an adapter, and so is --adapter ${adapter}; give one of them, or their base model`);
  }
  const base = baseModelOf(adapter);
  if (base === null)
    throw new UserError(`${adapter} does not name its base model; give it with --model, and ${adapter} with --adapter`);
  try {
    return { name: base, folder: await baseFolder(base, options), adapter };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(
      `${messageOf(error)}; it is the base model that ${adapter} names: give it with --model, and ${adapter} with --adapter`,
    );
  }
}
