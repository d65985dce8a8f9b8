import { optimise } from "../../autodiff/partition.ts";
import { graphHash } from "../../graph/hash.ts";
import type { Segment, SegmentModel } from "../../graph/segment.ts";
import type { Caches, Decoding, Layer } from "../blocks/layer.ts";
import type { ModelConfig } from "../config.ts";
import { familyOf } from "../families/index.ts";
import { blockName } from "../names.ts";
import type { SegmentOptions } from "../parts.ts";
import { buildBlock, buildEmbedding, buildLogits } from "./segments.ts";

/** The caches of one text of up to `tokens` tokens, block by block. */
export function cachesOf(config: ModelConfig, tokens: number): Caches[] {
  return familyOf(config)
    .layers(config)
    .map((layer) => layer.caches(tokens));
}

/** By block: the block whose caches it reads and writes, as a rule its own. Those of others it gives what they have just given themselves. */
export function cacheOwners(config: ModelConfig): number[] {
  return familyOf(config)
    .layers(config)
    .map(({ cachesOf: owner }, layer) => owner ?? layer);
}

/**
 * The chain of segments that takes `options.tokens` new tokens, of one text from the batch input `position` on, or one of each of several
 * texts (see `CachedAttention`): embedding, blocks that read the caches of the texts (and update them in place), and
 * the logits [texts, vocabulary] of the new tokens that the batch input `rows` names. Blocks whose graphs are the same share one
 * `SegmentModel`. Nothing here is trained.
 */
export function buildDecoder(
  config: ModelConfig,
  options: SegmentOptions,
  decoding: Decoding,
  layers: readonly Layer[] = familyOf(config).layers(config),
): Segment[] {
  const kinds = new Map<string, SegmentModel>();
  const blocks = layers.map((layer, number): Segment => {
    const { graph, scope, carried } = buildBlock(config, options, number, layer, decoding);
    const key = graphHash(graph);
    let model = kinds.get(key);
    if (!model) {
      model = { id: `decode-${kinds.size + 1}`, forward: optimise(graph), training: null, variants: [], fused: null };
      kinds.set(key, model);
    }
    return { name: blockName(config, number), model, params: scope.names, carried };
  });
  return [buildEmbedding(config, options), ...blocks, buildLogits(config, options, decoding.texts)];
}
