import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { isRecord } from "../../../base/json.ts";
import { parseWith, positive, size } from "../../../base/schema.ts";
import { EXPERT_NAMES, type ExpertNames } from "../../blocks/experts.ts";
import type { ExpertsConfig } from "../../config.ts";
import type { Family, Raw } from "../family.ts";
import { checkRouting, EXPERT_MODULES, expertLayers, expertsGguf } from "../llama/experts.ts";
import { LLAMA_GGUF } from "../llama/llama.ts";
import { byTurns } from "../orders.ts";
import { attentionBiases, readDecoder, typesByPeriod, windowByTypes } from "../reading/common.ts";

const NAMES: ExpertNames = { ...EXPERT_NAMES, router: "mlp.router" };

/** The limits of gates and ups in published models. */
const [ALPHA, LIMIT] = [1.702, 7];

/** Keys of the experts, with the defaults of Transformers. */
const expertsSchema = z.object({
  num_hidden_layers: size,
  intermediate_size: size.default(2880),
  num_local_experts: size.nullish(),
  num_experts: size.nullish(),
  num_experts_per_tok: size.default(4),
  swiglu_alpha: positive.default(ALPHA),
  swiglu_limit: positive.default(LIMIT),
  output_router_logits: z.boolean().default(false),
});

/** @throws {UserError} experts that are not supported */
function expertsOf(raw: Raw, where: string): ExpertsConfig {
  const own = parseWith(expertsSchema, raw, where);
  const count = own.num_local_experts ?? own.num_experts ?? 128;
  const { num_experts_per_tok: perToken } = own;
  checkRouting({ count, perToken, hasLoss: own.output_router_logits }, where);
  return {
    count,
    width: own.intermediate_size,
    perToken,
    score: "softmax",
    normalised: true,
    choiceBias: false,
    scale: 1,
    limits: { alpha: own.swiglu_alpha, limit: own.swiglu_limit },
    bias: true,
    sharedWidth: null,
    layers: Array<boolean>(own.num_hidden_layers).fill(true),
  };
}

/** Rotary positions where the file is silent. */
const ROPE = {
  rope_type: "yarn",
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

/** The keys with the family's defaults. Experts in MXFP4 are read as they are stored. */
function plainOf(raw: Raw): Raw {
  const { quantization_config: quantised, rope_scaling: scaling, rope_parameters: parameters, ...others } = raw;
  const isRead = isRecord(quantised) && quantised["quant_method"] === "mxfp4";
  const { attention_bias: bias, rope_theta: theta, rms_norm_eps: eps, sliding_window: window, intermediate_size: width } = raw;
  return {
    ...others,
    ...(quantised !== undefined && !isRead && { quantization_config: quantised }),
    rope_parameters: scaling ?? parameters ?? ROPE,
    rope_theta: theta ?? 150_000,
    rms_norm_eps: eps ?? 1e-5,
    attention_bias: bias ?? true,
    sliding_window: window === undefined ? 128 : window,
    intermediate_size: width ?? 2880,
  };
}

/**
 * gpt-oss (https://arxiv.org/abs/2508.10925): every second layer sees a window, each head has a sink, and experts have biases and gates within
 * limits; published with experts in MXFP4.
 */
export const gptOss: Family = {
  type: "gpt_oss",
  architecture: "GptOssForCausalLM",
  models: ["gpt-oss"],
  read: (raw, where, generation) =>
    readDecoder(plainOf(raw), where, generation, {
      family: "gpt_oss",
      defaults: { maxPositions: 131_072, kvHeads: 8, headDim: 64, bos: null, eos: null },
      biases: attentionBiases,
      window: (config, file) => {
        return windowByTypes(config.layer_types ?? typesByPeriod(config.num_hidden_layers, 2), config, file);
      },
      more: () => ({ attentionSinks: true, experts: expertsOf(raw, where) }),
    }),
  experts: NAMES,
  fusedExperts: "columns",
  modules: EXPERT_MODULES,
  layers: (config) => expertLayers(config, NAMES),
  gguf: {
    ...LLAMA_GGUF,
    architecture: "gpt-oss",
    modules: {
      ...LLAMA_GGUF.modules,
      ...expertsGguf(NAMES),
      post_attention_layernorm: "post_attention_norm",
      "self_attn.sinks": "attn_sinks.weight",
      "mlp.experts.gate_up_proj_bias": [
        { name: "ffn_gate_exps.bias", columns: () => byTurns(0) },
        { name: "ffn_up_exps.bias", columns: () => byTurns(1) },
      ],
      "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
    },
    hasOwnHead: true,
    rotatesNeighbours: false,
    window: "applied",
    // Published models are not rounded.
    scalings: ["yarn-rounded"],
    keys: ({ need }) => ({
      num_local_experts: need("expert_count"),
      num_experts_per_tok: need("expert_used_count"),
      intermediate_size: need("expert_feed_forward_length"),
      sliding_window: need("attention.sliding_window"),
      attention_bias: true,
    }),
    check({ experts, windowLayers, layers, attentionOutputBias }) {
      const refuse = (what: string) => new UserError(`llama.cpp's gpt-oss models have ${what}`);
      const { alpha, limit } = experts!.limits!;
      if (alpha !== ALPHA || limit !== LIMIT)
        throw refuse(`swiglu_alpha ${ALPHA} and swiglu_limit ${LIMIT}, not ${alpha} and ${limit}`);
      if (Array.from({ length: layers }, (_, i) => windowLayers[i] === (i % 2 === 0)).includes(false))
        throw refuse("a sliding window in every second layer, the first one included, and this one has it elsewhere");
      if (!attentionOutputBias) throw refuse("biases in attention, and this one has none");
    },
  },
};
