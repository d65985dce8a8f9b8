import { ExpertMlp } from "../../ops/expert-mlp.ts";
import { Gemm } from "../../ops/gemm.ts";
import { RouteTokens } from "../../ops/route-tokens.ts";
import type { ExpertsConfig } from "../config.ts";
import type { BlockParts } from "./layer.ts";

/**
 * A mixture of experts (Shazeer et al. 2017, https://arxiv.org/abs/1701.06538) of x [tokens, hiddenSize]: each token goes to the experts that a
 * router chooses. Every matrix of an expert is a parameter of its own, as files have it. Adapters have no part in it.
 */
export function expertMlp(
  { builder, config, scope }: BlockParts,
  x: string,
  { count, perToken, normalised }: ExpertsConfig,
): string {
  const { hiddenSize: width, intermediateSize: size } = config;
  const router = scope.matrix("mlp.gate.weight", [count, width]);
  const logits = builder.value(Gemm, [x, router], { alpha: 1, beta: 1, transA: 0, transB: 1 }, "router.logits");
  const [weights, experts] = builder.node(RouteTokens, [logits], { k: perToken, normalise: normalised ? 1 : 0 }, "router");
  const matrices = Array.from({ length: count }, (_, expert) => {
    const module = `mlp.experts.${expert}`;
    return [
      scope.matrix(`${module}.gate_proj.weight`, [size, width]),
      scope.matrix(`${module}.up_proj.weight`, [size, width]),
      scope.matrix(`${module}.down_proj.weight`, [width, size]),
    ];
  });
  return builder.value(ExpertMlp, [x, weights!, experts!, ...matrices.flat()], {}, "experts");
}
