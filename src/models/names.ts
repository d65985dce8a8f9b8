import type { ModelConfig } from "./config.ts";

/** Names of the segments and modules that no family has otherwise. */

export const blockName = ({ modulePrefix }: Pick<ModelConfig, "modulePrefix">, layer: number): string =>
  `${modulePrefix}layers.${layer}`;

/** The decoder block that a module or weight belongs to; null outside the blocks, and below names that only look alike. */
export function layerOf(name: string, { modulePrefix }: { readonly modulePrefix: string }): number | null {
  const [, layer] = name.startsWith(modulePrefix) ? (/^layers\.(\d+)\./.exec(name.slice(modulePrefix.length)) ?? []) : [];
  return layer === undefined ? null : Number(layer);
}
