import { UserError } from "../../../base/errors.ts";
import { attentionLayer, attentionOf, fusedAttention } from "../../blocks/attention.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { ModelConfig } from "../../config.ts";
import type { Family } from "../family.ts";
import { neighbours, ofGroups, type Order } from "../orders.ts";
import { attentionBiases, readDecoder } from "../reading/common.ts";

/** The rows of the one matrix that are queries, keys or values. */
function rowsOf({ heads, kvHeads, headDim }: ModelConfig, part: "q" | "k" | "v"): Order {
  const perKey = heads / kvHeads;
  const first = part === "q" ? 0 : part === "k" ? perKey : perKey + 1;
  return ofGroups((perKey + 2) * headDim, first * headDim, (part === "q" ? perKey : 1) * headDim);
}

/**
 * InternLM2 and 2.5 (https://arxiv.org/abs/2403.17297): one matrix holds for each key head its query heads, then the key and the
 * value. One `bias`, on by default, is for both matrices of attention.
 */
export const internlm2: Family = {
  type: "internlm2",
  architecture: "InternLM2ForCausalLM",
  classifier: null,
  models: ["InternLM2", "InternLM2.5"],
  read: (raw, where, generation) =>
    readDecoder({ ...raw, attention_bias: raw["bias"] ?? true }, where, generation, {
      family: "internlm2",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 1, eos: 2 },
      biases: attentionBiases,
    }),
  modules: {
    embedding: "tok_embeddings",
    head: "output",
    linear: ["wqkv", "wo", "w1", "w3", "w2"],
    scaled: { outputs: ["wqkv"], inputs: ["w2"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      const names = { qkv: "attention.wqkv", output: "attention.wo", groups: config.kvHeads };
      const mlp = { gate: "feed_forward.w1", up: "feed_forward.w3", down: "feed_forward.w2" };
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "attention_norm", add: (x) => fusedAttention(parts, settings, x, names) },
          { norm: "ffn_norm", add: (x) => gatedMlp(parts, x, mlp) },
        ),
      );
    }),
  gguf: {
    architecture: "internlm2",
    modules: {
      attention_norm: "attn_norm",
      ffn_norm: "ffn_norm",
      "attention.wqkv": [
        { name: "attn_q", rows: (config) => (count) => neighbours(rowsOf(config, "q")(count), config.heads) },
        { name: "attn_k", rows: (config) => (count) => neighbours(rowsOf(config, "k")(count), config.kvHeads) },
        { name: "attn_v", rows: (config) => rowsOf(config, "v") },
      ],
      "attention.wo": "attn_output",
      "feed_forward.w1": "ffn_gate",
      "feed_forward.w3": "ffn_up",
      "feed_forward.w2": "ffn_down",
    },
    rotatesNeighbours: true,
    activation: "silu",
    window: "unknown",
    scalings: [],
    keys: () => ({ bias: false }),
    check({ attentionBias }) {
      if (attentionBias) throw new UserError("llama.cpp's internlm2 models have no biases in attention");
    },
  },
};
