import type { Random } from "../../base/random.ts";
import type { GraphBuilder } from "../../graph/builder.ts";
import type { Shape } from "../../graph/types.ts";

/**
 * The adapter socket: all that Remat knows of a kind of adapter is in one object. A kind is one file in this folder and one row of the
 * table in `index.ts`; training, merging, PEFT's files, decoding and export ask the table.
 */

/** A matrix W [rows, columns] of the base model that an adapter changes. */
export interface Site {
  /** `linear`: a layer of a block; `head`: the layer that gives the logits; `embedding`: the table whose rows are looked up. */
  readonly layer: "linear" | "head" | "embedding";
  /** Outputs of a layer, or words of the vocabulary. */
  readonly rows: number;
  /** Inputs of a layer, or features of a word. */
  readonly columns: number;
}

/** Settings of one module's adapter. */
export interface AdapterSize {
  readonly rank: number;
  /** Factor of the update: alpha / rank, or alpha / sqrt(rank) with rsLoRA. */
  readonly scale: number;
}

/** A parameter that an adapter adds to a module, f32. */
export interface AdapterPart {
  /** The part behind the module's name in PEFT's files, `lora_A.weight`. */
  readonly suffix: string;
  /** Shape in PEFT's files. */
  readonly shape: Shape;
  /** In memory, rows and columns are exchanged: its columns are looked up. */
  readonly transposed?: true;
}

/** A linear layer that a kind adds its nodes to. Values are f32, x is [tokens, columns]. */
export interface LinearLayer {
  readonly builder: GraphBuilder;
  /** Name within the segment, which the names of nodes begin with: `self_attn.q_proj`. */
  readonly module: string;
  readonly site: Site;
  readonly x: string;
  readonly weight: string;
  readonly bias: string | null;
  /** Declares a part as a parameter of the graph. */
  parameter(part: AdapterPart): string;
  /** `x` with dropout, or `x` itself where there is none. */
  dropped(): string;
  /** True if a value that depends on parameters alone may be a parameter too. */
  readonly resting: boolean;
}

/** Rows of a table that a kind adds its nodes to. */
export interface EmbeddingLayer extends Pick<LinearLayer, "builder" | "module" | "site" | "parameter"> {
  /** Which rows, i32[tokens]. */
  readonly ids: string;
  /** The base model's rows, f32[tokens, columns]. */
  readonly rows: string;
}

/** W + scale B A: what can be written for a reader that knows low-rank updates alone. */
export interface LowRankPair {
  /** Suffixes of the two parts. */
  readonly a: string;
  readonly b: string;
}

export interface AdapterKind<Name extends string = string> {
  /** Value of `--method`. */
  readonly name: Name;
  /** A few words for help. */
  readonly summary: string;
  /** How PEFT's configuration tells it: the type, and flags that are true. */
  readonly peft: { readonly type: string; readonly flags: readonly string[] };
  /** Where it can be trained and run; on other sites it can be merged. */
  readonly sites: readonly Site["layer"][];
  /** The matrix that is adapted, from the shapes of parts in a file. @param shapeOf throws for a part that is not there */
  siteOf(layer: Site["layer"], shapeOf: (suffix: string) => Shape): Site;
  /** The parameters of one module, in the order in which graphs declare them. */
  parts(site: Site, rank: number): readonly AdapterPart[];
  /** Adds the nodes of an adapted linear layer; returns its result [tokens, rows]. */
  linear(layer: LinearLayer, size: AdapterSize): string;
  /** Adds the nodes of adapted rows of a table; returns them. It is there where `sites` has embeddings. */
  embedding?(layer: EmbeddingLayer, size: AdapterSize): string;
  /** Returns what the logits of an adapted head get: scale low up^T, low f32[tokens, rank], up f32[rows, rank]. It is there where `sites` has heads. */
  head?(
    layer: Pick<LinearLayer, "builder" | "module" | "site" | "x" | "parameter" | "dropped">,
    size: AdapterSize,
  ): { low: string; up: string };
  /** First values of a part, in the file's shape; null: `computed` gives them. */
  initialise(part: AdapterPart, random: Random): Float32Array<ArrayBuffer> | null;
  /** Parts that are functions of others and of the base weights when training begins, and constants where adapters stay as they are. */
  readonly computed?: {
    /** Suffix of the part that begins as this value. */
    readonly begins: string;
    /** Suffix of the parameter that holds it where adapters stay as they are; no file has it. */
    readonly constant: string;
    shape(site: Site): Shape;
    value(layer: Pick<LinearLayer, "builder" | "module" | "site" | "weight" | "parameter">, size: AdapterSize): string;
  };
  /** Adds the adapter to a weight in its place; `read` gives a part by its suffix, in the file's shape. */
  merge(weight: Float32Array, site: Site, size: AdapterSize, read: (suffix: string) => Float32Array): void;
  /** The pair that llama.cpp's adapters hold; null: they have no place for this kind. */
  gguf(site: Site): LowRankPair | null;
}
