import type { z } from "zod";
import type { UserError } from "../../base/errors.ts";
import type { Random } from "../../base/random.ts";
import type { GraphBuilder } from "../../graph/builder.ts";
import type { Shape } from "../../graph/types.ts";

/**
 * The adapter socket: all that Remat knows of a kind of adapter is in one object. A kind is one file in this folder and one row of the
 * table in `index.ts`; training, merging, PEFT's files, decoding and export ask the table.
 */

/** Which biases of the base model are trained, in PEFT's words: none, all, or those of the adapted modules. */
export const BIASES = ["none", "all", "lora_only"] as const;
export type Bias = (typeof BIASES)[number];

/** A matrix W [rows, columns] of the base model that an adapter changes. */
export interface Site {
  /**
   * `linear`: a layer of a block; `head`: the layer that gives the logits; `embedding`: the table whose rows are looked up; `experts`: one matrix of each
   * expert of a block, with a part for each.
   */
  readonly layer: "linear" | "head" | "embedding" | "experts";
  /** Outputs of a layer, or words of the vocabulary. */
  readonly rows: number;
  /** Inputs of a layer, or features of a word. */
  readonly columns: number;
  /** How many experts there are; absent where there are none. */
  readonly experts?: number;
}

/** What a kind is told of a family: last parts of the names of a block's linear layers, as in `FamilyModules`. */
export interface LinearNames {
  readonly linear: readonly string[];
  readonly scaled: { readonly outputs: readonly string[]; readonly inputs: readonly string[] };
}

/** What is known of a parameter of an adapter by its name. */
export interface PartName {
  /** The part behind the module's name in PEFT's files, `lora_A.weight`. */
  readonly suffix: string;
  /** In memory, rows and columns are exchanged: its columns are looked up. */
  readonly transposed?: true;
  /** One number for each input or output, whatever its shape: it has no weight decay, and Muon does not take it for a matrix. */
  readonly vector?: true;
  /** Its first values are random and its partner's zero, so that a run may leave it as it is (`freezeA`). */
  readonly random?: true;
}

/** A parameter that an adapter adds to a module, f32. */
export interface AdapterPart extends PartName {
  /** Shape in PEFT's files. */
  readonly shape: Shape;
}

