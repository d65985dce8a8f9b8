import { UserError } from "../../../base/errors.ts";
import type { Family } from "../family.ts";
import { LLAMA_GGUF, llamaLayers, MODULES_WITH_QUERIES } from "../llama/llama.ts";
import { attentionBiases, readDecoder } from "../reading/common.ts";
import { refuseBidirectional } from "./gemma2.ts";

/**
 * Gemma and CodeGemma (https://arxiv.org/abs/2403.08295): Llama's blocks with weights of norms that are offsets from 1, and scaled embeddings.
 * The published files call the activation "gelu" and mean the approximation by tanh.
 */
export const gemma: Family = {
  type: "gemma",
  architecture: "GemmaForCausalLM",
  models: ["Gemma", "CodeGemma"],
  read(raw, where, generation) {
    refuseBidirectional(raw, where);
    const { hidden_act: given = "gelu_pytorch_tanh" } = raw;
    const hiddenAct = given === "gelu" ? "gelu_pytorch_tanh" : given;
    const plain = { tie_word_embeddings: true, pad_token_id: 0, ...raw, hidden_act: hiddenAct };
    return readDecoder(plain, where, generation, {
      family: "gemma",
      defaults: { maxPositions: 8192, kvHeads: 16, headDim: 256, bos: 2, eos: 1 },
      biases: attentionBiases,
      more: ({ hidden_size: hidden }) => ({ normOffset: 1, embeddingScale: Math.sqrt(hidden), roundsEmbeddingScale: true }),
    });
  },
  modules: MODULES_WITH_QUERIES,
  layers: llamaLayers,
  gguf: {
    ...LLAMA_GGUF,
    architecture: "gemma",
    rotatesNeighbours: false,
    activation: "gelu_pytorch_tanh",
    scalings: [],
    keys: () => ({}),
    check({ attentionBias, tieWordEmbeddings }) {
      const refuse = (what: string) => new UserError(`llama.cpp's gemma models have ${what}`);
      if (attentionBias) throw refuse("no biases in attention");
      if (!tieWordEmbeddings) throw refuse("no head beside the embedding");
    },
  },
};
