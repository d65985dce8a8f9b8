import type { GraphBuilder } from "../../graph/builder.ts";
import type { TensorType } from "../../graph/types.ts";
import { AdaptedRows, ENTRY_WORDS } from "../../ops/adapted-rows.ts";
import { CarriedScope } from "../carried.ts";
import type { ModelConfig } from "../config.ts";
import { linear, ParamScope } from "../linear.ts";
import { blockName } from "../names.ts";
import { type BatchInput, type SegmentOptions, startGraph } from "../parts.ts";

/** Types of what decoding keeps of one text's earlier tokens, by the name of the input that has them. */
export type Caches = ReadonlyMap<string, TensorType>;

/** One decoder block of a model, of one of the kinds that this folder has (`attentionLayer`). */
export interface Layer {
  /** Name of the kind. Layers of one kind may differ in their settings, and in their programs then. */
  readonly kind: string;
  /** Batch inputs of its programs. */
  readonly inputs: readonly BatchInput[];
  /** Returns what decoding keeps of the earlier tokens of one text of up to `tokens` tokens. */
  caches(tokens: number): Caches;
  /** The block in whose caches this one finds its keys and values; absent: they are its own. */
  readonly cachesOf?: number | undefined;
  /** Adds the block's nodes to a graph whose boundary is "x" [tokens, hiddenSize]; returns the value that leaves it. */
  build(parts: BlockParts): string;
}

/** The texts that a program decodes, each by as many tokens. */
export interface Decoding {
  /** Room for each text, in tokens. */
  readonly size: number;
  readonly texts: number;
  /** Last parts of the names of modules in which each text may have a low-rank adapter of its own, which the input "adapters" tells. */
  readonly adapted?: readonly string[];
}

/** A block's graph under construction. Values are f32 [tokens, features]. */
export interface BlockParts {
  readonly builder: GraphBuilder;
  readonly config: ModelConfig;
  readonly scope: ParamScope;
  /** Rows of every activation. */
  readonly tokens: number;
  /** null: the tokens of a micro-batch attend to each other, and nothing is kept. */
  readonly decoding: Decoding | null;
  /** Values that the block takes of earlier segments or makes for later ones, beside the boundary. */
  readonly carried: CarriedScope;
  /** x W^T + b [tokens, outFeatures], with its adapter when the module is a target. */
  project(x: string, module: string, inFeatures: number, outFeatures: number, bias: boolean): string;
}

export function startBlock(
  config: ModelConfig,
  options: SegmentOptions,
  layer: number,
  { inputs }: Layer,
  decoding: Decoding | null,
): BlockParts {
  const builder = startGraph("block", config, options, [...inputs, "rng"], true);
  builder.input("segment", "segment", { dtype: "i32", shape: [1] });
  const scope = new ParamScope(builder, `${blockName(config, layer)}.`, options.tuning, options.weightType);
  const adapted = decoding?.adapted;
  if (adapted) builder.input("adapters", "cache", adapterTable(adapted.length, decoding.texts));
  let sites = 0;
  const { storedTransposed: transposed } = config;
  return {
    builder,
    config,
    scope,
    tokens: options.tokens,
    decoding,
    carried: new CarriedScope(builder),
    project(x, module, inFeatures, outFeatures, bias) {
      const y = linear(scope, x, { module, inFeatures, outFeatures, bias, site: sites++, transposed });
      if (!adapted) return y;
      const site = adapted.indexOf(module.split(".").at(-1)!);
      return builder.value(AdaptedRows, [y, x, "adapters"], { site }, `${module}.adapted`);
    },
  };
}

/** Type of the input "adapters" of a block (see `AdaptedRows`). */
export function adapterTable(modules: number, texts: number): TensorType {
  return { dtype: "i32", shape: [modules, texts, ENTRY_WORDS] };
}

/**
 * Declares the caches of `texts` texts as inputs of a decoding program and returns their names. The rows of a text's cache are behind
 * those of the text before it.
 */
export function addCaches(builder: GraphBuilder, caches: Caches, { texts }: Decoding): string[] {
  return Array.from(
    caches,
    ([
      name,
      {
        dtype,
        shape: [rows = 1, ...inner],
      },
    ]) => builder.input(name, "cache", { dtype, shape: [texts * rows, ...inner] }),
  );
}
