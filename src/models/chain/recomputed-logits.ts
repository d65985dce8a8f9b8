import type { Segment } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";

/**
 * Returns a chain whose head computes its logits again instead of keeping them, with the same results: for a head whose weight lies in its file,
 * which then is read twice in a step and not twice for every few rows.
 */
export function withRecomputedLogits(segments: readonly Segment[]): readonly Segment[] {
  const head = segments.at(-1)!;
  const { fused } = head.model;
  return fused ? [...segments.slice(0, -1), { ...head, model: { ...head.model, fused: recomputing(fused) } }] : segments;
}

function recomputing(graph: Graph): Graph {
  const nodes = graph.nodes.map((node) =>
    node.op === "LinearCrossEntropyGrad" ? { ...node, attrs: { ...node.attrs, recompute: 1 } } : node,
  );
  return { ...graph, nodes };
}
