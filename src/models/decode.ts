import { optimise } from "../autodiff/partition.ts";
import type { Segment, SegmentModel } from "../graph/segment.ts";
import type { TensorType } from "../graph/types.ts";
import type { ModelConfig } from "../hf/config/config.ts";
import { CachedAttention } from "../ops/cached-attention.ts";
import { type Attend, attentionAttrs, blockName, type SegmentOptions } from "./parts.ts";
import { buildBlock, buildEmbedding, buildLogits } from "./segments.ts";

/** Caches of a block, inputs of role `cache`. */
export const CACHES = ["keys", "values"] as const;

/** Keys or values of `texts` texts of `size` tokens. */
export function cacheType(config: ModelConfig, size: number, texts = 1): TensorType {
  return { dtype: "f32", shape: [texts * config.kvHeads, size, config.headDim] };
}

/**
 * The chain of segments that takes `options.tokens` new tokens, of one text from the batch input `position` on, or one of each of `texts`
 * texts (see `CachedAttention`): embedding, blocks that attend to their caches of `size` tokens a text (and update them in place), and
 * the logits [texts, vocabulary] of the new tokens that the batch input `rows` names. Identical blocks share one `SegmentModel`. Nothing here is trained.
 */
export function buildDecoder(config: ModelConfig, options: SegmentOptions, size: number, texts = 1): Segment[] {
  const attend: Attend = (builder, q, k, v, starts) => {
    builder.input("position", "batch", { dtype: "i32", shape: [texts] });
    for (const name of CACHES) builder.input(name, "cache", cacheType(config, size, texts));
    const outputs = builder.node(CachedAttention, [q, k, v, ...CACHES, starts, "position"], attentionAttrs(config), "attention");
    CACHES.forEach((name, i) => builder.output({ name: outputs[i + 1]!, role: "state", updates: name }));
    return outputs[0]!;
  };
  const kinds = new Map<string, SegmentModel>();
  const blocks = Array.from({ length: config.layers }, (_, layer): Segment => {
    const { graph, scope } = buildBlock(config, options, layer, attend);
    const key = JSON.stringify(graph.inputs.map(({ name }) => [name, graph.types.get(name)]));
    let model = kinds.get(key);
    if (!model) {
      model = { id: `decode-${kinds.size + 1}`, forward: optimise(graph), training: null, variants: [], fused: null };
      kinds.set(key, model);
    }
    return { name: blockName(config, layer), model, params: scope.names };
  });
  return [buildEmbedding(config, options), ...blocks, buildLogits(config, options, texts)];
}
