import { UserError } from "../../../base/errors.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { plainMlp } from "../../blocks/mlp.ts";
import { residual } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES, refuseOtherHeads } from "../llama/llama.ts";
import { layerBiases, readDecoder } from "../reading/common.ts";
import { givenBiases, givenRotary } from "../reading/gguf.ts";

const { "mlp.gate_proj": _, ...GGUF_MODULES } = LLAMA_GGUF.modules;

/**
 * Nemotron 4 and Minitron (https://arxiv.org/abs/2402.16819): LayerNorm whose weights are offsets from 1, an MLP without a gate whose activation is
 * the square of ReLU, half of each head rotated.
 */
export const nemotron: Family = {
  type: "nemotron",
  architecture: "NemotronForCausalLM",
  models: ["Nemotron 4 (Minitron included)"],
  read: (raw, where, generation) =>
    readDecoder({ hidden_act: "relu2", ...raw, rms_norm_eps: raw["norm_eps"] ?? 1e-5 }, where, generation, {
      family: "nemotron",
      defaults: { maxPositions: 4096, kvHeads: null, headDim: null, bos: 2, eos: 3 },
      biases: layerBiases,
      partialRotary: 0.5,
      keys: { rms_norm_eps: "norm_eps" },
      more: () => ({ norm: "layer", normOffset: 1 }),
    }),
  modules: {
    ...LLAMA_MODULES,
    linear: ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
  },
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        residual(
          parts,
          { norm: "input_layernorm", add: (x) => selfAttention(parts, settings, x) },
          {
            norm: "post_attention_layernorm",
            add: (x) => plainMlp(parts, x, { up: "mlp.up_proj", down: "mlp.down_proj" }),
          },
        ),
      );
    }),
  gguf: {
    ...LLAMA_GGUF,
    architecture: "nemotron",
    modules: GGUF_MODULES,
    rotatesNeighbours: false,
    activation: "relu2",
    scalings: [],
    keys: (given) => ({ ...givenBiases(given), ...givenRotary(given), norm_eps: given.epsilon }),
    check(config) {
      refuseOtherHeads("nemotron")(config);
      const { scaling } = config.rope;
      if (scaling.type !== "default") throw new UserError("llama.cpp's nemotron models have no rotary scaling");
    },
  },
};
