import { UserError } from "../../base/errors.ts";
import { elements } from "../../graph/types.ts";
import type { ModelConfig } from "../../models/config.ts";
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
 * @throws {UserError} also for a configuration of a larger model, before anything of its size is built
 */
export function openModelWeights(folder: string, config: ModelConfig): TensorSource {
  const source = openSafetensors(folder);
  try {
    checkSizes(config, source);
  } catch (error) {
    source.close();
    throw error;
  }
  if (config.modulePrefix === "model.") return source;
  const tensors = new Map<string, TensorEntry>();
  for (const [name, entry] of source.tensors) tensors.set(moduleName(name), entry);
  return { ...source, tensors };
}

/** Every block has a tensor of its own, and the matrices of a model are within its tensors, fused or not. */
function checkSizes(config: ModelConfig, { path, tensors }: TensorSource): void {
  const { layers, hiddenSize, intermediateSize, vocabSize, heads, headDim } = config;
  if (layers > tensors.size)
    throw new UserError(
      `${path} holds ${tensors.size} tensors, too few for the ${layers} layers of config.json; do the files belong together?`,
    );
  let largest = 0;
  for (const { shape } of tensors.values()) largest = Math.max(largest, elements(shape));
  const matrices = [
    ["embedding", vocabSize],
    ["query projection", heads * headDim],
    ["MLP", intermediateSize],
  ] as const;
  for (const [name, rows] of matrices) {
    if (rows * hiddenSize <= largest) continue;
    throw new UserError(
      `${path} holds no tensor as large as the ${name} of config.json, [${rows}, ${hiddenSize}]; do the files belong together?`,
    );
  }
}

/** The module's name of a tensor in a file. */
export function moduleName(stored: string): string {
  const found = RENAMED.find(([prefix]) => stored.startsWith(prefix));
  return found ? found[1] + stored.slice(found[0].length) : stored;
}

/**
 * The module of a model with that prefix that an adapter's file names. Adapters of a model with images that were trained on its text
 * part alone name that part's modules as a model of text does.
 */
export function adapterModule(stored: string, modulePrefix = "model."): string {
  const name = moduleName(stored);
  return name.startsWith("model.layers.") ? modulePrefix + name.slice("model.".length) : name;
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
