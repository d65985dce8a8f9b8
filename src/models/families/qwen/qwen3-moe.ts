import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith, size } from "../../../base/schema.ts";
import type { Family, Raw } from "../family.ts";
import { attentionBiases, NO_WINDOW, readDecoder, windowEverywhere } from "../reading/common.ts";
import { EXPERT_MODULES, expertFamilyGguf, expertLayers, expertsOf } from "../llama/experts.ts";

const ownSchema = z.object({
  num_hidden_layers: size,
  moe_intermediate_size: size.default(768),
  decoder_sparse_step: z.int().nonnegative().default(1),
  mlp_only_layers: z.array(z.int()).nullish(),
});

/** The keys of a Qwen3 in the place of its own. @throws {UserError} layers without experts */
function plainOf(raw: Raw, where: string): Raw {
  const own = parseWith(ownSchema, raw, where);
  const { mlp_only_layers: dense, decoder_sparse_step: step } = own;
  if (dense?.length)
    throw new UserError(
      `${where}: mlp_only_layers ${JSON.stringify(dense)} is not supported; expected [], experts in all layers`,
    );
  if (step !== 1)
    throw new UserError(`${where}: decoder_sparse_step ${step} is not supported; expected 1, experts in all layers`);
  return { ...raw, intermediate_size: own.moe_intermediate_size };
}

/** Qwen3-MoE (https://arxiv.org/abs/2505.09388): a Qwen3 with experts in the place of the MLP. */
export const qwen3Moe: Family = {
  type: "qwen3_moe",
  architecture: "Qwen3MoeForCausalLM",
  models: ["Qwen3-MoE"],
  read: (raw, where, generation) =>
    readDecoder(plainOf(raw, where), where, generation, {
      family: "qwen3_moe",
      defaults: { maxPositions: 32_768, kvHeads: 4, headDim: null, bos: null, eos: null },
      biases: attentionBiases,
      window: ({ sliding_window: window = 4096, use_sliding_window: isUsed, num_hidden_layers: layers }) =>
        isUsed ? windowEverywhere(window, layers) : NO_WINDOW,
      more: ({ intermediate_size: width }) => ({ qkNorm: "heads", experts: expertsOf(raw, where, 128, width) }),
    }),
  modules: EXPERT_MODULES,
  layers: (config) => expertLayers(config),
  gguf: expertFamilyGguf("qwen3moe", true),
};
