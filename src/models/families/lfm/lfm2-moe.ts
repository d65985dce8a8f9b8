import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith, positive, size } from "../../../base/schema.ts";
import { expertMlp, type ExpertNames } from "../../blocks/experts.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import type { ExpertsConfig } from "../../config.ts";
import type { Family, Raw } from "../family.ts";
import { checkRouting, expertsGguf } from "../llama/experts.ts";
import { LFM_GGUF, LFM_MLP, LFM_MODULES, lfmKeys, lfmLayers, readLfm } from "./lfm2.ts";
import { givenExperts } from "../reading/gguf.ts";

const NAMES: ExpertNames = {
  router: "feed_forward.gate",
  list: "feed_forward.experts",
  choiceBias: "feed_forward.expert_bias",
  gate: "w1",
  up: "w3",
  down: "w2",
};

/** Keys of the experts, with the defaults of Transformers. */
const expertsSchema = z.object({
  num_hidden_layers: size,
  moe_intermediate_size: size.default(1792),
  num_dense_layers: z.int().nonnegative().default(2),
  num_experts: size.default(32),
  num_experts_per_tok: size.default(4),
  use_expert_bias: z.boolean().default(true),
  norm_topk_prob: z.boolean().default(true),
  routed_scaling_factor: positive.default(1),
  output_router_logits: z.boolean().default(false),
});

/** @throws {UserError} experts that are not supported */
function expertsOf(raw: Raw, where: string): ExpertsConfig | null {
  const own = parseWith(expertsSchema, raw, where);
  checkRouting({ count: own.num_experts, perToken: own.num_experts_per_tok, hasLoss: own.output_router_logits }, where);
  const layers = Array.from({ length: own.num_hidden_layers }, (_, layer) => layer >= own.num_dense_layers);
  if (!layers.includes(true)) return null;
  return {
    count: own.num_experts,
    width: own.moe_intermediate_size,
    perToken: own.num_experts_per_tok,
    score: "sigmoid",
    normalised: own.norm_topk_prob,
    choiceBias: own.use_expert_bias,
    scale: own.routed_scaling_factor,
    limits: null,
    bias: false,
    sharedWidth: null,
    layers,
  };
}

/**
 * LFM2-MoE: an LFM2 with experts in the place of the MLP behind the first layers. Scores are sigmoids, and experts are chosen by scores with biases that
 * balance their load, which training leaves as they are.
 */
export const lfm2Moe: Family = {
  type: "lfm2_moe",
  architecture: "Lfm2MoeForCausalLM",
  classifier: null,
  models: ["LFM2-MoE"],
  read(raw, where, generation) {
    const experts = expertsOf(raw, where);
    const isMixed = experts === null || experts.layers.includes(false);
    // Where all layers have experts, no matrix has the width that the file says.
    const width = isMixed ? (raw["intermediate_size"] ?? 7168) : experts.width;
    return readLfm({ ...raw, intermediate_size: width }, where, generation, "lfm2_moe", { experts });
  },
  modules: LFM_MODULES,
  experts: NAMES,
  layers: (config) =>
    lfmLayers(config, (parts, x, layer) => {
      const { experts } = config;
      return experts?.layers[layer] ? expertMlp(parts, x, experts, NAMES) : gatedMlp(parts, x, LFM_MLP);
    }),
  gguf: {
    ...LFM_GGUF,
    architecture: "lfm2moe",
    keys: (given) => ({
      ...lfmKeys(given),
      ...givenExperts(given, true),
      num_dense_layers: given.own("leading_dense_block_count") ?? 0,
      use_expert_bias: true,
    }),
    modules: {
      ...LFM_GGUF.modules,
      ...expertsGguf(NAMES),
      "feed_forward.expert_bias": { name: "exp_probs_b.bias", isFull: true },
    },
    check(config) {
      LFM_GGUF.check!(config);
      const { experts } = config;
      const refuse = (what: string) => new UserError(`llama.cpp's lfm2moe models have ${what}`);
      if (experts === null) throw refuse("experts, and this one has none");
      if (!experts.normalised) throw refuse("norm_topk_prob true, not false");
      if (!experts.choiceBias) throw refuse("use_expert_bias true, not false");
      if (experts.scale !== 1) throw refuse(`routed_scaling_factor 1, not ${experts.scale}`);
    },
  },
};
