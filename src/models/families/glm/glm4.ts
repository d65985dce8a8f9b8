import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { fusedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { readDecoder } from "../reading/common.ts";
import { GLM_GGUF, GLM_MODULES, glmRules, withGlmDefaults } from "./glm.ts";

/** GLM-4-0414 and GLM-Z1 (Z.ai 2025, https://github.com/zai-org/GLM-4): a GLM with norms behind the branches too. */
export const glm4: Family = {
  type: "glm4",
  architecture: "Glm4ForCausalLM",
  models: ["GLM-4 (0414)"],
  read: (raw, where, generation) => readDecoder(withGlmDefaults(raw), where, generation, glmRules("glm4")),
  modules: GLM_MODULES,
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x), after: "post_self_attn_layernorm" },
          { norm: "post_attention_layernorm", add: (x) => fusedMlp(parts, x), after: "post_mlp_layernorm" },
        ),
      );
    }),
  gguf: {
    ...GLM_GGUF,
    architecture: "glm4",
    modules: {
      ...GLM_GGUF.modules,
      post_self_attn_layernorm: "post_attention_norm",
      post_mlp_layernorm: "post_ffw_norm",
    },
  },
};
