import { byteLength, typeOf } from "../graph/types.ts";
import type { Programs } from "../runtime/chain.ts";
import { type Address, align, type Call, type Executor } from "../runtime/executor.ts";
import { isOutside, OUTSIDE, type OutsideMemory } from "../runtime/streaming/outside.ts";
import type { Graph } from "../graph/types.ts";

/** A call of an update, whose inputs have addresses in memory or outside; an output has that of the input that it updates. */
export interface UpdateProgram {
  readonly graph: Graph;
  readonly addresses: ReadonlyMap<string, Address>;
}

/** Bytes that the inputs of a program have in a window. */
function windowBytesOf(graph: Graph, addresses: ReadonlyMap<string, Address>): number {
  return graph.inputs
    .filter(({ name }) => isOutside(addresses.get(name)!))
    .reduce((bytes, { name }) => bytes + align(byteLength(typeOf(graph, name))), 0);
}

/** True for an input of an update's programs that is trained state. */
function isOutsideInput(graph: Graph, input: string): boolean {
  return graph.inputs.find(({ name }) => name === input)!.role !== "batch";
}

/** Bytes for two calls of an update with all that they read and write, besides workspace; one is computed while the other moves. */
export function updateWindowBytes(graphs: readonly Graph[]): number {
  const each = graphs.map((graph) =>
    graph.inputs
      .filter(({ name }) => isOutsideInput(graph, name))
      .reduce((bytes, { name }) => bytes + align(byteLength(typeOf(graph, name))), 0),
  );
  return 2 * Math.max(0, ...each);
}

/**
 * Binds calls that follow each other to two halves of a window, where their inputs come from outside in turn, and what they update goes out
 * from. Returns what runs them all, in order.
 */
export function bindOutsideCalls(
  executor: Executor,
  programs: Programs,
  calls: readonly UpdateProgram[],
  outside: OutsideMemory,
  window: Address,
  workspace: Address,
): () => void {
  const half = Math.max(0, ...calls.map(({ graph, addresses }) => windowBytesOf(graph, addresses)));
  const bound = calls.map(({ graph, addresses }, i) => {
    let at = window + (i % 2) * half;
    const places = new Map(addresses);
    const loads = graph.inputs.flatMap(({ name }) => {
      const from = addresses.get(name)!;
      if (!isOutside(from)) return [];
      const bytes = byteLength(typeOf(graph, name));
      const address = at;
      at += align(bytes);
      places.set(name, address);
      return [{ name, from: from - OUTSIDE, bytes, address }];
    });
    for (const { name, updates } of graph.outputs) if (updates !== undefined) places.set(name, places.get(updates)!);
    const updated = new Set(graph.outputs.map(({ updates }) => updates));
    const call: Call = executor.bind(programs.of(graph), places, workspace);
    return { call, loads, stores: loads.filter(({ name }) => updated.has(name)) };
  });
  return () => {
    const tickets: number[] = [];
    const begin = (i: number) => {
      for (const { from, bytes, address } of bound[i]?.loads ?? []) tickets[i] = outside.fetch(from, bytes, address);
    };
    begin(0);
    bound.forEach(({ call, stores }, i) => {
      // Its half of the window is that of the call before, whose results go out first.
      begin(i + 1);
      if (tickets[i] !== undefined) outside.waitFetched(tickets[i]!);
      executor.run(call);
      for (const { from, bytes, address } of stores) outside.store(address, bytes, from);
    });
    outside.finish();
  };
}
