import { accumulatorOf } from "../../graph/segment.ts";
import { byteLength, type Graph, typeOf } from "../../graph/types.ts";
import { planWindow, type WindowUse } from "../../schedule/window.ts";
import type { Address, Executor } from "../executor.ts";
import { OUTSIDE, type OutsideMemory } from "./outside.ts";

/**
 * Parameter gradients that lie outside: each program that adds to some has them in a window while it runs, and they go out behind it, while
 * the next program computes.
 */
export interface GradientWindow {
  readonly outside: OutsideMemory;
  readonly address: Address;
  readonly bytes: number;
  /** By parameter: where its gradient lies outside. */
  readonly places: ReadonlyMap<string, Address>;
  /** Parameters whose gradient is 0 whatever lies outside: nothing was added to it so far. */
  readonly clean: Set<string>;
}

/** A program of a sequence, with what it calls its parameters. */
export interface GradientProgram {
  readonly graph: Graph;
  readonly params: ReadonlyMap<string, string>;
}

/** By program: the gradients that it adds to. */
export function gradientUses(
  sequence: readonly GradientProgram[],
): (WindowUse & { readonly param: string; readonly input: string })[] {
  return sequence.flatMap(({ graph, params }, at) =>
    graph.inputs
      .filter(({ role }) => role === "accumulator")
      .map(({ name }) => {
        const param = params.get(name.slice(accumulatorOf("").length))!;
        return { key: `${at} ${param}`, param, input: name, bytes: byteLength(typeOf(graph, name)), at };
      }),
  );
}

/** Bytes of a window in which one program's gradients can go out while the next program has its own there. */
export function gradientWindowBytes(sequence: readonly GradientProgram[]): number {
  const sums = new Map<number, number>();
  for (const { at, bytes } of gradientUses(sequence)) sums.set(at, (sums.get(at) ?? 0) + Math.ceil(bytes / 64) * 64);
  const each = [...sums.values()];
  return Math.max(0, ...each.map((bytes, i) => bytes + (each[i + 1] ?? 0)));
}

/** A sequence of programs bound to the window. */
export interface GradientSequence {
  /** Addresses of a program's accumulators by input, for binding. */
  places(index: number): ReadonlyMap<string, Address>;
  /** To be called before and after program `index` runs. */
  before(index: number): void;
  after(index: number): void;
}

/** @throws {Error} a window that is too small for the sequence */
export function bindGradients(
  executor: Executor,
  window: GradientWindow,
  sequence: readonly GradientProgram[],
): GradientSequence {
  const { outside, address, places, clean } = window;
  const uses = gradientUses(sequence);
  const plan = planWindow(uses, window.bytes);
  if (!plan) throw new Error(`a window of ${window.bytes} bytes is too small for the gradients of a program`);
  const { loads, loadOf } = plan;
  const placed = uses.map((use, i) => ({
    ...use,
    address: address + loads[loadOf[i]!]!.offset,
    after: loads[loadOf[i]!]!.after,
  }));
  const byProgram = sequence.map((_, at) => placed.filter((use) => use.at === at));
  /** By program: ticket of the last gradient that went out behind it in this run, or in the one before. */
  const stored = new Int32Array(sequence.length);
  let last = 0;
  return {
    places: (index) => new Map(byProgram[index]!.map(({ input, address }) => [input, address])),
    before(index) {
      const mine = byProgram[index]!;
      if (mine.length === 0) return;
      // What lies there from this run has gone out, and so has all of a run before.
      const after = Math.max(...mine.map((use) => use.after));
      if (after >= 0) outside.waitStored(stored[after]!);
      else outside.waitStored(last);
      let ticket = 0;
      for (const { param, bytes, address } of mine) {
        if (clean.has(param)) executor.zero(address, bytes);
        else ticket = outside.fetch(places.get(param)! - OUTSIDE, bytes, address);
      }
      if (ticket > 0) outside.waitFetched(ticket);
    },
    after(index) {
      for (const { param, bytes, address } of byProgram[index]!) {
        last = outside.store(address, bytes, places.get(param)! - OUTSIDE);
        stored[index] = last;
        clean.delete(param);
      }
    },
  };
}

/** Makes gradients that nothing was added to 0 outside, too, before all are read. */
export function settleGradients({ outside, places, clean }: GradientWindow, bytesOf: (param: string) => number): void {
  for (const param of clean) outside.zero(places.get(param)! - OUTSIDE, bytesOf(param));
  clean.clear();
}
