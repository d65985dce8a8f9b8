import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, fusedAttention } from "../../blocks/attention.ts";
import { plainMlp } from "../../blocks/mlp.ts";
import { parallel, residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { ofGroups, type Order } from "../orders.ts";
import { readDecoder } from "../reading/common.ts";

const ownSchema = z.object({
  layer_norm_eps: z.number().nonnegative().default(1e-5),
  rotary_pct: z.number().default(0.25),
  rotary_emb_base: z.number().positive().default(10_000),
  use_parallel_residual: z.boolean().default(true),
  attention_bias: z.boolean().default(true),
});

const MLP = { up: "mlp.dense_h_to_4h", down: "mlp.dense_4h_to_h" };

/** Queries of all heads, then keys, then values; the model has all three of a head one behind the other. */
const separated =
  (headDim: number): Order =>
  (count) =>
    [0, 1, 2].flatMap((part) => ofGroups(3 * headDim, part * headDim, headDim)(count));

/**
 * GPT-NeoX (https://arxiv.org/abs/2204.06745) and Pythia: attention and MLP side by side, each behind a LayerNorm of its own; queries, keys and
 * values are one matrix, head by head, and a quarter of each head is rotated.
 */
export const gptNeox: Family = {
  type: "gpt_neox",
  architecture: "GPTNeoXForCausalLM",
  models: ["GPT-NeoX (Pythia included)"],
  renamed: [["embed_out.", "lm_head."]],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    const plain = {
      hidden_act: "gelu",
      ...raw,
      num_key_value_heads: undefined,
      head_dim: undefined,
      rms_norm_eps: own.layer_norm_eps,
      rope_theta: own.rotary_emb_base,
      partial_rotary_factor: own.rotary_pct,
    };
    return readDecoder(plain, where, generation, {
      family: "gpt_neox",
      defaults: { maxPositions: 2048, kvHeads: null, headDim: null, bos: 0, eos: 2 },
      biases: () => ({ attentionBias: own.attention_bias, attentionOutputBias: own.attention_bias, mlpBias: true }),
      partialRotary: 1,
      keys: { partial_rotary_factor: "rotary_pct" },
      more: () => ({ norm: "layer", modulePrefix: "gpt_neox.", parallelBranches: own.use_parallel_residual }),
    });
  },
  modules: {
    embedding: "embed_in",
    norm: "final_layer_norm",
    head: "lm_head",
    linear: ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    scaled: { outputs: ["query_key_value"], inputs: ["dense_4h_to_h"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) => {
        const names = { qkv: "attention.query_key_value", output: "attention.dense", groups: config.heads };
        const attend = (x: string) => fusedAttention(parts, settings, x, names);
        const mlp = (x: string) => plainMlp(parts, x, MLP);
        const norms = ["input_layernorm", "post_attention_layernorm"] as const;
        if (config.parallelBranches) return parallel(parts, norms, attend, mlp);
        return residual(parts, { norm: norms[0], add: attend }, { norm: norms[1], add: mlp });
      });
    }),
  gguf: {
    architecture: "gptneox",
    modules: {
      input_layernorm: "attn_norm",
      post_attention_layernorm: "ffn_norm",
      "attention.query_key_value": { name: "attn_qkv", rows: ({ headDim }) => separated(headDim) },
      "attention.dense": "attn_output",
      "mlp.dense_h_to_4h": "ffn_up",
      "mlp.dense_4h_to_h": "ffn_down",
    },
    hasOwnHead: true,
    rotatesNeighbours: false,
    activation: "gelu_pytorch_tanh",
    approximatesGelu: true,
    window: "unknown",
    scalings: [],
    keys: ({ epsilon, own, flag, rotaryDim, headDim }) => ({
      layer_norm_eps: epsilon,
      hidden_act: "gelu",
      rotary_pct: rotaryDim / headDim,
      rotary_emb_base: own("rope.freq_base") ?? 10_000,
      use_parallel_residual: flag("use_parallel_residual") ?? true,
    }),
    settings: ({ parallelBranches }) => ({ use_parallel_residual: { bool: parallelBranches } }),
    check({ attentionBias }) {
      if (!attentionBias) throw new UserError("llama.cpp's gptneox models have biases in attention, and this one has none");
    },
  },
};
