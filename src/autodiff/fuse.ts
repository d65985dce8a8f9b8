import { useCounts } from "../graph/passes.ts";
import { type Graph, type Node, sameType } from "../graph/types.ts";
import { opOf } from "../ops/index.ts";

/**
 * Turns `Add(x, op(...))` into `op(..., x)` for operators that can start from an accumulator, so that a gradient is
 * summed in place by the kernel that computes it. Applies where the operator's result has no other use and the
 * accumulator input is free. Values in `exact` keep the arithmetic that they have: a forward value that is computed again
 * must come out as it did the first time.
 */
export function fuseAccumulation(graph: Graph, exact: ReadonlySet<string> = new Set()): Graph {
  let nodes = [...graph.nodes];
  for (let changed = true; changed;) {
    changed = false;
    const uses = useCounts({ nodes, outputs: graph.outputs });
    const producers = new Map<string, number>();
    nodes.forEach((node, index) => node.outputs.forEach((output) => producers.set(output, index)));
    for (let at = 0; at < nodes.length && !changed; at++) {
      const add = nodes[at]!;
      if (add.op !== "Add" || exact.has(add.outputs[0]!)) continue;
      for (const [addend, result] of [
        [add.inputs[0]!, add.inputs[1]!],
        [add.inputs[1]!, add.inputs[0]!],
      ] as const) {
        const index = producers.get(result);
        if (index === undefined || uses.get(result) !== 1) continue;
        const fused = accumulate(nodes[index]!, result, addend, add.outputs[0]!);
        if (!fused || !sameType(graph.types.get(addend)!, graph.types.get(result)!)) continue;
        const rest = nodes.slice(index + 1, at);
        if ((producers.get(addend) ?? -1) < index) {
          nodes = [...nodes.slice(0, index), fused, ...rest, ...nodes.slice(at + 1)];
        } else {
          // The accumulator is made later: the operator moves down to the Add, unless its other outputs are used before.
          const others = fused.outputs.filter((output) => output !== add.outputs[0]);
          if (rest.some((node) => node.inputs.some((input) => others.includes(input)))) continue;
          nodes = [...nodes.slice(0, index), ...rest, fused, ...nodes.slice(at + 1)];
        }
        changed = true;
        break;
      }
    }
  }
  return { ...graph, nodes };
}

function accumulate(node: Node, result: string, addend: string, sum: string): Node | null {
  const { accumulates } = opOf(node);
  if (!accumulates || node.outputs[accumulates.output] !== result) return null;
  const inputs = [...node.inputs];
  while (inputs.length <= accumulates.input) inputs.push("");
  if (inputs[accumulates.input] !== "") return null;
  inputs[accumulates.input] = addend;
  return { ...node, inputs, outputs: node.outputs.map((output) => (output === result ? sum : output)) };
}
