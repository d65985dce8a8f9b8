import { z } from "zod";
import { parseWith } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { plainMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES } from "../llama/llama.ts";
import { readDecoder, windowEverywhere } from "../reading/common.ts";

const ownSchema = z.object({ norm_epsilon: z.number().nonnegative().default(1e-5), use_bias: z.boolean().default(true) });

const { "mlp.gate_proj": _, "mlp.up_proj": __, "mlp.down_proj": ___, ...GGUF_MODULES } = LLAMA_GGUF.modules;

/** StarCoder2 (https://arxiv.org/abs/2402.19173): LayerNorm, an MLP without a gate, biases everywhere, and a window in all layers. */
export const starcoder2: Family = {
  type: "starcoder2",
  architecture: "Starcoder2ForCausalLM",
  models: ["StarCoder2"],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    const plain = { hidden_act: "gelu_pytorch_tanh", tie_word_embeddings: true, ...raw, rms_norm_eps: own.norm_epsilon };
    return readDecoder(plain, where, generation, {
      family: "starcoder2",
      defaults: { maxPositions: 4096, kvHeads: 2, headDim: null, bos: 50_256, eos: 50_256 },
      biases: () => ({ attentionBias: own.use_bias, attentionOutputBias: own.use_bias, mlpBias: own.use_bias }),
      window: ({ sliding_window: size, num_hidden_layers: layers }) => windowEverywhere(size, layers),
      more: () => ({ norm: "layer" }),
    });
  },
  modules: {
    ...LLAMA_MODULES,
    linear: ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"],
    scaled: { outputs: ["k_proj", "v_proj"], inputs: ["c_proj"] },
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x) },
          { norm: "post_attention_layernorm", add: (x) => plainMlp(parts, x, { up: "mlp.c_fc", down: "mlp.c_proj" }) },
        ),
      );
    }),
  gguf: {
    ...LLAMA_GGUF,
    architecture: "starcoder2",
    modules: { ...GGUF_MODULES, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down" },
    rotatesNeighbours: false,
    activation: "gelu_pytorch_tanh",
    scalings: [],
    keys: ({ epsilon, hasTensor }) => ({ norm_epsilon: epsilon, use_bias: hasTensor("blk.0.attn_q.bias") }),
  },
};
