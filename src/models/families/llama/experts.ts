import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith, size } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { expertMlp, type ExpertNames, EXPERT_NAMES } from "../../blocks/experts.ts";
import type { Layer } from "../../blocks/layer.ts";
import { residual } from "../../blocks/residual.ts";
import type { ExpertsConfig, ModelConfig } from "../../config.ts";
import type { FamilyModules, GgufFacts, Raw } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, refuseBiases } from "./llama.ts";
import { givenAttentionBias, givenExperts } from "../reading/gguf.ts";

/** The part that families of the Llama kind with a mixture of experts in each block share. */

/** Experts have no adapters: what PEFT's "all-linear" finds is attention. */
export const EXPERT_MODULES: FamilyModules = {
  ...LLAMA_MODULES,
  linear: ["q_proj", "k_proj", "v_proj", "o_proj"],
  scaled: { outputs: ["k_proj", "v_proj"], inputs: [] },
};

/** llama.cpp's names of a mixture of experts; it never makes a router smaller. */
export function expertsGguf({ router, list, gate, up, down }: ExpertNames): GgufFacts["modules"] {
  return {
    [router]: { name: "ffn_gate_inp", isFull: true },
    [`${list}.*.${gate}`]: "ffn_gate_exps",
    [`${list}.*.${up}`]: "ffn_up_exps",
    [`${list}.*.${down}`]: "ffn_down_exps",
  };
}

/** How llama.cpp has a family of the Llama kind with experts in all layers. @param normalised whether weights of a token's experts add up to 1 there */
export function expertFamilyGguf(architecture: string, normalised: boolean): GgufFacts {
  return {
    ...LLAMA_GGUF,
    architecture,
    modules: { ...LLAMA_GGUF.modules, ...expertsGguf(EXPERT_NAMES) },
    rotatesNeighbours: false,
    scalings: [],
    keys: (given) => ({ ...givenAttentionBias(given), ...givenExperts(given, normalised) }),
    check(config) {
      refuseBiases(architecture)(config);
      if (config.experts!.normalised !== normalised)
        throw new UserError(
          `llama.cpp's ${architecture} models have norm_topk_prob ${normalised}, not ${!normalised}; this one would be computed otherwise`,
        );
    },
  };
}

const expertsSchema = z.object({
  num_hidden_layers: size,
  num_experts: size.nullish(),
  num_local_experts: size.nullish(),
  num_experts_per_tok: size.default(8),
  norm_topk_prob: z.boolean().default(false),
  output_router_logits: z.boolean().default(false),
  hidden_act: z.string().default("silu"),
});

/** @throws {UserError} more experts of a token than there are, a loss of the routers */
export function checkRouting(
  {
    count,
    perToken,
    hasLoss,
  }: Pick<ExpertsConfig, "count" | "perToken"> & {
    /** `output_router_logits`. */
    readonly hasLoss: boolean;
  },
  where: string,
): void {
  if (perToken > count)
    throw new UserError(`${where}: num_experts_per_tok is ${perToken}; expected at most the number of experts, ${count}`);
  if (hasLoss)
    throw new UserError(`${where}: output_router_logits true adds a loss of the routers, which is not supported; expected false`);
}

/**
 * The experts of all layers.
 * @throws {UserError} experts that are not supported
 */
export function expertsOf(raw: Raw, where: string, defaultCount: number, width: number): ExpertsConfig {
  const own = parseWith(expertsSchema, raw, where);
  const count = own.num_experts ?? own.num_local_experts ?? defaultCount;
  const { num_experts_per_tok: perToken, norm_topk_prob: normalised, hidden_act: act } = own;
  checkRouting({ count, perToken, hasLoss: own.output_router_logits }, where);
  if (act !== "silu" && act !== "swish")
    throw new UserError(`${where}: hidden_act ${JSON.stringify(act)} of experts is not supported; expected "silu"`);
  const layers = Array<boolean>(own.num_hidden_layers).fill(true);
  return {
    count,
    width,
    perToken,
    score: "softmax",
    normalised,
    choiceBias: false,
    scale: 1,
    limits: null,
    bias: false,
    sharedWidth: null,
    layers,
  };
}

/** Blocks of the Llama kind with experts in the place of the MLP. */
export function expertLayers(config: ModelConfig, names?: ExpertNames): Layer[] {
  const { experts } = config;
  if (experts === null) throw new Error(`${config.family} without experts`);
  return Array.from({ length: config.layers }, (_, layer) => {
    const settings = attentionOf(config, layer);
    return attentionLayer(settings, (parts) =>
      residual(
        parts,
        { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x) },
        { norm: "post_attention_layernorm", add: (x) => expertMlp(parts, x, experts, names) },
      ),
    );
  });
}
