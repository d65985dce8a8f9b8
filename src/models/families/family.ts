import type { UserError } from "../../base/errors.ts";
import type { ExpertNames } from "../blocks/experts.ts";
import type { Layer } from "../blocks/layer.ts";
import type { HiddenAct, ModelConfig } from "../config.ts";
import type { Order } from "./orders.ts";

/** A JSON object as it was read. */
export type Raw = Readonly<Record<string, unknown>>;

/** All that Remat knows of a model family. A family is one file here and one row of the table in `index.ts`. */
export interface Family {
  /** `model_type` in `config.json`. */
  readonly type: string;
  /** The class in `architectures` that predicts tokens: the next ones, or, in an encoder, masked ones. */
  readonly architecture: string;
  /** The class that judges whole texts; by default `...ForSequenceClassification` for `...ForCausalLM`; null: it is not supported. */
  readonly classifier?: string | null;
  /** The class without a head that embedding models are saved as; by default `...Model` for `...ForCausalLM` and `...ForMaskedLM`. */
  readonly bare?: string;
  /** Other classes that versions of Transformers save its models as. */
  readonly aliases?: readonly string[];
  /** Names of its models, as the README and messages list them. */
  readonly models: readonly string[];
  /**
   * Reads `config.json`, with the defaults of Transformers where the file is silent.
   * @param where names the file in errors
   * @param generation `generation_config.json`, or an empty object
   * @throws {UserError} missing or wrong values, features that are not supported
   */
  read(raw: Raw, where: string, generation: Raw): ModelConfig;
  /** The begins of names in files of some versions, and of the modules' names in their place. */
  readonly renamed?: Wrapper["renamed"];
  /** Larger models that hold one of this family as a part. */
  readonly wrappers?: readonly Wrapper[];
  /**
   * How files that hold the matrices of all experts of a block in one tensor have them: matrices [out, in], gate above up; or transposed, the columns of gate
   * and up by turns (in MXFP4: rows by turns). "rows" by default; files with each matrix as a tensor are read in any family.
   */
  readonly fusedExperts?: "rows" | "columns";
  /** `EXPERT_NAMES` by default. */
  readonly experts?: ExpertNames;
  readonly modules: FamilyModules;
  /** The blocks, from the first to the last. */
  layers(config: ModelConfig): readonly Layer[];
  /** Null: llama.cpp does not know the family, unless it is one of `ggufEncoder`. */
  readonly gguf: GgufFacts | null;
  /** llama.cpp's name of a kind of text encoder, where Remat writes GGUF files of it. */
  readonly ggufEncoder?: string;
  /** The class of its tokenizers, where `tokenizer_config.json` need not name it. */
  readonly tokenizerClass?: string;
}

/** A model that sees images too and has a family's model as its text part. */
export interface Wrapper {
  /** `model_type` in its `config.json`. */
  readonly type: string;
  /** `model_type` of its text part, where one wrapper may hold several families. */
  readonly textType?: string;
  /** The begin of the names of the text part's modules. */
  readonly modulePrefix: ModelConfig["modulePrefix"];
  /** The text part as a `config.json` of the family. @throws {UserError} no text part */
  text(raw: Raw, where: string): Raw;
  /** The begins of names in files of some versions, and of the modules' names in their place; the first that fits counts. */
  readonly renamed: readonly (readonly [stored: string, module: string])[];
  /** The begins of the names of the modules that see images; such modules are neither trained nor run. */
  readonly vision: readonly string[];
}

/** Describes what a family calls its modules in checkpoints, PEFT adapters included. */
export interface FamilyModules {
  /** Below `ModelConfig.modulePrefix`. */
  readonly embedding: string;
  /** The table of learned positions, below the same; absent: there is none. */
  readonly positions?: string;
  /** The final norm, below `ModelConfig.modulePrefix`; "norm" by default. */
  readonly norm?: string;
  /** At the top; the checkpoint lacks it where the embedding is used in its place. */
  readonly head: string;
  /** Last parts of the names of the linear layers of a block, which are PEFT's "all-linear". */
  readonly linear: readonly string[];
  /**
   * Those of them that PEFT's IA3 scales where none are named, by their outputs or by their inputs: keys and values (in some families it takes the
   * queries for the keys), and the last layer of the MLP.
   */
  readonly scaled: { readonly outputs: readonly string[]; readonly inputs: readonly string[] };
  /** The modules of the vectors that each block is told of tokens, below `ModelConfig.modulePrefix`: their table, the layer that makes some of embeddings, and its norm. */
  readonly layerInputs?: { readonly table: string; readonly projection: string; readonly norm: string };
  /** Absent: a decoder. */
  readonly encoder?: EncoderModules;
}

/** Describes what a family calls the modules that judge whole texts, at the top, as Transformers has them. */
export interface TextHeadModules {
  /** The last layer, [outputs, hiddenSize]. */
  readonly output: string;
  /** True if it has a bias. */
  readonly bias: boolean;
  /** A layer in front of it, [hiddenSize, hiddenSize], and what follows it; null: the norm of a decoder is in front. */
  readonly dense: {
    readonly module: string;
    readonly bias: boolean;
    readonly activation: "tanh" | "relu" | "gelu";
    /** A norm behind the activation; null: there is none. */
    readonly norm: string | null;
    /** The name by which PEFT trains this part whole where it is new; null: with the head. */
    readonly saved: string | null;
  } | null;
  /** The name by which PEFT trains the whole head, as it trains every module whose name ends with it. */
  readonly saved: string;
}

