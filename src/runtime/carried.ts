import { accumulatorOf, programsOf, type Segment } from "../graph/segment.ts";
import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { type Address, align } from "./executor.ts";

/**
 * Carried values: what a segment makes for several later ones, beside its boundary, such as keys and values that later layers attend to.
 * Each has one place as long as its model, and so has its gradient; the chain that schedules are made for is the same as without them. At the
 * peak of a step, where the forward ends, all of them would be in memory in any case. A replay writes the same bits again to the same place.
 * The takers' backwards, from the last to the first, add to the gradient; the maker's reads the sum. So it has the same bits by every schedule.
 */

/** Name of the gradient of a carried value. */
const gradientOf = (name: string): string => `d.${name}`;

/** By name of a carried value, or of its gradient: its input or output in a graph of the segment. */
export function carriedIn({ carried }: Pick<Segment, "carried">, graph: Graph): Map<string, string> {
  const found = new Map<string, string>();
  for (const [own, name] of carried ?? []) {
    const value = [...graph.outputs, ...graph.inputs].find(({ carries }) => carries === own);
    if (value) found.set(name, value.name);
    const accumulator = accumulatorOf(own);
    if (graph.inputs.some((input) => input.role === "carried-grad" && input.name === accumulator))
      found.set(gradientOf(name), accumulator);
  }
  return found;
}

/** Bytes of the carried values, and of their gradients, of chains of which one runs at a time. */
export interface CarriedBytes {
  readonly values: ReadonlyMap<string, number>;
  readonly gradients: ReadonlyMap<string, number>;
}

export function carriedBytes(chains: Iterable<readonly Segment[]>): CarriedBytes {
  const values = new Map<string, number>();
  const gradients = new Map<string, number>();
  for (const segment of [...chains].flat()) {
    const names = new Set(segment.carried?.values());
    if (names.size === 0) continue;
    for (const [, graph] of programsOf(segment.model)) {
      for (const [name, value] of carriedIn(segment, graph)) {
        const sizes = names.has(name) ? values : gradients;
        sizes.set(name, Math.max(sizes.get(name) ?? 0, align(byteLength(typeOf(graph, value)))));
      }
    }
  }
  return { values, gradients };
}

export function carriedTotal({ values, gradients }: CarriedBytes): number {
  return [...values.values(), ...gradients.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** Where carried values and their gradients are. */
export interface CarriedPlaces {
  readonly addresses: ReadonlyMap<string, Address>;
  /** The gradients, which begin with zeros in each micro-batch. */
  readonly gradients: readonly { readonly address: Address; readonly bytes: number }[];
}

/** @param place reserves bytes */
export function placeCarried({ values, gradients }: CarriedBytes, place: (bytes: number) => Address): CarriedPlaces {
  const addresses = new Map([...values, ...gradients].map(([name, bytes]) => [name, place(bytes)]));
  return { addresses, gradients: Array.from(gradients, ([name, bytes]) => ({ address: addresses.get(name)!, bytes })) };
}

/** A chain in which nothing is carried. */
export const NOTHING_CARRIED: CarriedPlaces = { addresses: new Map(), gradients: [] };
