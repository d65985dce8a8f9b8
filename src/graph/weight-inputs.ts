import type { Graph } from "./types.ts";

/** The inputs of role `param` that no output updates. */
export function weightInputs(graph: Graph): string[] {
  const updated = new Set(graph.outputs.map(({ updates }) => updates));
  return graph.inputs.filter(({ name, role }) => role === "param" && !updated.has(name)).map(({ name }) => name);
}

/** The weights of which a graph reads the rows that the batch's `ids` list, and nothing else. */
export interface TableInputs {
  readonly tables: ReadonlySet<string>;
  /** True if ids mean nothing else, so that the rows can be numbered anew. */
  readonly isAlone: boolean;
}

/**
 * Looks for tables in a graph. A kernel that widens a table first reads all of it, so that only executors which elide that
 * (`halves: "weights"`) look through a Cast.
 */
export function tableInputs(graph: Graph, looksThroughCasts: boolean): TableInputs {
  const casts = looksThroughCasts ? graph.nodes.filter(({ op }) => op === "Cast") : [];
  const sources = new Map(casts.map(({ inputs, outputs }) => [outputs[0]!, inputs[0]!]));
  const gathers = graph.nodes.filter(({ op, inputs }) => op === "Gather" && inputs[1] === "ids");
  const read = gathers.map(({ inputs }) => sources.get(inputs[0]!) ?? inputs[0]!);
  const uses = (name: string) => graph.nodes.filter(({ inputs }) => inputs.includes(name));
  const tables = new Set(
    weightInputs(graph).filter((name) => {
      if (!read.includes(name)) return false;
      const direct = uses(name);
      const through = direct.filter(({ op }) => op === "Cast").flatMap(({ outputs }) => uses(outputs[0]!));
      return [...direct.filter(({ op }) => op !== "Cast"), ...through].every((node) => gathers.includes(node));
    }),
  );
  const isAlone = uses("ids").every(({ op, inputs }) => op === "Gather" && tables.has(sources.get(inputs[0]!) ?? inputs[0]!));
  return { tables, isAlone };
}
