import type { Attrs, Graph, Node } from "../graph/types.ts";
import { opOf } from "../ops/index.ts";
import type { OpenGraph } from "./open-graph.ts";

/** The number of tokens of a graph that is translated: no other size of it is a multiple of this. */
export const TOKENS = 1_000_003;

/** The values that a graph of flat tokens reads where batch and length are open. */
export interface OpenInputs {
  /** The sizes i64[2] of the batch: texts, and tokens of the longest. */
  readonly sizes: string;
  /** By batch input: token ids, rows of tables and texts as flat tensors; cos and sin as [length, pairs]. */
  readonly values: ReadonlyMap<string, string>;
  /** By the batch input that says where a token's attention begins: which tokens it sees, bool [texts, 1, 1 or length, length]. */
  readonly seen: ReadonlyMap<string, string>;
}

/**
 * Adds the nodes of a segment's forward graph, which is of flat tokens [texts * length, features] there too: what is written for a static number of tokens
 * becomes true of any.
 * @param params checkpoint names of its parameters
 * @param x the boundary that enters it
 * @returns its one output
 * @throws {Error} an operator that has no form with open sizes
 */
export function translate(
  open: OpenGraph,
  graph: Graph,
  params: ReadonlyMap<string, string>,
  x: string,
  inputs: OpenInputs,
): string {
  const values = new Map<string, string>([["", ""]]);
  for (const { name, role } of graph.inputs) {
    if (role === "boundary") values.set(name, x);
    if (role === "param") values.set(name, open.weight(params.get(name)!, graph.types.get(name)!.shape));
    const given = role === "batch" ? inputs.values.get(name) : undefined;
    if (given !== undefined) values.set(name, given);
  }
  const known = (name: string): string => {
    const value = values.get(name);
    if (value === undefined) throw new Error(`${graph.name}: ${name} has no value with open sizes`);
    return value;
  };
  for (const node of graph.nodes) {
    const width = graph.types.get(node.outputs[0]!)!.shape[1]!;
    const results = translateNode(open, { ...node, width }, known, inputs);
    node.outputs.forEach((name, i) => results[i] !== undefined && values.set(name, results[i]));
  }
  return known(graph.outputs[0]!.name);
}

/** A node, and the features of its first output. */
type SizedNode = Node & { readonly width: number };

function translateNode(open: OpenGraph, node: SizedNode, known: (name: string) => string, inputs: OpenInputs): string[] {
  const { op, attrs } = node;
  switch (op) {
    case "Attention":
      return [attention(open, node, known, inputs)];
    case "Rope":
      return [rope(open, node, known, inputs)];
    case "SplitColumns": {
      const { groups, sizes } = attrs as { readonly groups: number; readonly sizes: readonly number[] };
      if (groups !== 1) throw new Error("SplitColumns of several groups has no form with open sizes");
      return open.ops("Split", [known(node.inputs[0]!), open.ints(sizes)], { axis: 1 }, sizes.length);
    }
    case "Affine": {
      const { alpha, beta } = attrs as Record<"alpha" | "beta", number>;
      const x = known(node.inputs[0]!);
      const scaled = alpha === 1 ? x : open.op("Mul", [x, open.scalar(Math.fround(alpha))]);
      return [beta === 0 ? scaled : open.op("Add", [scaled, open.scalar(Math.fround(beta))])];
    }
    case "RMSNormalization":
      return [rmsNorm(open, node, known)];
    case "Reshape": {
      const shape = (attrs["shape"] as readonly number[]).map((size) => (size % TOKENS === 0 ? -1 : size));
      return [open.op("Reshape", [known(node.inputs[0]!), open.ints(shape)])];
    }
  }
  const { domain, body } = opOf(node);
  if (domain !== "" || body !== "standard") throw new Error(`${op} has no form with open sizes`);
  return [open.op(op, node.inputs.map(known), attrs)];
}

