import { prune } from "../graph/passes.ts";
import { type Segment, tapedPrograms } from "../graph/segment.ts";
import { byteLength, type Graph, type TensorType, typeOf } from "../graph/types.ts";
import type { Programs } from "./chain.ts";
import { align } from "./executor.ts";

/** The part of a program that makes forward values, with every one of them as an output: what replay checks compare. */
export interface Probe {
  readonly graph: Graph;
  /** Values that it makes, in order of execution, with their places relative to the probe's memory. */
  readonly values: readonly { readonly name: string; readonly op: string; readonly offset: number; readonly type: TensorType }[];
  /** Bytes of values and workspace. */
  readonly bytes: number;
}

/** The probes of a model's forward programs, and of the backward programs that compute forward values again. */
export interface Probes {
  of(graph: Graph): Probe;
  /** Bytes that any of them needs at most. */
  readonly bytes: number;
}

export function createProbes(segments: readonly Segment[], programs: Programs): Probes {
  const probes = new Map<Graph, Probe>();
  for (const model of new Set(segments.map((segment) => segment.model))) {
    if (model.fused) continue;
    probes.set(
      model.forward,
      probeOf(model.forward, () => true, programs),
    );
    const values = new Set(model.forward.nodes.flatMap((node) => node.outputs));
    for (const { backward } of tapedPrograms(model)) {
      probes.set(
        backward,
        probeOf(backward, (name) => values.has(name), programs),
      );
    }
  }
  return {
    of(graph) {
      const probe = probes.get(graph);
      if (!probe) throw new Error(`${graph.name} has no probe`);
      return probe;
    },
    bytes: Math.max(0, ...[...probes.values()].map(({ bytes }) => bytes)),
  };
}

function probeOf(graph: Graph, wanted: (name: string) => boolean, programs: Programs): Probe {
  const made = graph.nodes
    .flatMap((node) => node.outputs.map((name) => ({ name, op: node.op })))
    .filter(({ name }) => wanted(name));
  const roles = new Map(graph.outputs.map(({ name, role }) => [name, role]));
  const probe = prune({
    ...graph,
    outputs: made.map(({ name }) => ({ name, role: roles.get(name) === "boundary" ? ("boundary" as const) : ("tape" as const) })),
  });
  let bytes = 0;
  const values = made.map(({ name, op }) => {
    const type = typeOf(graph, name);
    const value = { name, op, offset: bytes, type };
    bytes += align(byteLength(type));
    return value;
  });
  return { graph: probe, values, bytes: bytes + (made.length > 0 ? align(programs.of(probe).workspace) : 0) };
}
