import type { ModelConfig } from "./config.ts";
import { openSafetensors, type TensorEntry, type TensorSource } from "./safetensors.ts";

/** Names in checkpoints of models with images, and those of the modules in Transformers 5. The first that fits is taken. */
const RENAMED: readonly (readonly [stored: string, module: string])[] = [
  ["language_model.lm_head.", "lm_head."],
  ["language_model.model.", "model.language_model."],
  ["vision_tower.", "model.vision_tower."],
  ["multi_modal_projector.", "model.multi_modal_projector."],
];

/**
 * Opens a model's weights. They are found under the names of the modules, whatever those in the files: an entry's own name
 * is that of the file.
 * @throws {UserError}
 */
export function openModelWeights(folder: string, config: Pick<ModelConfig, "modulePrefix">): TensorSource {
  const source = openSafetensors(folder);
  if (config.modulePrefix === "model.") return source;
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of source.tensors) tensors.set(moduleName(name), entry);
  return { ...source, tensors };
}

/** The module's name of a tensor in a file. */
export function moduleName(stored: string): string {
  const found = RENAMED.find(([prefix]) => stored.startsWith(prefix));
  return found ? found[1] + stored.slice(found[0].length) : stored;
}

/** Whether a tensor, or a module, belongs to the parts that see images, which are neither trained nor run. */
export function isVision(name: string): boolean {
  return /^model\.(vision_tower|multi_modal_projector)\./.test(name);
}

/** A sentence that says which part of a model with images is used; null for a model of text. */
export function visionNote({ tensors }: TensorSource): string | null {
  const count = [...tensors.keys()].filter(isVision).length;
  return count === 0 ? null : `only the text part of this model is used; its ${count} vision tensors stay as they are`;
}
