import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { parseWith, positive } from "../../../base/schema.ts";
import { attentionLayer, attentionOf, selfAttention } from "../../blocks/attention.ts";
import { gatedMlp } from "../../blocks/mlp.ts";
import { parallel } from "../../blocks/residual.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, LLAMA_MODULES } from "../llama/llama.ts";
import { attentionBiases, type CommonConfig, readDecoder, typesByPeriod, windowByTypes } from "../reading/common.ts";

const ownSchema = z.object({
  logit_scale: positive.default(0.0625),
  layer_norm_eps: z.number().nonnegative().default(1e-5),
  sliding_window_pattern: z.int().positive().default(4),
});

const { post_attention_layernorm: _, ...GGUF_MODULES } = LLAMA_GGUF.modules;

/**
 * Cohere 2, Command R7B and Command A (https://arxiv.org/abs/2504.00698): attention and MLP take the same input, behind one LayerNorm without
 * a bias; three of four layers have a window and rotary positions of neighbouring features, the fourth has neither.
 */
export const cohere2: Family = {
  type: "cohere2",
  architecture: "Cohere2ForCausalLM",
  classifier: null,
  models: ["Command R7B (Cohere 2)"],
  read(raw, where, generation) {
    const own = parseWith(ownSchema, raw, where);
    const plain = {
      tie_word_embeddings: true,
      pad_token_id: 0,
      sliding_window: 4096,
      ...raw,
      head_dim: null,
      rms_norm_eps: own.layer_norm_eps,
    };
    const windowOf = (config: CommonConfig) => {
      const { layer_types: given, num_hidden_layers: layers } = config;
      return windowByTypes(given ?? typesByPeriod(layers, own.sliding_window_pattern), config, where);
    };
    return readDecoder(plain, where, generation, {
      family: "cohere2",
      defaults: { maxPositions: 8192, kvHeads: null, headDim: null, bos: 5, eos: 255_001 },
      biases: attentionBiases,
      window: windowOf,
      more(config) {
        const { windowLayers } = windowOf(config);
        const rotaryLayers = Array.from({ length: config.num_hidden_layers }, (_, layer) => windowLayers[layer] ?? false);
        return { norm: "layer-without-bias", rotatesNeighbours: true, rotaryLayers, logitScale: own.logit_scale };
      },
    });
  },
  modules: LLAMA_MODULES,
  layers: (config) =>
    Array.from({ length: config.layers }, (_, layer) => {
      const settings = attentionOf(config, layer);
      return attentionLayer(settings, (parts) =>
        parallel(
          parts,
          "input_layernorm",
          (x) => selfAttention(parts, settings, x),
          (x) => gatedMlp(parts, x),
        ),
      );
    }),
  gguf: {
    ...LLAMA_GGUF,
    architecture: "cohere2",
    modules: GGUF_MODULES,
    window: "applied",
    scalings: [],
    keys: ({ epsilon, need }) => ({
      layer_norm_eps: epsilon,
      logit_scale: need("logit_scale"),
      sliding_window: need("attention.sliding_window"),
      sliding_window_pattern: 4,
    }),
    settings: ({ logitScale }) => ({ logit_scale: { f32: logitScale } }),
    check({ layers, windowLayers, attentionBias, tieWordEmbeddings }) {
      const refuse = (what: string) => new UserError(`llama.cpp's cohere2 models have ${what}`);
      const hasWindow = Array.from({ length: layers }, (_, layer) => windowLayers[layer] ?? false);
      const odd = hasWindow.findIndex((has, i) => has !== ((i + 1) % 4 !== 0));
      if (odd >= 0) throw refuse(`a sliding window in all but every fourth layer, and this one differs in layer ${odd + 1}`);
      if (attentionBias) throw refuse("no biases in attention");
      if (!tieWordEmbeddings) throw refuse("no head of their own");
    },
  },
};
