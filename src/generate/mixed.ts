import type { FloatType } from "../base/dtype.ts";
import { inPrecision } from "../autodiff/precision.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { adapterKind } from "../models/adapters/index.ts";
import { partName } from "../models/adapters/names.ts";
import { adapterTable } from "../models/blocks/layer.ts";
import { buildDecoder } from "../models/chain/decode.ts";
import type { ModelConfig } from "../models/config.ts";
import { modulesOf } from "../models/families/index.ts";
import { layerOf } from "../models/names.ts";
import type { SegmentOptions } from "../models/parts.ts";
import { byteLength } from "../graph/types.ts";
import type { Segment } from "../graph/segment.ts";
import { ENTRY_WORDS, MOST_RANK } from "../ops/adapted-rows.ts";
import type { Programs } from "../runtime/chain.ts";
import { type Address, align, type Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent } from "../runtime/forward.ts";
import { cacheSize, cachesFrom, type DecoderPlaces, type DecoderPlan, type Decoders, runTogether } from "./decoders.ts";

/** Where the low-rank pairs of an adapter lie: an entry of `AdaptedRows` for each block, and in it for each linear module of the family. */
export type AdapterEntries = Int32Array;

/**
 * Returns the entries of an adapter, without one those of the base model alone; null: an adapter that is more than low-rank pairs of the
 * blocks' linear modules, or has a greater rank than `AdaptedRows` takes.
 * @param param addresses of the adapter's parameters, by name
 */
export function adapterEntries(
  config: ModelConfig,
  adapter: Adapter | null,
  param: ReadonlyMap<string, Address>,
): AdapterEntries | null {
  const { linear } = modulesOf(config);
  const entries = new Int32Array(config.layers * linear.length * ENTRY_WORDS);
  if (adapter === null) return entries;
  const { update } = adapterKind(adapter.method);
  if (!update || adapter.whole.size + adapter.copies.size > 0) return null;
  const scales = new Float32Array(entries.buffer);
  for (const [module, { layer: site, setup }] of adapter.modules) {
    const block = layerOf(module, config);
    const { a, b, rank, scale } = update.pair({ layer: site }, setup);
    if (block === null || site !== "linear" || rank > MOST_RANK) return null;
    const at = (block * linear.length + linear.indexOf(module.split(".").at(-1)!)) * ENTRY_WORDS;
    entries.set([param.get(partName(module, a))!, param.get(partName(module, b))!, rank], at);
    scales[at + 3] = scale;
  }
  return entries;
}

/** The program that decodes one token of each of several texts with different adapters, before any memory is taken. */
export interface MixedPlan {
  readonly segments: readonly Segment[];
  /** Bytes of boundaries and workspace, in the decoders' arena. */
  readonly extent: number;
  /** Bytes of the table of adapters. */
  readonly table: number;
}

/** @param options those of the base model's decoders */
export function planMixed(
  programs: Programs,
  { config, maxTokens, texts }: DecoderPlan,
  options: Omit<SegmentOptions, "tokens"> & { readonly compute: FloatType },
): MixedPlan {
  const adapted = modulesOf(config).linear;
  const decoding = { size: cacheSize(maxTokens), texts, adapted };
  const segments = inPrecision(buildDecoder(config, { ...options, tokens: texts }, decoding), options.compute);
  const table = config.layers * align(byteLength(adapterTable(adapted.length, texts)));
  return { segments, extent: forwardExtent(segments, programs), table };
}

/** One of the texts that are decoded together: `ids` lack one token in its decoder's cache. */
export interface MixedText {
  readonly decoders: Decoders;
  readonly entries: AdapterEntries;
  readonly ids: readonly number[];
}

/** Decoders of one base model with different adapters, all in the same caches. */
export interface Mixed {
  /** The logits behind the last token of each text, by the number of its cache. A text's bits are those that its own decoder gives. */
  feed(texts: ReadonlyMap<number, MixedText>): Map<number, Float32Array>;
}

/**
 * Starts in the places of the base model's decoders.
 * @param table where the table of adapters is, `plan.table` bytes
 * @param endOf where the text of a cache ends, whose ever it is
 */
export function startMixed(
  executor: Executor,
  programs: Programs,
  base: DecoderPlan,
  plan: MixedPlan,
  places: DecoderPlaces,
  table: Address,
  endOf: (text: number) => number,
): Mixed {
  const { config, texts } = base;
  const sites = modulesOf(config).linear.length;
  const blockBytes = plan.table / config.layers;
  // Between the embedding and the logits there are the blocks.
  const cache = cachesFrom(places, 0).map((names, i) => {
    const isBlock = i > 0 && i <= config.layers;
    return isBlock ? new Map([...names, ["adapters", table + (i - 1) * blockBytes] as const]) : names;
  });
  const runner = createForward(executor, programs, plan.segments, places.arena, { ...places.memory, cache }, places.logits);
  const words = new Int32Array(plan.table / 4);
  /** The entries of each text that are in the table. */
  const written: (AdapterEntries | null)[] = Array.from({ length: texts }, () => null);

  const none = adapterEntries(config, null, new Map())!;
  const write = (wanted: ReadonlyMap<number, MixedText>): void => {
    let changed = false;
    for (let text = 0; text < texts; text++) {
      // The row of a text that is not wanted is computed, too; it may have had an adapter that is in memory no more.
      const entries = wanted.get(text)?.entries ?? none;
      if (written[text] === entries) continue;
      written[text] = entries;
      changed = true;
      for (let block = 0; block < config.layers; block++) {
        for (let site = 0; site < sites; site++) {
          const from = (block * sites + site) * ENTRY_WORDS;
          const to = (block * blockBytes) / 4 + (site * texts + text) * ENTRY_WORDS;
          words.set(entries.subarray(from, from + ENTRY_WORDS), to);
        }
      }
    }
    if (changed) executor.write(table, new Uint8Array(words.buffer));
  };
  return {
    feed(wanted) {
      write(wanted);
      const ids = new Map([...wanted].map(([text, each]) => [text, each.ids]));
      const logits = runTogether(executor, base, places, runner, ids, endOf);
      for (const [text, each] of wanted) each.decoders.take(text, each.ids);
      return logits;
    },
  };
}
