import { commonSubexpressions, prune, rename } from "../graph/passes.ts";
import type { TrainingPrograms } from "../graph/segment.ts";
import type { Graph, GraphInput, Node } from "../graph/types.ts";
import { opOf } from "../ops/index.ts";
import type { JointGraph } from "./differentiate.ts";
import { fuseAccumulation } from "./fuse.ts";

/**
 * Decides whether a forward value that the backward needs goes into the tape; otherwise its node runs again there. It is
 * not asked about views and widened weights: they are free.
 */
export type ResidualPolicy = (value: string, node: Node) => boolean;

/** Splits a joint graph into the taped forward and the backward that meets it at the tape, and at the carried values that the forward makes. */
export function partition(joint: JointGraph, policy: ResidualPolicy): TrainingPrograms {
  const { graph, forwardNodes, forwardOutputs } = joint;
  const forward = graph.nodes.slice(0, forwardNodes);
  const backward = graph.nodes.slice(forwardNodes);
  const producers = new Map<string, Node>();
  for (const node of forward) for (const output of node.outputs) producers.set(output, node);

  const carried = carriedOf(joint);
  // A value has one place: what leaves as the boundary, which is gone when the backward runs, is computed again.
  const leaving = new Set(forwardOutputs.map(({ name }) => name));
  const tape = new Set<string>();
  const again = new Set<Node>();
  const need = (value: string): void => {
    const node = producers.get(value);
    if (!node || carried.has(value) || tape.has(value) || again.has(node)) return;
    if (!isFree(node, graph) && !leaving.has(value) && policy(value, node)) {
      tape.add(value);
    } else {
      again.add(node);
      node.inputs.forEach(need);
    }
  };
  for (const node of backward) node.inputs.forEach(need);
  for (const output of graph.outputs) need(output.name);

  const order = forward.flatMap((node) => node.outputs).filter((value) => tape.has(value));
  const taped: Graph = {
    ...graph,
    outputs: [...forwardOutputs, ...order.map((name) => ({ name, role: "tape" as const }))],
    nodes: forward,
  };
  const kept: GraphInput[] = [
    ...order.map((name) => ({ name, role: "tape" as const })),
    ...Array.from(carried, ([name, carries]) => ({ name, role: "carried" as const, carries })),
  ];
  const keptNames = new Set(kept.map(({ name }) => name));
  // A node that runs again may also write a taped value: that one is read from the tape, not written a second time.
  const recomputed = forward.filter((node) => again.has(node)).map((node) => withoutOutputs(node, keptNames));
  const types = new Map(graph.types);
  for (const node of recomputed)
    for (const output of node.outputs) if (!types.has(output)) types.set(output, types.get(originalName(output))!);
  const nodes = asLateAsPossible(recomputed, backward);
  const back: Graph = { ...graph, inputs: [...graph.inputs, ...kept], nodes, types };
  return {
    taped: prune(taped),
    backward: optimise(back, outputsOf(forward)),
    tape: order,
    recomputed: recomputed.filter((node) => !isFree(node, graph)).map((node) => originalName(node.outputs[0]!)),
  };
}

/** The values that a joint graph's forward makes for later segments, with the segment's own names of them. They outlive the step, and are read where they are. */
export function carriedOf({ forwardOutputs }: Pick<JointGraph, "forwardOutputs">): ReadonlyMap<string, string> {
  return new Map(forwardOutputs.flatMap(({ name, carries }) => (carries === undefined ? [] : [[name, carries] as const])));
}

/** Puts each node that runs again in front of its first use: what it makes is in memory no longer than it must be. */
function asLateAsPossible(again: readonly Node[], backward: readonly Node[]): Node[] {
  const waiting = new Map<string, Node>();
  for (const node of again) for (const output of node.outputs) waiting.set(output, node);
  const nodes: Node[] = [];
  const run = (node: Node): void => {
    for (const output of node.outputs) waiting.delete(output);
    for (const input of node.inputs) {
      const producer = waiting.get(input);
      if (producer) run(producer);
    }
    nodes.push(node);
  };
  for (const node of backward) run(node);
  // What no node uses may still be an output of the graph.
  for (const node of again) if (waiting.get(node.outputs[0]!) === node) run(node);
  return nodes;
}

/** Forward and backward in one program: no tape, the loss comes from the backward operator that also computes it. */
export function fuse(joint: JointGraph): Graph {
  const { graph, forwardOutputs } = joint;
  const outputs = [...forwardOutputs.filter((output) => output.role === "loss"), ...graph.outputs];
  return optimise(lossFromGradient({ ...graph, outputs }), outputsOf(graph.nodes.slice(0, joint.forwardNodes)));
}

/** Dead code, common subexpressions and accumulation in place (not of the values in `exact`; see `fuseAccumulation`). */
export function optimise(graph: Graph, exact?: ReadonlySet<string>): Graph {
  return prune(fuseAccumulation(commonSubexpressions(prune(graph)), exact));
}

const outputsOf = (nodes: readonly Node[]): Set<string> => new Set(nodes.flatMap((node) => node.outputs));

/** `LinearCrossEntropyGrad` computes the loss on its way: with both in one graph the forward operator is not run. */
function lossFromGradient(graph: Graph): Graph {
  const names = new Map<string, string>();
  for (const node of graph.nodes) {
    if (node.op !== "LinearCrossEntropy") continue;
    const twin = graph.nodes.find(
      (other) =>
        other.op === "LinearCrossEntropyGrad" &&
        // Behind the first four inputs the gradient has dloss and sum.
        node.inputs.every((input, i) => other.inputs[i < 4 ? i : i + 2] === input),
    );
    if (twin) names.set(node.outputs[0]!, twin.outputs[2]!);
  }
  return rename(graph, names);
}

/** Views cost nothing, and a widened weight is never worth keeping: the weight is there anyway. */
export function isFree(node: Node, graph: Graph): boolean {
  if (opOf(node).view) return true;
  return (
    (node.op === "Cast" || node.op === "Dequantize") &&
    graph.inputs.some((input) => input.name === node.inputs[0] && input.role === "param")
  );
}

const SPARE = "again.";
const originalName = (name: string): string => (name.startsWith(SPARE) ? name.slice(SPARE.length) : name);

function withoutOutputs(node: Node, taken: ReadonlySet<string>): Node {
  return { ...node, outputs: node.outputs.map((output) => (taken.has(output) ? SPARE + output : output)) };
}
