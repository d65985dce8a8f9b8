import { isRecord } from "../../../base/json.ts";
import { attentionLayer, attentionOf, fusedAttention } from "../../blocks/attention.ts";
import { fusedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family, Raw } from "../family.ts";
import { LLAMA_MODULES } from "../llama/llama.ts";
import { noBiases, readDecoder, windowEverywhere } from "../reading/common.ts";
import { givenRotary } from "../reading/gguf.ts";

/** The defaults of Transformers. Early versions call LongRoPE "su" or "yarn". */
function withDefaults(raw: Raw): Raw {
  const renamed = (rope: unknown): unknown => {
    const type = isRecord(rope) ? (rope["rope_type"] ?? rope["type"]) : undefined;
    return isRecord(rope) && (type === "su" || type === "yarn") ? { ...rope, rope_type: "longrope" } : rope;
  };
  return {
    rms_norm_eps: 1e-5,
    sliding_window: null,
    original_max_position_embeddings: 4096,
    ...raw,
    rope_scaling: renamed(raw["rope_scaling"]),
    rope_parameters: renamed(raw["rope_parameters"]),
  };
}

/**
 * Phi-3, Phi-3.5 (https://arxiv.org/abs/2404.14219), Phi-4 and Phi-4-mini: queries, keys and values are one matrix, one after
 * another; gate and up are one too. Both stay one, as in the checkpoint, so that an adapter of each is one pair of matrices.
 */
export const phi3: Family = {
  type: "phi3",
  architecture: "Phi3ForCausalLM",
  models: ["Phi-3", "Phi-3.5", "Phi-4-mini"],
  read: (raw, where, generation) =>
    readDecoder(withDefaults(raw), where, generation, {
      family: "phi3",
      defaults: { maxPositions: 4096, kvHeads: null, headDim: null, bos: 1, eos: 32_000 },
      biases: noBiases,
      window: ({ sliding_window: size, num_hidden_layers: layers }) => windowEverywhere(size, layers),
      partialRotary: 1,
    }),
  modules: {
    ...LLAMA_MODULES,
    linear: ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    scaled: { outputs: ["qkv_proj"], inputs: ["down_proj"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      const names = { qkv: "self_attn.qkv_proj", output: "self_attn.o_proj", groups: 1 };
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => fusedAttention(parts, settings, x, names) },
          { norm: "post_attention_layernorm", add: (x) => fusedMlp(parts, x) },
        ),
      );
    }),
  gguf: {
    architecture: "phi3",
    modules: {
      input_layernorm: "attn_norm",
      post_attention_layernorm: "ffn_norm",
      "self_attn.qkv_proj": "attn_qkv",
      "self_attn.o_proj": "attn_output",
      // Gate and up, one after the other.
      "mlp.gate_up_proj": "ffn_up",
      "mlp.down_proj": "ffn_down",
    },
    rotatesNeighbours: false,
    activation: "silu",
    window: "named",
    scalings: ["longrope"],
    keys: (given) => ({ ...givenRotary(given), sliding_window: given.own("attention.sliding_window") || null }),
  },
};