/** A linear layer that a kind adds its nodes to. Values are f32, x is [tokens, columns]. */
export interface LinearLayer {
  readonly builder: GraphBuilder;
  /** Name within the segment, which the names of nodes begin with: `self_attn.q_proj`. */
  readonly module: string;
  readonly site: Site;
  readonly x: string;
  readonly weight: string;
  /** True if `weight` is [columns, rows]. */
  readonly transposed: boolean;
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

/** W + scale B A of one module: what can be written for a reader that knows low-rank updates alone. */
export interface LowRankPair {
  /** Suffixes of the two parts. */
  readonly a: string;
  readonly b: string;
  readonly rank: number;
  readonly scale: number;
}

/** Describes which modules a configuration of PEFT is written for. */
export interface WrittenModules<Setup> {
  /** Names that stand for all modules which end with them, as `describeModules` chose them. */
  readonly targets: readonly string[];
  /** Decoder blocks whose targets are adapted; null: all. */
  readonly layers: readonly number[] | null;
  /** Names that stand for parameters of experts, as PEFT's `target_parameters`. */
  readonly parameters: readonly string[];
  /** The setup of each module, by its full name. */
  readonly setups: ReadonlyMap<string, Setup>;
}

/** How PEFT's `adapter_config.json` has a kind. */
export interface PeftFormat<Settings, Setup> {
  readonly type: string;
  /** Keys that are true, and false in other kinds of the type. */
  readonly flags: readonly string[];
  /**
   * Reads the keys that are the kind's own.
   * @param refuse makes the error about what is not supported
   * @throws {UserError}
   */
  read(raw: Readonly<Record<string, unknown>>, where: string, refuse: (what: string) => UserError): Settings;
  /** Returns the keys that are the kind's own, and those that it writes otherwise than other kinds. */
  write(settings: Settings, modules: WrittenModules<Setup>): Readonly<Record<string, unknown>>;
}

/**
 * @typeParam Flags its keys of a run's configuration
 * @typeParam Settings what these keys, or PEFT's configuration, come to
 * @typeParam Setup what they come to for one module
 */
export interface AdapterKind<
  Name extends string = string,
  Flags extends z.ZodRawShape = z.ZodRawShape,
  Settings extends object = object,
  Setup extends object = object,
> {
  /** Value of `--method`. */
  readonly name: Name;
  /** What it is called: "LoRA". */
  readonly title: string;
  /** A few words for help. */
  readonly summary: string;
  /**
   * The flags that it has, by configuration key, all of them optional; with any other kind they are refused. All kinds have `targets` and
   * `modulesToSave`; `dropout` and `bias` are theirs that declare them.
   */
  readonly flags: Flags;
  /** The modules that get an adapter where a run names none; without it, all linear layers of the blocks. */
  readonly targets?: {
    readonly description: string;
    of(names: LinearNames): readonly string[];
  };
  /** Fills in what a run does not say. */
  settings(asked: z.output<z.ZodObject<Flags>>, names: LinearNames): Settings;
  /** @param adapted names of the modules that get an adapter @throws {UserError} flags that mean nothing of these modules */
  check?(asked: z.output<z.ZodObject<Flags>>, adapted: readonly string[]): void;
  /** Returns the flags that ask for what an adapter has that was read. */
  asked(settings: Settings, setups: ReadonlyMap<string, Setup>): z.output<z.ZodObject<Flags>>;
  /** @param module full name @param where names the settings in errors @throws {UserError} settings that are not understood */
  setup(settings: Settings, module: string, where: string): Setup;
  /** A few words on a setup, which the shapes of parts follow from: "rank 8". */
  describe(setup: Setup): string;
  readonly peft: PeftFormat<Settings, Setup>;
  /** Where it can be trained and run; on other sites it can be merged. */
  readonly sites: readonly Site["layer"][];
  /** Names of the parts by where they are; none where PEFT has no such adapter. */
  readonly names: Readonly<Record<Site["layer"], readonly PartName[]>>;
  /**
   * Rows and columns of the matrix that is adapted, from the shapes of parts in a file; null: the parts do not tell.
   * @param shapeOf throws for a part that is not there
   */
  shapeOf(
    layer: Site["layer"],
    shapeOf: (suffix: string) => Shape,
    setup: Setup,
  ): readonly [rows: number | null, columns: number | null];
  /** The parameters of one module, in the order in which graphs declare them. */
  parts(site: Site, setup: Setup): readonly AdapterPart[];
  /** Adds the nodes of an adapted linear layer; returns its result [tokens, rows]. */
  linear(layer: LinearLayer, setup: Setup): string;
  /** Adds the nodes of adapted rows of a table; returns them. It is there where `sites` has embeddings. */
  embedding?(layer: EmbeddingLayer, setup: Setup): string;
  /** Returns what the logits of an adapted head get: scale low up^T, low f32[tokens, rank], up f32[rows, rank]. It is there where `sites` has heads. */
  head?(
    layer: Pick<LinearLayer, "builder" | "module" | "site" | "x" | "parameter" | "dropped">,
    setup: Setup,
  ): { readonly low: string; readonly up: string; readonly scale: number };
  /** First values of a part, in the file's shape; null: `computed` gives them. */
  initialise(part: AdapterPart, random: Random): Float32Array<ArrayBuffer> | null;
  /** Parts that are functions of others and of the base weights when training begins, and constants where adapters stay as they are. */
  readonly computed?: {
    /** Suffix of the part that begins as this value. */
    readonly begins: string;
    /** Suffix of the parameter that holds it where adapters stay as they are; no file has it. */
    readonly constant: string;
    shape(site: Site): Shape;
    value(layer: Pick<LinearLayer, "builder" | "module" | "site" | "weight" | "parameter">, setup: Setup): string;
  };
  /** Adds the adapter to a weight in its place; `read` gives a part by its suffix, in the file's shape. */
  merge(weight: Float32Array, site: Site, setup: Setup, read: (suffix: string) => Float32Array): void;
  /** The same to the module's bias; without it, the bias stays as it is. */
  mergeBias?(bias: Float32Array, site: Site, setup: Setup, read: (suffix: string) => Float32Array): void;
  /** The low-rank update that is all it does to a module; without it, it does something else, for which llama.cpp's adapters have no place. */
  readonly update?: {
    /** The one alpha of a file of llama.cpp's, by which each module is scaled, over its rank. */
    alpha(settings: Settings): number;
    pair(site: Pick<Site, "layer">, setup: Setup): LowRankPair;
  };
}

/** Makes a row of the table. */
export function defineAdapter<
  const Name extends string,
  Flags extends z.ZodRawShape,
  Settings extends object,
  Setup extends object,
>(kind: AdapterKind<Name, Flags, Settings, Setup>): AdapterKind<Name, Flags, Settings, Setup> {
  return kind;
}
