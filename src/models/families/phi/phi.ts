import { UserError } from "../../../base/errors.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { plainMlp } from "../../blocks/mlp.ts";
import { parallel } from "../../blocks/residual.ts";
import type { Family, Raw } from "../family.ts";
import { readDecoder } from "../reading/common.ts";
import { givenRotary } from "../reading/gguf.ts";

const ATTENTION = {
  query: "self_attn.q_proj",
  key: "self_attn.k_proj",
  value: "self_attn.v_proj",
  output: "self_attn.dense",
};

/** Transformers' defaults, and the other families' names of its keys. @throws {UserError} normed queries and keys */
function plainOf(raw: Raw, where: string): Raw {
  if (raw["qk_layernorm"] === true) throw new UserError(`${where}: qk_layernorm true is not supported; expected false`);
  return { hidden_act: "gelu_new", ...raw, rms_norm_eps: raw["layer_norm_eps"] ?? 1e-5 };
}

/**
 * Phi-1, Phi-1.5 (https://arxiv.org/abs/2309.05463) and Phi-2: attention and MLP take the same input, behind one LayerNorm; half of each
 * head is rotated, and there are biases everywhere, on the logits too.
 */
export const phi: Family = {
  type: "phi",
  architecture: "PhiForCausalLM",
  models: ["Phi-1.5", "Phi-2"],
  read: (raw, where, generation) =>
    readDecoder(plainOf(raw, where), where, generation, {
      family: "phi",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
      biases: () => ({ attentionBias: true, attentionOutputBias: true, mlpBias: true }),
      partialRotary: 0.5,
      keys: { rms_norm_eps: "layer_norm_eps" },
      more: () => ({ norm: "layer", headBias: true }),
    }),
  modules: {
    embedding: "embed_tokens",
    norm: "final_layernorm",
    head: "lm_head",
    linear: ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
    scaled: { outputs: ["q_proj", "v_proj"], inputs: ["fc2"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        parallel(
          parts,
          "input_layernorm",
          (x) => selfAttention(parts, settings, x, ATTENTION),
          (x) => plainMlp(parts, x, { up: "mlp.fc1", down: "mlp.fc2" }),
        ),
      );
    }),
  gguf: {
    architecture: "phi2",
    modules: {
      input_layernorm: "attn_norm",
      "self_attn.q_proj": "attn_q",
      "self_attn.k_proj": "attn_k",
      "self_attn.v_proj": "attn_v",
      "self_attn.dense": "attn_output",
      "mlp.fc1": "ffn_up",
      "mlp.fc2": "ffn_down",
    },
    rotatesNeighbours: false,
    activation: "gelu_pytorch_tanh",
    window: "unknown",
    scalings: [],
    keys: (given) => ({ ...givenRotary(given), layer_norm_eps: given.epsilon }),
  },
};
