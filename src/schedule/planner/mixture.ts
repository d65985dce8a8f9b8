/**
 * Mixtures: schedules for deep chains, in which a first run of segments is treated in one way and the others in another.
 *
 * In a chain of many equal segments the optimum is nearly a linear programme (so many bytes and so much time for each
 * segment treated in this or that way), whose solutions mix two ways. A mixture is therefore close to the optimum exactly
 * where a planning table is at its weakest, when a slot is larger than a boundary.
 */
import type { Chain } from "../chain.ts";
import type { Schedule } from "../ops.ts";
import { type Simulation, simulate } from "../simulate.ts";
import { type Group, groupedSchedule } from "../strategies.ts";

/** How a run of segments is treated: taped with a variant, or replayed in groups of a size. */
type Mode = { readonly variant: number } | { readonly size: number };

const GROUP_SIZES = [1, 2, 4, 8, 16, 32];

/** The fastest mixture within `memory` bytes, or null when none fits. */
export function bestMixture(chain: Chain, memory: number): { schedule: Schedule; simulation: Simulation } | null {
  const variants = Math.max(...chain.variants.map((list) => list.length));
  const modes: Mode[] = [
    ...Array.from({ length: variants + 1 }, (_, variant) => ({ variant })),
    ...GROUP_SIZES.filter((size) => size < chain.n).map((size) => ({ size })),
  ];
  let best: { schedule: Schedule; simulation: Simulation } | null = null;
  const evaluate = (count: number, first: Mode, rest: Mode): boolean => {
    const schedule = groupedSchedule(chain, [
      ...groups(first, chain.frozen + 1, chain.frozen + count),
      ...groups(rest, chain.frozen + count + 1, chain.n),
    ]);
    const simulation = simulate(chain, schedule);
    const fits = simulation.peak <= memory;
    if (fits && (!best || simulation.time < best.simulation.time)) best = { schedule, simulation };
    return fits;
  };
  const trainable = chain.n - chain.frozen;
  const alone = modes.map((mode) => evaluate(trainable, mode, mode));
  modes.forEach((small, s) => {
    if (!alone[s]) return;
    modes.forEach((large, l) => {
      if (alone[l]) return;
      // As many segments as possible in the way that does not fit alone, at either end.
      for (const largeFirst of [true, false]) {
        let [low, high] = [0, trainable];
        while (high - low > 1) {
          const count = (low + high) >> 1;
          const fits = largeFirst ? evaluate(count, large, small) : evaluate(trainable - count, small, large);
          if (fits) low = count;
          else high = count;
        }
      }
    });
  });
  return best;
}

function groups(mode: Mode, first: number, last: number): Group[] {
  const result: Group[] = [];
  const size = "size" in mode ? mode.size : 1;
  for (let s = first; s <= last; s += size) {
    const end = Math.min(last, s + size - 1);
    result.push(
      "size" in mode ? { first: s, last: end, replayed: true } : { first: s, last: end, replayed: false, variant: mode.variant },
    );
  }
  return result;
}
