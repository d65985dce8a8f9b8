import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import type { Family, Raw } from "../family.ts";
import { readDecoder } from "../reading/common.ts";
import { EXPERT_MODULES, expertFamilyGguf, expertLayers, expertsOf } from "../llama/experts.ts";
import { refuseOtherHeads } from "../llama/llama.ts";
import { OLMO_DEFAULTS, olmoRules } from "./olmo2.ts";

/** @throws {UserError} queries, keys and values within limits */
function checkUnclipped({ clip_qkv: clip }: Raw, where: string): void {
  if (clip !== undefined && clip !== null)
    throw new UserError(`${where}: clip_qkv ${show(clip)} is not supported; expected null`);
}

const OLMOE_GGUF = expertFamilyGguf("olmoe", false);

/** OLMoE (https://arxiv.org/abs/2409.02060): a Llama with norms of queries and keys, of all their heads together, and experts. */
export const olmoe: Family = {
  type: "olmoe",
  architecture: "OlmoeForCausalLM",
  classifier: null,
  models: ["OLMoE"],
  read(raw, where, generation) {
    checkUnclipped(raw, where);
    const rules = olmoRules("olmoe");
    return readDecoder({ ...OLMO_DEFAULTS, ...raw }, where, generation, {
      ...rules,
      defaults: { ...rules.defaults, maxPositions: 4096 },
      more: ({ intermediate_size: width }) => ({ qkNorm: "row", experts: expertsOf(raw, where, 64, width) }),
    });
  },
  modules: EXPERT_MODULES,
  layers: (config) => expertLayers(config),
  gguf: {
    ...OLMOE_GGUF,
    hasOwnHead: true,
    check(config) {
      OLMOE_GGUF.check!(config);
      refuseOtherHeads("olmoe")(config);
      if (config.kvHeads !== config.heads)
        throw new UserError(`llama.cpp's olmoe models have as many key heads as heads, ${config.heads}, not ${config.kvHeads}`);
    },
  },
};
