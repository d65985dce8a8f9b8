import type { ModelConfig } from "./config.ts";

/** The list of blocks, by what is in front of it. */
const BLOCKS: Readonly<Record<ModelConfig["modulePrefix"], string>> = {
  "model.": "layers",
  "model.language_model.": "layers",
  "model.decoder.": "layers",
  "transformer.": "h",
  "gpt_neox.": "layers",
  "bert.": "encoder.layer",
  "roberta.": "encoder.layer",
  "distilbert.": "transformer.layer",
};

/** The begin of the names of all blocks. */
export const blocksPrefix = ({ modulePrefix }: Pick<ModelConfig, "modulePrefix">): string =>
  `${modulePrefix}${BLOCKS[modulePrefix]}.`;

/** Names of the segments and modules that no family has otherwise. */

export const blockName = ({ modulePrefix }: Pick<ModelConfig, "modulePrefix">, layer: number): string =>
  `${blocksPrefix({ modulePrefix })}${layer}`;

/** Names of carried values. */

export const layerInputName = (layer: number): string => `layers.${layer}.input`;

export const sharedKeysName = (layer: number): string => `layers.${layer}.keys`;

export const sharedValuesName = (layer: number): string => `layers.${layer}.values`;

/** The block that a module or weight belongs to; null outside the blocks, and below names that only look alike. */
export function layerOf(name: string, model: Pick<ModelConfig, "modulePrefix">): number | null {
  const prefix = blocksPrefix(model);
  const [, layer] = name.startsWith(prefix) ? (/^(\d+)\./.exec(name.slice(prefix.length)) ?? []) : [];
  return layer === undefined ? null : Number(layer);
}

/** The name of the linear layer in a folder of sentence-transformers' `Dense`. */
export const denseModule = (folder: string): string => `${folder}.linear`;
