import type { FloatType } from "../base/dtype.ts";
import type { RopeConfig } from "./rope.ts";

export type HiddenAct = "silu" | "gelu" | "gelu_pytorch_tanh" | "relu" | "relu2" | "quick_gelu";

/** A kind of norm of rows: RMSNorm, or LayerNorm with or without a bias. */
export type NormKind = "rms" | "layer" | "layer-without-bias";

/** The parts of queries and keys that RMSNorm norms: each head, before or after it is rotated, or all heads as one row. */
export type QkNorm = "heads" | "rotated-heads" | "row";

/** A table of learned positions. */
export interface PositionTable {
  readonly rows: number;
  /** The row of a text's first token. */
  readonly first: number;
}

/** Describes what a model has whose tokens attend to both sides. */
export interface EncoderConfig {
  /** Rows of the table of types, which tells two texts of an example apart; 0: there is none. */
  readonly typeRows: number;
  /** True if there is a head that predicts masked tokens. */
  readonly predictsTokens: boolean;
  /** True if its modules are those of a decoder, whose tokens attend to both sides all the same (EmbeddingGemma). */
  readonly hasDecoderBody: boolean;
}

export interface ConvolutionConfig {
  /** Tokens that a token's result is made of, itself included. */
  readonly width: number;
  /** Biases on the convolution and on the projections around it. */
  readonly bias: boolean;
  /** Layer by layer. */
  readonly layers: readonly boolean[];
}

/** Describes layers that keep a state of the text in place of attending: the gated delta rule behind a convolution (see `GatedDelta`). */
export interface DeltaConfig {
  readonly keyHeads: number;
  /** Heads of values, each with a state [keyDim, valueDim]; a multiple of `keyHeads`. */
  readonly heads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** Tokens that the convolution of queries, keys and values spans. */
  readonly width: number;
  /** True if one matrix gives queries, keys, values and gates, key head by key head, and another one the two numbers of each head (Qwen3-Next). */
  readonly fused: boolean;
  /** Layer by layer. */
  readonly layers: readonly boolean[];
}

/** Describes the experts in the place of blocks' MLP. */
export interface ExpertsConfig {
  readonly count: number;
  /** Features in the middle of an expert. */
  readonly width: number;
  /** Experts that a token goes to. */
  readonly perToken: number;
  /** What the scores of experts are of the router's logits: a softmax over all experts, or the sigmoid of each. */
  readonly score: "softmax" | "sigmoid";
  /** True if the weights of a token's experts add up to 1; else they are their scores. */
  readonly normalised: boolean;
  /** True if the router chooses by scores with biases, which are no part of the weights and are not trained. */
  readonly choiceBias: boolean;
  /** Factor of the weights. */
  readonly scale: number;
  /** Gates and ups within limits (see `ExpertMlp`); null: experts are gated MLPs with SiLU, or with the model's GELU in its tanh form. */
  readonly limits: { readonly alpha: number; readonly limit: number } | null;
  /** Biases on the router's logits and on the experts' layers; only with limits. */
  readonly bias: boolean;
  /** Width of one more expert, which takes every token, times the sigmoid of a gate of its own (Qwen3-Next); null: there is none. */
  readonly sharedWidth: number | null;
  /** Layer by layer; the others have the MLP. */
  readonly layers: readonly boolean[];
}

