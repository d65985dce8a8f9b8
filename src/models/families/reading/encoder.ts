import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { parseWith, size } from "../../../base/schema.ts";
import type { ModelConfig } from "../../config.ts";
import type { Raw } from "../family.ts";
import { activationOf, checkQuantised, dtypeOf, headSize, NO_WINDOW, PLAIN } from "./common.ts";

const tokenId = z.int().nonnegative();

const encoderSchema = z.object({
  hidden_size: size.default(768),
  num_hidden_layers: size.default(12),
  num_attention_heads: size.default(12),
  intermediate_size: size.default(3072),
  vocab_size: size.default(30_522),
  hidden_act: z.string().default("gelu"),
  max_position_embeddings: size.default(512),
  type_vocab_size: z.int().nonnegative().default(2),
  layer_norm_eps: z.number().nonnegative().default(1e-12),
  position_embedding_type: z.string().nullish(),
  is_decoder: z.boolean().nullish(),
  add_cross_attention: z.boolean().nullish(),
  tie_word_embeddings: z.boolean().default(true),
  architectures: z.array(z.string()).nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  pad_token_id: z.int().nullish(),
  dtype: z.string().nullish(),
  torch_dtype: z.string().nullish(),
});

/** How a family of BERT's kind differs from the others. */
export interface EncoderRules {
  /** `Family.type`. */
  readonly family: string;
  readonly modulePrefix: ModelConfig["modulePrefix"];
  /** The classes whose checkpoints have the head that predicts masked tokens. */
  readonly predicting: readonly string[];
  /** Transformers' default where the file is silent. */
  readonly padId: number;
  /** True if the first position is the row behind that of padding (RoBERTa). */
  readonly positionsBehindPadding: boolean;
}

/**
 * Reads the configuration of an encoder whose keys are BERT's, or were given their names.
 * @param where names the file in errors
 * @throws {UserError} missing or wrong values, features that are not supported
 */
export function readEncoder(raw: Raw, where: string, rules: EncoderRules): ModelConfig {
  const config = parseWith(encoderSchema, raw, where);
  checkQuantised(raw, where);
  const { position_embedding_type: positions, is_decoder: isDecoder, add_cross_attention: crosses } = config;
  if (positions && positions !== "absolute") {
    throw new UserError(`${where}: position_embedding_type ${show(positions)} is not supported; expected "absolute"`);
  }
  if (isDecoder || crosses) {
    throw new UserError(`${where}: an encoder that is used as a decoder (is_decoder, add_cross_attention) is not supported`);
  }
  if (!config.tie_word_embeddings && rules.predicting.some((name) => config.architectures?.includes(name))) {
    throw new UserError(`${where}: an encoder with a head of its own (tie_word_embeddings false) is not supported`);
  }
  const padId = config.pad_token_id ?? rules.padId;
  const firstPosition = rules.positionsBehindPadding ? padId + 1 : 0;
  const maxPositions = config.max_position_embeddings - firstPosition;
  if (maxPositions < 1) {
    throw new UserError(
      `${where}: max_position_embeddings (${config.max_position_embeddings}) leaves no room behind that of padding (${padId})`,
    );
  }
  const hiddenAct = activationOf(config.hidden_act, where);
  if (hiddenAct === "silu")
    throw new UserError(`${where}: hidden_act ${show(config.hidden_act)} is not supported in an encoder; expected gelu`);
  const headDim = headSize(config.hidden_size, config.num_attention_heads, where);
  if (headDim % 2 !== 0) throw new UserError(`${where}: heads of ${headDim} features are not supported; expected an even number`);
  return {
    ...PLAIN,
    ...NO_WINDOW,
    family: rules.family,
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    kvHeads: config.num_attention_heads,
    headDim,
    rotaryDim: 0,
    intermediateSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    normEps: config.layer_norm_eps,
    norm: "layer",
    positionTable: { rows: config.max_position_embeddings, first: firstPosition },
    encoder: {
      typeRows: config.type_vocab_size,
      hasDecoderBody: false,
      predictsTokens: (config.architectures ?? rules.predicting).some((name) => rules.predicting.includes(name)),
    },
    hiddenAct,
    tieWordEmbeddings: config.tie_word_embeddings,
    maxPositions,
    rope: { theta: 10_000, scaling: { type: "default" } },
    windowRope: null,
    attentionScale: 1 / Math.sqrt(headDim),
    modulePrefix: rules.modulePrefix,
    attentionBias: true,
    attentionOutputBias: true,
    mlpBias: true,
    headBias: true,
    bosTokenId: config.bos_token_id ?? null,
    eosTokenIds: [config.eos_token_id ?? []].flat(),
    padTokenId: padId >= 0 ? padId : null,
    dtype: dtypeOf(config),
  };
}