/** The operator is younger than the version that runtimes for browsers know. */
function rmsNorm(open: OpenGraph, { inputs: [x, scale], attrs }: SizedNode, known: (name: string) => string): string {
  const rows = known(x!);
  const squares = open.op("ReduceMean", [open.op("Mul", [rows, rows]), open.ints([-1])], { keepdims: 1 });
  const length = open.op("Sqrt", [open.op("Add", [squares, open.scalar(attrs["epsilon"] as number)])]);
  return open.op("Mul", [open.op("Div", [rows, length]), known(scale!)]);
}

/** Flat rows as [texts, length, heads, dim]. */
function byHead(open: OpenGraph, x: string, heads: number, { sizes }: OpenInputs): string {
  return open.op("Reshape", [x, open.op("Concat", [sizes, open.ints([heads, -1])], { axis: 0 })]);
}

function attention(
  open: OpenGraph,
  { inputs: names, attrs, width }: SizedNode,
  known: (name: string) => string,
  inputs: OpenInputs,
): string {
  const { heads, kvHeads, scale, softcap } = attrs as Attrs & Record<"heads" | "kvHeads" | "scale" | "softcap", number>;
  if (softcap !== undefined) throw new Error("attention with a cap has no form with open sizes");
  const [q, k, v] = names.slice(0, 3).map((name, i) => byHead(open, known(name), i === 0 ? heads : kvHeads, inputs));
  const turned = (x: string, perm: readonly number[]) => open.op("Transpose", [x], { perm });
  const seen = inputs.seen.get(names[3]!);
  if (seen === undefined) throw new Error(`nobody says what ${names[3]} is with open sizes`);
  const [queries, keys, values] = [turned(q!, [0, 2, 1, 3]), turned(k!, [0, 2, 3, 1]), turned(v!, [0, 2, 1, 3])];
  // Query heads that share a key and a value have the same number in a size of their own.
  const shared = (x: string) => (heads === kvHeads ? x : open.op("Unsqueeze", [x, open.ints([2])]));
  const grouped = (x: string) =>
    heads === kvHeads
      ? x
      : open.op("Reshape", [x, open.op("Concat", [open.ints([0, kvHeads, heads / kvHeads]), end(x)], { axis: 0 })]);
  const end = (x: string) => open.op("Slice", [open.op("Shape", [x]), open.ints([2]), open.ints([4])]);
  const products = open.op("MatMul", [grouped(queries), shared(keys)]);
  const scores = open.op("Mul", [products, open.scalar(scale)]);
  // No infinity: the scores of padding that sees nothing must not become NaN.
  const masked = open.op("Where", [shared(seen), scores, open.scalar(LEAST)]);
  const mixed = open.op("MatMul", [open.op("Softmax", [masked], { axis: -1 }), shared(values)]);
  const last = heads === kvHeads ? turned(mixed, [0, 2, 1, 3]) : turned(mixed, [0, 3, 1, 2, 4]);
  return open.op("Reshape", [last, open.ints([-1, width])]);
}

/** The score of a token that is not seen: the least number of float32. */
const LEAST = -3.4028234663852886e38;

function rope(
  open: OpenGraph,
  { inputs: names, attrs, width }: SizedNode,
  known: (name: string) => string,
  inputs: OpenInputs,
): string {
  const { heads, rotaryDim, neighbours = 0 } = attrs as Record<"heads" | "rotaryDim" | "neighbours", number>;
  if (neighbours) throw new Error("rotary positions of neighbours have no form with open sizes");
  if (heads * rotaryDim !== width) throw new Error("a head that is not rotated whole has no form with open sizes");
  const [x, cos, sin] = names.map(known);
  const split = byHead(open, x!, heads, inputs);
  const [a, b] = open.ops("Split", [split, open.ints([rotaryDim / 2, rotaryDim / 2])], { axis: 3 }, 2);
  const [c, s] = [cos!, sin!].map((table) => open.op("Unsqueeze", [table, open.ints([0, 2])]));
  const times = (left: string, right: string) => open.op("Mul", [left, right]);
  const turned = [open.op("Sub", [times(a!, c!), times(b!, s!)]), open.op("Add", [times(b!, c!), times(a!, s!)])];
  return open.op("Reshape", [open.op("Concat", turned, { axis: 3 }), open.ints([-1, width])]);
}
