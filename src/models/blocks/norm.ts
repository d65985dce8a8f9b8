import { Affine } from "../../ops/affine.ts";
import { LayerNormalization } from "../../ops/layer-norm.ts";
import { Reshape } from "../../ops/reshape.ts";
import { RMSNormalization } from "../../ops/rms-norm.ts";
import type { ModelConfig } from "../config.ts";
import type { ParamScope } from "../linear.ts";
import type { BlockParts } from "./layer.ts";

/**
 * The weight `<local>.weight` of a norm. Where 1 is added to it, that is done here, so that the parameter, what is learned of it and what is
 * saved are the checkpoint's.
 */
function weightOf(scope: ParamScope, { normOffset }: ModelConfig, local: string, size: number): string {
  const stored = scope.vector(`${local}.weight`, size);
  if (normOffset === 0) return stored;
  return scope.builder.value(Affine, [stored], { alpha: 1, beta: normOffset }, `${local}.scale`);
}

/** RMSNorm (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467) of the rows of x [rows, size]. */
export function rmsNorm(scope: ParamScope, config: ModelConfig, x: string, local: string, size: number): string {
  const weight = weightOf(scope, config, local, size);
  return scope.builder.value(RMSNormalization, [x, weight], { axis: -1, epsilon: config.normEps }, local);
}

/** LayerNorm (Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450) of the rows of x [rows, size], with a weight and, as a rule, a bias. */
export function layerNorm(scope: ParamScope, config: ModelConfig, x: string, local: string, size: number): string {
  const weight = weightOf(scope, config, local, size);
  const bias = config.norm === "layer-without-bias" ? [] : [scope.vector(`${local}.bias`, size)];
  return scope.builder.value(LayerNormalization, [x, weight, ...bias], { axis: -1, epsilon: config.normEps }, local);
}

/** The model's kind of norm of the rows of x [rows, size]. */
export function norm(scope: ParamScope, config: ModelConfig, x: string, local: string, size: number): string {
  return config.norm === "rms" ? rmsNorm(scope, config, x, local, size) : layerNorm(scope, config, x, local, size);
}

/** RMSNorm, without a weight, of each of `count` heads of x [tokens, count * dim]. @param other the name of a norm of the block with as many features */
export function plainHeadNorm({ builder, config, tokens }: BlockParts, x: string, count: number, other: string): string {
  const dim = builder.type(x).shape[1]! / count;
  const rows = builder.value(Reshape, [x], { shape: [tokens * count, dim] });
  // The operator has a weight: ones, 0 w + 1.
  const ones = builder.value(Affine, [`${other}.weight`], { alpha: 0, beta: 1 }, "ones");
  const attrs = { axis: -1, epsilon: config.normEps } as const;
  const normed = builder.value(RMSNormalization, [rows, ones], attrs, "normed");
  return builder.value(Reshape, [normed], { shape: [tokens, count * dim] });
}

/** RMSNorm of each of `count` heads of x [tokens, count * dim]. */
export function headNorm({ builder, scope, config, tokens }: BlockParts, x: string, local: string, count: number): string {
  const dim = builder.type(x).shape[1]! / count;
  const rows = builder.value(Reshape, [x], { shape: [tokens * count, dim] });
  return builder.value(Reshape, [rmsNorm(scope, config, rows, local, dim)], { shape: [tokens, count * dim] });
}
