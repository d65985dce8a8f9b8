import { useCounts } from "../graph/passes.ts";
import { byteLength, elements, type Graph, type Node, type Shape, typeOf } from "../graph/types.ts";

/** Rates of an ordinary core pair. Only ratios matter to a planner until times are measured. */
const FLOPS = 60e9;
const BYTES = 8e9;

/** Modelled seconds of a program: the operations of its products, and the bytes that every operator touches. */
export function modelledSeconds(graph: Graph): number {
  const uses = useCounts(graph);
  return graph.nodes.reduce((seconds, node) => seconds + nodeSeconds(graph, node, (output) => uses.has(output)), 0);
}

/** Modelled seconds of one node. Outputs that are not used are not computed. */
export function nodeSeconds(
  graph: Pick<Graph, "types" | "name">,
  node: Node,
  isUsed: (output: string) => boolean = () => true,
): number {
  const values = [...node.inputs, ...node.outputs.filter(isUsed)].filter((value) => value !== "" && graph.types.has(value));
  const bytes = values.reduce((sum, value) => sum + byteLength(typeOf(graph, value)), 0);
  return operations(graph, node, isUsed) / FLOPS + bytes / BYTES;
}

/** Floating-point operations of the operators that are bound by them. */
function operations(graph: Pick<Graph, "types" | "name">, node: Node, isUsed: (output: string) => boolean): number {
  const shape = (i: number) => typeOf(graph, node.inputs[i]!).shape;
  const size = (i: number) => elements(shape(i));
  const rows = () => shape(0)[0]!;
  switch (node.op) {
    case "Gemm":
      return 2 * elements(typeOf(graph, node.outputs[0]!).shape) * shape(0)[node.attrs["transA"] ? 0 : 1]!;
    // Without ends, tokens see half of the others.
    case "Attention":
      return (node.inputs[4] ? 4 : 2) * rows() * size(0);
    case "AttentionGrad":
      return (node.inputs[7] ? 10 : 5) * rows() * size(0);
    case "LinearCrossEntropy":
    case "TokenCrossEntropy":
      return 2 * rows() * size(1);
    case "LinearCrossEntropyGrad":
      return ((node.inputs[5] ? 6 : 4) + (node.attrs["recompute"] ? 2 : 0)) * rows() * size(1);
    case "GatedDelta":
      return deltaOperations(typeOf(graph, node.inputs[1]!).shape, typeOf(graph, node.outputs[1]!).shape, 4);
    case "GatedDeltaGrad":
      return deltaOperations(typeOf(graph, node.inputs[2]!).shape, typeOf(graph, node.inputs[7]!).shape, 12);
    // Three products with the rows of as many tokens as were chosen; the gradient computes two of them again and has three of its own, and one more
    // for each matrix of an expert that is trained.
    case "ExpertMlp":
      return 6 * size(1) * size(3);
    case "ExpertMlpGrad":
      return (10 + 6 * trainedShare(node, isUsed)) * size(2) * size(4);
    case "RowNorm":
      return 2 * shape(1)[0]! * size(0);
    default:
      return 0;
  }
}

/** Share of a mixture's matrices of which gradients are wanted. */
function trainedShare({ outputs, attrs }: Node, isUsed: (output: string) => boolean): number {
  const behind = (attrs["biases"] ? 2 : 0) + (attrs["rank"] ? 2 : 0) + (attrs["downRank"] ? 2 : 0);
  const gradients = outputs.slice(2, outputs.length - behind);
  return gradients.filter(isUsed).length / gradients.length;
}

/** Products of rows with a head's state, about as many as of rows with the rows of a chunk. */
function deltaOperations([tokens = 0, heads = 0]: Shape, [, , keyDim = 0, valueDim = 0]: Shape, products: number): number {
  return 2 * products * tokens * heads * keyDim * valueDim;
}
