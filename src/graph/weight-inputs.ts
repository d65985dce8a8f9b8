import type { Graph } from "./types.ts";

/** The inputs of role `param` that no output updates. */
export function weightInputs(graph: Graph): string[] {
  const updated = new Set(graph.outputs.map(({ updates }) => updates));
  return graph.inputs.filter(({ name, role }) => role === "param" && !updated.has(name)).map(({ name }) => name);
}

/** Inputs that list the rows of tables that a batch reads, by id of a token: one for each table, so that the rows of one can be numbered anew alone. */
const ROW_INPUTS: readonly string[] = ["ids", "tableIds"];

/** The weights of which a graph reads the rows that one of the batch's lists of ids names, and nothing else. */
export interface TableInputs {
  /** The list of each table. */
  readonly tables: ReadonlyMap<string, string>;
  /** The lists in which ids mean nothing else, so that the rows can be numbered anew. */
  readonly alone: ReadonlySet<string>;
}

/**
 * Looks for tables in a graph. A kernel that widens a table first reads all of it, so that only executors which elide that
 * (`halves: "weights"`) look through a Cast.
 */
export function tableInputs(graph: Graph, looksThroughCasts: boolean): TableInputs {
  const casts = looksThroughCasts ? graph.nodes.filter(({ op }) => op === "Cast") : [];
  const sources = new Map(casts.map(({ inputs, outputs }) => [outputs[0]!, inputs[0]!]));
  const gathers = graph.nodes.filter(({ op, inputs }) => op === "Gather" && ROW_INPUTS.includes(inputs[1]!));
  const lists = new Map(gathers.map(({ inputs }) => [sources.get(inputs[0]!) ?? inputs[0]!, inputs[1]!]));
  const uses = (name: string) => graph.nodes.filter(({ inputs }) => inputs.includes(name));
  const tables = new Map(
    weightInputs(graph).flatMap((name) => {
      const list = lists.get(name);
      if (list === undefined) return [];
      const direct = uses(name);
      const through = direct.filter(({ op }) => op === "Cast").flatMap(({ outputs }) => uses(outputs[0]!));
      const all = [...direct.filter(({ op }) => op !== "Cast"), ...through];
      return all.every((node) => gathers.includes(node) && node.inputs[1] === list) ? [[name, list] as const] : [];
    }),
  );
  const isAlone = (list: string) =>
    uses(list).every(({ op, inputs }) => op === "Gather" && tables.has(sources.get(inputs[0]!) ?? inputs[0]!));
  return { tables, alone: new Set(ROW_INPUTS.filter(isAlone)) };
}