/** The heads of attention in some layers. */
export interface HeadShape {
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Describes the last blocks of a model, which attend to keys and values of earlier ones (Gemma 4): of the last block before them with a window, or without, as they have. */
export interface SharedKeysConfig {
  /** Blocks that have no keys and values of their own, the last ones. */
  readonly layers: number;
  /** True if their MLPs are twice as wide as those of the others. */
  readonly hasWideMlp: boolean;
}

/** Describes what each block is told of each token besides (Gemma 4): a vector of a table, plus one that is made of the token's embedding. */
export interface LayerInputsConfig {
  /** Features of a token's vector for one block. */
  readonly size: number;
  /** Rows of the table, each of which has the vectors of all blocks side by side. */
  readonly rows: number;
}

/** Describes what the model builder needs of `config.json` (and of `generation_config.json`: the ids that end a text). */
export interface ModelConfig {
  /** Row of the table of families (`families/index.ts`): the model type in `config.json`. */
  readonly family: string;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** How many features of each head are rotated, the first ones: all but in a Phi-4-mini, none in an encoder with a table of positions. */
  readonly rotaryDim: number;
  /** True if neighbouring features are rotated with each other, not feature i with i + rotaryDim / 2. */
  readonly rotatesNeighbours: boolean;
  readonly intermediateSize: number;
  readonly vocabSize: number;
  readonly normEps: number;
  readonly norm: NormKind;
  /** The table whose rows are added to the embeddings; null: there is none, and positions are rotary. */
  readonly positionTable: PositionTable | null;
  /** Null: a decoder, which predicts next tokens. */
  readonly encoder: EncoderConfig | null;
  readonly hiddenAct: HiddenAct;
  readonly tieWordEmbeddings: boolean;
  /** The longest context, in tokens, that the model was made for (before `rope.scaling`). */
  readonly maxPositions: number;
  readonly rope: RopeConfig;
  /** Layers whose queries and keys are rotated; empty: all. */
  readonly rotaryLayers: readonly boolean[];
  /** Tokens that a token sees, itself included, in the layers that `windowLayers` marks; null: no layer has a window. */
  readonly slidingWindow: number | null;
  /** Layer by layer; empty without a window. */
  readonly windowLayers: readonly boolean[];
  /** Rotary positions of the layers with a window, where they have their own (Gemma 3); null: `rope`. */
  readonly windowRope: RopeConfig | null;
  /** Heads of the layers without a window, where those have others (Gemma 4), each rotated as a whole; null: all layers have the same. */
  readonly fullHeads: HeadShape | null;
  /** True if layers without a window have no values but their keys (Gemma 4's larger models). */
  readonly keysAreValues: boolean;
  /** Null: each block has keys and values of its own. */
  readonly sharedKeys: SharedKeysConfig | null;
  /** Null: blocks take the boundary alone. */
  readonly layerInputs: LayerInputsConfig | null;
  /** Rotary positions of queries where they are not those of keys (Ministral 3, whose queries grow along the text); null: `rope`. */
  readonly queryRope: RopeConfig | null;
  /** Factor of the attention scores: 1 / sqrt(headDim), or what Gemma's `query_pre_attn_scalar` or Granite's `attention_multiplier` gives. */
  readonly attentionScale: number;
  /** Attention scores s, or logits, become cap * tanh(s / cap) (Gemma 2); null: they stay. */
  readonly attentionSoftCap: number | null;
  readonly logitSoftCap: number | null;
  /** The number that is added to the weights of RMSNorm: 1 for Gemma, whose weights are offsets from it. */
  readonly normOffset: 0 | 1;
  /** Factor of the embeddings, not rounded: sqrt(hiddenSize) for Gemma, Granite's `embedding_multiplier`, 1 for all others. */
  readonly embeddingScale: number;
  /** True if that factor is rounded to the dtype of the weights (Gemma). */
  readonly roundsEmbeddingScale: boolean;
  /** Factor of what attention and MLP give before it is added to their input: Granite's `residual_multiplier`, 1 for all others. */
  readonly residualScale: number;
  /** Factor of the logits: 1 / Granite's `logits_scaling`, 1 for all others. */
  readonly logitScale: number;
  /** The begin of the names of all modules but the head: a Gemma 3 with images holds its text part apart. */
  readonly modulePrefix:
    "model." | "model.language_model." | "model.decoder." | "transformer." | "gpt_neox." | "bert." | "roberta." | "distilbert.";
  /** Biases on the query, key and value projections. */
  readonly attentionBias: boolean;
  /** A bias on the attention output projection. */
  readonly attentionOutputBias: boolean;
  readonly mlpBias: boolean;
  /** True if the matrices of the blocks' linear layers are stored [in, out] (GPT-2's `Conv1D`); low-rank adapters alone are theirs. */
  readonly storedTransposed: boolean;
  /** A bias on the logits. */
  readonly headBias: boolean;
  /** True if attention and MLP both take the block's input (GPT-NeoX), where a family leaves that to the file. */
  readonly parallelBranches: boolean;
  /** The norm of queries and keys; null: there is none. */
  readonly qkNorm: QkNorm | null;
  /** Layers that convolve in place of attending (LFM2); null: none do. */
  readonly convolution: ConvolutionConfig | null;
  /** Layers with a state in place of attention (Qwen3.5); null: none have. */
  readonly delta: DeltaConfig | null;
  /** True if each head has a sink (see `Attention`), as those of gpt-oss have. */
  readonly attentionSinks: boolean;
  /** True if queries come with as many gates, whose sigmoid is a factor of the result of attention (Qwen3.5). */
  readonly attentionGate: boolean;
  /** Experts of blocks, in the place of one MLP (Qwen3-MoE, OLMoE, LFM2-MoE), or beside it (Gemma 4); null: there are none. */
  readonly experts: ExpertsConfig | null;
  readonly bosTokenId: number | null;
  /** All ids that end a text, the model's own first. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** The dtype that the checkpoint is meant to be in. */
  readonly dtype: FloatType;
  /** The head that judges whole texts, in the place of the one that predicts tokens; null: the model predicts tokens. */
  readonly textHead: TextHead | null;
}

/** How an embedding is made of the hidden states of a text's tokens: their mean, the first, or the last one. */
export const POOLINGS = ["mean", "cls", "last"] as const;
export type Pooling = (typeof POOLINGS)[number];

/** A linear layer between the pooled hidden states and the embedding, as sentence-transformers' `Dense`: f(x W^T + b). */
export interface DenseLayer {
  /** Its folder, which its parameters' names begin with. */
  readonly module: string;
  readonly inputs: number;
  readonly outputs: number;
  readonly bias: boolean;
  readonly activation: "identity" | "tanh";
}

/** Describes a head that gives numbers for a text: logits of classes, or a score. */
export interface TextHead {
  /** Numbers that a text gets. */
  readonly outputs: number;
  /** The tokens whose logits of the model's own head are the numbers; absent: a last layer of its own makes them. */
  readonly options?: readonly number[];
  /** The numbers are the text's embedding; absent: a last layer makes them of one token. */
  readonly pooling?: Pooling;
  /** Layers behind the pooling. */
  readonly dense?: readonly DenseLayer[];
  /** The id of padding, with which no text ends: the last token of a text is its last other one. Null: the last one, whatever it is. */
  readonly padId: number | null;
}
