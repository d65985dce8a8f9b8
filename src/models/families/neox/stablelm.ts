import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { parallel, residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES } from "../llama/llama.ts";
import { readDecoder } from "../reading/common.ts";
import { givenRotary } from "../reading/gguf.ts";

const ownSchema = z.object({
  layer_norm_eps: z.number().nonnegative().default(1e-5),
  use_qkv_bias: z.boolean().default(false),
  use_parallel_residual: z.boolean().default(false),
  qk_layernorm: z.boolean().default(false),
});

/** StableLM 2 (https://arxiv.org/abs/2402.17834): a Llama with LayerNorm, in which a quarter of each head is rotated. */
export const stableLm: Family = {
  type: "stablelm",
  architecture: "StableLmForCausalLM",
  models: ["StableLM 2"],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    if (own.qk_layernorm) throw new UserError(`${where}: qk_layernorm true is not supported; expected false`);
    const plain = { ...raw, head_dim: undefined, rms_norm_eps: own.layer_norm_eps };
    return readDecoder(plain, where, generation, {
      family: "stablelm",
      defaults: { maxPositions: 4096, kvHeads: 32, headDim: null, bos: 0, eos: 0 },
      biases: () => ({ attentionBias: own.use_qkv_bias, attentionOutputBias: false, mlpBias: false }),
      partialRotary: 0.25,
      more: () => ({ norm: "layer", parallelBranches: own.use_parallel_residual }),
    });
  },
  modules: { ...LLAMA_MODULES, scaled: { outputs: ["k_proj", "v_proj"], inputs: ["down_proj"] } },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) => {
        const attend = (x: string) => selfAttention(parts, settings, x);
        const mlp = (x: string) => gatedMlp(parts, x);
        if (config.parallelBranches) return parallel(parts, "input_layernorm", attend, mlp);
        return residual(parts, { norm: "input_layernorm", add: attend }, { norm: "post_attention_layernorm", add: mlp });
      });
    }),
  gguf: {
    ...LLAMA_GGUF,
    architecture: "stablelm",
    rotatesNeighbours: false,
    scalings: [],
    keys: (given) => ({
      ...givenRotary(given),
      layer_norm_eps: given.epsilon,
      use_qkv_bias: given.hasTensor("blk.0.attn_q.bias"),
      // One norm is in front of both branches, side by side, where there is no second one.
      use_parallel_residual: !given.hasTensor("blk.0.ffn_norm.weight"),
      qk_layernorm: given.hasTensor("blk.0.attn_q_norm.weight"),
    }),
    check({ parallelBranches }) {
      if (parallelBranches)
        throw new UserError("GGUF's stablelm models are written with one branch behind the other, not side by side");
    },
  },
};
