import type { GraphBuilder } from "../../graph/builder.ts";
import { Add } from "../../ops/add.ts";
import { Affine } from "../../ops/affine.ts";
import { ExpertMlp, SWIGLU_EXPERTS } from "../../ops/expert-mlp.ts";
import { Gemm } from "../../ops/gemm.ts";
import { RouteTokens } from "../../ops/route-tokens.ts";
import { ScaleRows } from "../../ops/scale-rows.ts";
import type { Site } from "../adapters/kind.ts";
import type { ExpertsConfig, HiddenAct } from "../config.ts";
import type { ParamScope } from "../linear.ts";
import type { BlockParts } from "./layer.ts";
import { gatedMlp, sigmoid } from "./mlp.ts";

/** Names of the parameters of a mixture of experts. */
export interface ExpertNames {
  readonly router: string;
  /** The list of experts. */
  readonly list: string;
  /** Absent: the router has no biases of choices. */
  readonly choiceBias?: string;
  /** Last parts of the names of an expert's matrices. */
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

/** Names of most families. */
export const EXPERT_NAMES: ExpertNames = {
  router: "mlp.gate",
  list: "mlp.experts",
  gate: "gate_proj",
  up: "up_proj",
  down: "down_proj",
};

/** What an expert makes of its gate and up, in a model whose MLPs have that activation. */
function kindOf({ limits, bias }: ExpertsConfig, hiddenAct: HiddenAct): typeof SWIGLU_EXPERTS {
  if (limits !== null) return { activation: "clamped", ...limits, biases: bias ? 1 : 0 };
  if (hiddenAct === "silu") return SWIGLU_EXPERTS;
  if (hiddenAct === "gelu_pytorch_tanh") return { ...SWIGLU_EXPERTS, activation: "geglu" };
  throw new Error(`no experts with ${hiddenAct}`);
}

/** What is added to the sum that sigmoids are divided by, as Transformers has it. */
const EPSILON = 1e-6;

/**
 * A mixture of experts (Shazeer et al. 2017, https://arxiv.org/abs/1701.06538) of x [tokens, hiddenSize]: each token goes to the experts that a
 * router chooses. Every matrix of an expert is a parameter of its own, as files have it; adapters are of all experts together, as PEFT's of
 * Transformers' parameters.
 */
export function expertMlp(parts: BlockParts, x: string, experts: ExpertsConfig, names = EXPERT_NAMES): string {
  const { sharedWidth } = experts;
  const y = chosenExperts(parts, x, routed(parts, x, experts, names), experts, names);
  return sharedWidth === null ? y : parts.builder.value(Add, [y, sharedExpert(parts, x, sharedWidth)], {}, "experts.all");
}

/** The expert of all tokens, each times the sigmoid of its gate. */
function sharedExpert(parts: BlockParts, x: string, width: number): string {
  const { builder, config, project } = parts;
  const module = "mlp.shared_expert";
  const names = { gate: `${module}.gate_proj`, up: `${module}.up_proj`, down: `${module}.down_proj` };
  const gate = sigmoid(builder, project(x, "mlp.shared_expert_gate", config.hiddenSize, 1, false));
  return builder.value(ScaleRows, [gatedMlp(parts, x, names, width), gate], {}, "shared_expert");
}

/** Which experts each token goes to [tokens, perToken], and with which weights. */
export type Routing = readonly [weights: string, experts: string];

/** The sum of what each token's experts make of x. */
export function chosenExperts(
  parts: BlockParts,
  x: string,
  [weights, chosen]: Routing,
  experts: ExpertsConfig,
  names: ExpertNames,
): string {
  const { builder, config, scope } = parts;
  const { count, width: size } = experts;
  const { hiddenSize: width, hiddenAct } = config;
  const matrices = Array.from({ length: count }, (_, expert) => {
    const module = `${names.list}.${expert}`;
    return [
      scope.matrix(`${module}.${names.gate}.weight`, [size, width]),
      scope.matrix(`${module}.${names.up}.weight`, [size, width]),
      scope.matrix(`${module}.${names.down}.weight`, [width, size]),
    ];
  });
  const inputs = [x, weights, chosen, ...matrices.flat()];
  const { list } = names;
  const gateUp = pairOf(scope, `${list}.gate_up_proj`, { layer: "experts", rows: 2 * size, columns: width, experts: count });
  const down = pairOf(scope, `${list}.down_proj`, { layer: "experts", rows: width, columns: size, experts: count });
  const biases = experts.bias
    ? [scope.numbers(`${list}.gate_up_proj_bias`, [count, 2 * size]), scope.numbers(`${list}.down_proj_bias`, [count, width])]
    : [];
  const attrs = {
    ...kindOf(experts, hiddenAct),
    ...(gateUp && { rank: gateUp.rank, scale: gateUp.scale }),
    ...(down && { downRank: down.rank, downScale: down.scale }),
  };
  const pairs = [...(gateUp?.parts ?? []), ...(down?.parts ?? [])];
  return builder.value(ExpertMlp, [...inputs, ...biases, ...pairs], attrs, "experts");
}

/** The low-rank update of a parameter of all experts; null: it has none. */
function pairOf(
  scope: ParamScope,
  module: string,
  site: Site,
): { readonly rank: number; readonly scale: number; readonly parts: readonly string[] } | null {
  const adapter = scope.adapterOf(module);
  if (adapter === null) return null;
  const { kind, setup } = adapter;
  if (!kind.update || !kind.sites.includes(site.layer)) throw new Error(`${kind.title} does not adapt experts`);
  const { rank, scale } = kind.update.pair(site, setup);
  return { rank, scale, parts: kind.parts(site, setup).map(scope.parametersOf(module)) };
}

/** The experts of each token by the logits of a linear layer. */
function routed(
  { builder, config, scope }: BlockParts,
  x: string,
  experts: ExpertsConfig,
  { router, choiceBias: biasName }: ExpertNames,
): Routing {
  const { count, choiceBias, scale, bias } = experts;
  const weight = scope.matrix(`${router}.weight`, [count, config.hiddenSize]);
  const added = bias ? [scope.vector(`${router}.bias`, count)] : [];
  const logits = builder.value(Gemm, [x, weight, ...added], { alpha: 1, beta: 1, transA: 0, transB: 1 }, "router.logits");
  if (choiceBias && biasName === undefined) throw new Error("the family does not name its biases of choices");
  const biases = choiceBias ? [scope.constant(biasName!, count)] : [];
  const [weights, chosen] = routing(builder, [logits, ...biases], experts);
  if (scale === 1) return [weights, chosen];
  return [builder.value(Affine, [weights], { alpha: scale, beta: 0 }, "router.scaled"), chosen];
}

/** The experts of each token by its logits, and biases of choices where there are any. */
export function routing(
  builder: GraphBuilder,
  inputs: readonly string[],
  { perToken, normalised, score }: ExpertsConfig,
): Routing {
  const attrs = { k: perToken, normalise: normalised ? 1 : 0, score, epsilon: score === "sigmoid" ? EPSILON : 0 } as const;
  return builder.node(RouteTokens, [...inputs], attrs, "router") as [string, string];
}
