import { z } from "zod";
import { parseWith, size } from "../../../base/schema.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family, Raw } from "../family.ts";
import { EXPERT_MODULES, expertsOf } from "../llama/experts.ts";
import { LLAMA_MODULES } from "../llama/llama.ts";
import { readDecoder } from "../reading/common.ts";
import { deltaGguf } from "./delta-gguf.ts";
import { QWEN_NAMES } from "./qwen2.ts";
import { DELTA_LINEAR, deltaLayers, deltaOf, deltaRules, textOf } from "./qwen3.5.ts";

const ownSchema = z.object({
  num_hidden_layers: size,
  intermediate_size: size.default(5632),
  moe_intermediate_size: size.default(512),
  shared_expert_intermediate_size: size.default(512),
  decoder_sparse_step: z.int().positive().default(1),
  mlp_only_layers: z.array(z.int().nonnegative()).nullish(),
});

/** Reads a Qwen3.5-MoE or a Qwen3-Next, with the number of experts where the file is silent. @throws {UserError} */
function read(raw: Raw, where: string, generation: Raw, family: string, count: number): ModelConfig {
  const isNext = family === "qwen3_next";
  const own = parseWith(ownSchema, raw, where);
  const { decoder_sparse_step: step, mlp_only_layers: dense } = own;
  // All layers of a Qwen3.5-MoE have experts, whose weights add up to 1, whatever its file says.
  const usual = isNext ? { num_experts_per_tok: 10, norm_topk_prob: true, ...raw } : { ...raw, norm_topk_prob: true };
  const experts = expertsOf(usual, where, count, own.moe_intermediate_size);
  const layers = experts.layers.map((_, i) => !isNext || ((i + 1) % step === 0 && !dense?.includes(i)));
  // Where all layers have experts, no matrix has the width that the file says.
  const width = layers.includes(false) ? own.intermediate_size : own.moe_intermediate_size;
  const more = {
    delta: deltaOf(raw, where, isNext),
    experts: layers.includes(true) ? { ...experts, sharedWidth: own.shared_expert_intermediate_size, layers } : null,
  };
  return readDecoder({ ...raw, intermediate_size: width }, where, generation, deltaRules(family, 2, more));
}

/** Qwen3.5-MoE: the layers of a Qwen3.5, with experts in the place of the MLP, one of which takes every token. */
export const qwen35Moe: Family = {
  type: "qwen3_5_moe_text",
  architecture: "Qwen3_5MoeForCausalLM",
  classifier: null,
  bare: "Qwen3_5MoeTextModel",
  models: ["Qwen3.5-MoE"],
  wrappers: [{ type: "qwen3_5_moe", text: textOf, ...QWEN_NAMES }],
  read: (raw, where, generation) => read(raw, where, generation, "qwen3_5_moe_text", 256),
  // The expert of all tokens has adapters as any MLP has; the others have none.
  modules: { ...LLAMA_MODULES, linear: [...LLAMA_MODULES.linear, "shared_expert_gate", ...DELTA_LINEAR] },
  layers: deltaLayers,
  gguf: deltaGguf("qwen35moe"),
};

/** Qwen3-Next: the same, where one matrix gives queries, keys, values and gates of the layers with a state. */
export const qwen3Next: Family = {
  type: "qwen3_next",
  architecture: "Qwen3NextForCausalLM",
  models: ["Qwen3-Next"],
  read: (raw, where, generation) => read(raw, where, generation, "qwen3_next", 512),
  // PEFT takes the names of the layers of an MLP for those of the experts.
  modules: {
    ...EXPERT_MODULES,
    linear: [...EXPERT_MODULES.linear, "shared_expert_gate", "in_proj_qkvz", "in_proj_ba", "out_proj"],
  },
  layers: deltaLayers,
  gguf: deltaGguf("qwen3next"),
};