/** Describes what an encoder calls the modules that decoders do not have. */
export interface EncoderModules {
  /** The table of types, below `ModelConfig.modulePrefix`; null: there is none. */
  readonly types: string | null;
  /** The norm of the sum of embeddings, below the same. */
  readonly norm: string;
  /** The norm behind the last block, below the same; null: there is none. */
  readonly finalNorm: string | null;
  /** Linear layer and norm between the last block and the head, and the parameter that is added to the logits; at the top. */
  readonly transform: {
    readonly dense: string;
    readonly denseBias: boolean;
    readonly norm: string;
    readonly bias: string;
    /** The activation between the two; null: that of the blocks. */
    readonly activation: HiddenAct | null;
  };
  readonly textHead: TextHeadModules;
}

/** A tensor of a GGUF file, made of one parameter, or of one of each expert, which it has one behind the other. */
export interface GgufPlace {
  readonly name: string;
  /** The rows that it has; absent or null: all, in their order. A vector has as many rows as elements. */
  rows?(config: ModelConfig): Order | null;
  /** The same of columns. */
  columns?(config: ModelConfig): Order | null;
  /** True if the model has the matrix the other way round, [in, out]. */
  readonly isTransposed?: boolean;
  /** What its numbers are of the model's. */
  readonly value?: "negated exp";
  /** True if it stays f32 in files of every type. */
  readonly isFull?: boolean;
  /** True if the model adds nothing to this norm's weights, whatever it adds to others (`normOffset`). */
  readonly isPlainNorm?: boolean;
  /** True if llama.cpp takes no adapter of it beside the file. */
  readonly isMergedOnly?: boolean;
}

/** A number, a choice or a list that a GGUF file says of a model. */
export type GgufSetting =
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly bool: boolean }
  | { readonly i32s: readonly number[] }
  | { readonly bools: readonly boolean[] };

/** Describes a model as its GGUF file says it, to what is a family's own. */
export interface GgufGiven {
  readonly layers: number;
  readonly vocabSize: number;
  readonly heads: number;
  /** By layer; 0 in layers that do not attend. */
  readonly kvHeads: readonly number[];
  readonly headDim: number;
  readonly hiddenSize: number;
  readonly rotaryDim: number;
  /** That of the norms. */
  readonly epsilon: number;
  /** A number of the architecture's own keys, or null; an f32 as the decimal number that it was made of. */
  own(key: string): number | null;
  /** @throws {UserError} a key that is missing */
  need(key: string): number;
  flag(key: string): boolean | null;
  flags(key: string): readonly boolean[] | null;
  /** Null where the key has one number. */
  numbers(key: string): readonly number[] | null;
  /** A tensor of one number for each frequency. */
  factors(name: string): Float32Array | null;
  hasTensor(name: string): boolean;
  /** The error that the file holds what is not supported. */
  refusal(what: string): UserError;
}

/** How llama.cpp has a family's models. */
export interface GgufFacts {
  /** llama.cpp's name of the architecture. */
  readonly architecture: string;
  /**
   * What becomes of a block's modules (`self_attn.q_proj`, those of an expert as `experts.*`), without `.weight` and `.bias`, or of its other parameters
   * by their whole names; several where llama.cpp has the rows of one matrix in as many tensors.
   */
  readonly modules: Readonly<Record<string, string | GgufPlace | readonly GgufPlace[]>>;
  /** The same of modules beside the blocks that not all families have, below `ModelConfig.modulePrefix`. */
  readonly others?: GgufFacts["modules"];
  /** Name of the final norm; "output_norm" by default. */
  readonly outputNorm?: string;
  /** True if files have the matrix of the logits where it is the embedding too. */
  readonly hasOwnHead?: boolean;
  /** True if neighbouring features are rotated with each other, not feature i with i + dim / 2: rows of queries and keys are reordered. */
  readonly rotatesNeighbours: boolean;
  /** The one activation that the architecture has. */
  readonly activation: HiddenAct;
  /** True if models with an exact GELU are taken for such ones with that which tanh approximates. */
  readonly approximatesGelu?: boolean;
  /** The sliding window: not known to the architecture, named in the file without being applied, or applied. */
  readonly window: "unknown" | "named" | "applied";
  /** Kinds of rotary scaling that the architecture has beside those that all have. */
  readonly scalings: readonly ("longrope" | "yarn-betas" | "yarn-rounded")[];
  /** Settings that the architecture reads beside those that all have, by key. */
  settings?(config: ModelConfig): Readonly<Record<string, GgufSetting>>;
  /**
   * The way back from a file: the keys of `config.json` beside those that all have, or in their place. Null: the file is of another family, which llama.cpp has under the
   * same name; or, in place of the function, no files of the family are read.
   * @throws {UserError} what is not supported
   */
  readonly keys: ((given: GgufGiven) => Raw | null) | null;
  /** Refuses a model that llama.cpp would compute otherwise. @throws {UserError} */
  check?(config: ModelConfig): void;
}
