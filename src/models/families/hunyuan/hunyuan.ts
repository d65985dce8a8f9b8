import { isRecord } from "../../../base/json.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family, Raw } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, refuseBiases } from "../llama/llama.ts";
import { attentionBiases, readDecoder } from "../reading/common.ts";

const NAMES = {
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.o_proj",
  queryNorm: "self_attn.query_layernorm",
  keyNorm: "self_attn.key_layernorm",
};

/** "dynamic" with an `alpha` is another base for texts of every length: theta alpha^(d / (d - 2)), d features of a head. */
function withPlainRope(raw: Raw): Raw {
  const key = isRecord(raw["rope_scaling"]) ? "rope_scaling" : "rope_parameters";
  const rope = raw[key];
  if (!isRecord(rope) || (rope["rope_type"] ?? rope["type"]) !== "dynamic" || !rope["alpha"]) return raw;
  const { head_dim: given, hidden_size: hidden, num_attention_heads: heads } = raw;
  const dim = Number(given ?? Number(hidden) / Number(heads));
  const theta = Number(rope["rope_theta"] ?? raw["rope_theta"] ?? 10_000);
  return { ...raw, [key]: { rope_type: "default", rope_theta: theta * Number(rope["alpha"]) ** (dim / (dim - 2)) } };
}

/** Hunyuan, dense (Tencent 2025, https://github.com/Tencent-Hunyuan): a Llama whose query and key heads are normed after they are rotated. */
export const hunyuan: Family = {
  type: "hunyuan_v1_dense",
  architecture: "HunYuanDenseV1ForCausalLM",
  models: ["Hunyuan (dense)"],
  read: (raw, where, generation) =>
    readDecoder(withPlainRope({ rms_norm_eps: 1e-5, pad_token_id: 0, ...raw }), where, generation, {
      family: "hunyuan_v1_dense",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
      biases: attentionBiases,
      more: () => ({ qkNorm: "rotated-heads" }),
    }),
  modules: LLAMA_MODULES,
  layers: (config: ModelConfig) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x, NAMES) },
          { norm: "post_attention_layernorm", add: (x) => gatedMlp(parts, x) },
        ),
      );
    }),
  gguf: {
    ...LLAMA_GGUF,
    architecture: "hunyuan-dense",
    modules: {
      ...LLAMA_GGUF.modules,
      [NAMES.queryNorm]: "attn_q_norm",
      [NAMES.keyNorm]: "attn_k_norm",
    },
    rotatesNeighbours: false,
    scalings: [],
    keys: () => ({}),
    check: refuseBiases("hunyuan-dense"),
  },
};
