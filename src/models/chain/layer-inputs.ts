import { Add } from "../../ops/add.ts";
import { Affine } from "../../ops/affine.ts";
import { Reshape } from "../../ops/reshape.ts";
import { SplitColumns } from "../../ops/split-columns.ts";
import { rmsNorm } from "../blocks/norm.ts";
import type { CarriedScope } from "../carried.ts";
import type { ModelConfig } from "../config.ts";
import { modulesOf } from "../families/index.ts";
import { linear, type ParamScope } from "../linear.ts";
import { layerInputName } from "../names.ts";

/**
 * Makes what each block is told of each token beside the boundary: (sqrt(size) e + norm(W x / sqrt(hiddenSize))) / sqrt(2), with the row e of the table
 * for the token's id, and its embedding x, each as [tokens, size] for one block.
 * @param rounded the factor of a table's rows as the model has it
 */
export function addLayerInputs(
  scope: ParamScope,
  config: ModelConfig,
  x: string,
  carried: CarriedScope,
  rounded: (table: string, factor: number) => number,
): void {
  const { layerInputs, layers, hiddenSize } = config;
  if (layerInputs === null) return;
  const names = modulesOf(config).layerInputs;
  if (names === undefined) throw new Error(`the family ${config.family} names no table of the blocks' inputs`);
  const { builder } = scope;
  const { size, rows } = layerInputs;
  const width = layers * size;
  const tokens = builder.type(x).shape[0]!;
  const times = (value: string, alpha: number, hint: string) => builder.value(Affine, [value], { alpha, beta: 0 }, hint);
  const spec = { module: names.projection, inFeatures: hiddenSize, outFeatures: width, bias: false, site: 0 };
  const product = times(linear(scope, x, spec), 1 / Math.sqrt(hiddenSize), "projected");
  const apart = builder.value(Reshape, [product], { shape: [tokens * layers, size] }, "projected.apart");
  const normed = rmsNorm(scope, config, apart, names.norm, size);
  const projected = builder.value(Reshape, [normed], { shape: [tokens, width] }, "projected.normed");
  const factor = rounded(config.modulePrefix + names.table, Math.sqrt(size));
  const table = times(scope.rows(`${names.table}.weight`, [rows, width], "tableIds"), factor, "told");
  const sum = times(builder.value(Add, [projected, table], {}, "inputs.sum"), Math.SQRT1_2, "inputs");
  const each = builder.node(SplitColumns, [sum], { groups: 1, sizes: Array<number>(layers).fill(size) }, "input");
  each.forEach((value, layer) => carried.make(layerInputName(layer), layerInputName(layer), value));
}
