import { type Graph, type Node, typeOf } from "./types.ts";

/** Rebuilds a graph around other nodes, and drops what its outputs do not need: nodes, inputs and types. */
export function prune(graph: Graph): Graph {
  const live = new Set(graph.outputs.map((output) => output.name));
  const nodes: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    if (!node.outputs.some((output) => live.has(output))) continue;
    for (const input of node.inputs) if (input !== "") live.add(input);
    nodes.push(node);
  }
  nodes.reverse();
  const inputs = graph.inputs.filter((input) => live.has(input.name));
  const names = new Set(inputs.map((input) => input.name));
  for (const node of nodes) for (const output of node.outputs) names.add(output);
  const types = new Map([...names].map((name) => [name, typeOf(graph, name)]));
  return { name: graph.name, inputs, outputs: graph.outputs, nodes, types };
}

/** Replaces each use of a value in nodes and outputs. `outputs` keep their role. */
export function rename(graph: Graph, names: ReadonlyMap<string, string>): Graph {
  const to = (name: string) => names.get(name) ?? name;
  return {
    ...graph,
    nodes: graph.nodes.map((node) => ({ ...node, inputs: node.inputs.map(to) })),
    outputs: graph.outputs.map((output) => ({ ...output, name: to(output.name) })),
  };
}

/** Common subexpressions: two nodes of one operator, inputs and attributes become one. Every operator is pure. */
export function commonSubexpressions(graph: Graph): Graph {
  const seen = new Map<string, readonly string[]>();
  const names = new Map<string, string>();
  const nodes: Node[] = [];
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((input) => names.get(input) ?? input);
    const key = JSON.stringify([node.op, inputs, Object.entries(node.attrs).sort()]);
    const twin = seen.get(key);
    if (twin) {
      node.outputs.forEach((output, i) => names.set(output, twin[i]!));
    } else {
      seen.set(key, node.outputs);
      nodes.push({ ...node, inputs });
    }
  }
  return prune(rename({ ...graph, nodes }, names));
}

/** How many times each value is used by nodes and outputs. */
export function useCounts(graph: Pick<Graph, "nodes" | "outputs">): Map<string, number> {
  const counts = new Map<string, number>();
  const count = (name: string) => counts.set(name, (counts.get(name) ?? 0) + 1);
  for (const node of graph.nodes) for (const input of node.inputs) if (input !== "") count(input);
  for (const output of graph.outputs) count(output.name);
  return counts;
}
