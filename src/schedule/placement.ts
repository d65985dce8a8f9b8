/**
 * Offline placement of a schedule: gives every boundary, tape, gradient and workspace a fixed place in one arena, so that
 * nothing has to be allocated while the steps run. The orders tried here reach the lower bound on the schedules of language
 * models, whose boundaries and tapes come and go like a stack.
 */
import { bestPlacement, findGap, type Fit, type Interval } from "../base/intervals.ts";
import type { Chain } from "./chain.ts";
import type { Schedule } from "./ops.ts";
import { type Item, simulate } from "./simulate.ts";

/** Offsets and sizes are multiples of this many bytes. */
export const PLACEMENT_ALIGNMENT = 64;

/** An item with its place. `bytes` is aligned and `last` is its last use: later its memory is free again. */
export interface PlacedItem extends Interval, Pick<Item, "kind" | "index"> {
  readonly offset: number;
}

export interface Placement {
  /** All items, those of 0 bytes included. */
  readonly items: readonly PlacedItem[];
  /** Bytes of the arena. */
  readonly extent: number;
  /** Largest sum of live bytes of any step: no placement can need less. */
  readonly lowerBound: number;
}

/** Describes what has to be placed. */
export type Lifetime = Omit<PlacedItem, "offset">;

/**
 * Places the stash and the workspaces of a schedule. An item lives from the step that makes it to its last use. The
 * workspace of a step has the step's number as its index.
 */
export function placeSchedule(chain: Chain, schedule: Schedule): Placement {
  return place(scheduleLifetimes(chain, schedule));
}

function scheduleLifetimes(chain: Chain, schedule: Schedule): Lifetime[] {
  const { items, steps } = simulate(chain, schedule);
  const lifetimes: Lifetime[] = items.map(({ kind, index, bytes, first, last, lastUse }) => ({
    kind,
    index,
    bytes: aligned(bytes),
    first,
    // A parameter gradient is read after the schedule's end.
    last: kind === "param-grad" ? last : lastUse,
  }));
  steps.forEach(({ workspace }, step) => {
    lifetimes.push({ kind: "workspace", index: step, bytes: aligned(workspace), first: step, last: step });
  });
  return lifetimes;
}

/** Places items of given lifetimes. Tries a fixed list of ways and stops at the first that reaches the lower bound. */
export function place(lifetimes: readonly Lifetime[]): Placement {
  const { offsets, extent, lowerBound } = bestPlacement(lifetimes, (bound) => sweeps(lifetimes, bound));
  return { items: lifetimes.map((item, i) => ({ ...item, offset: offsets[i]! })), extent, lowerBound };
}

function* sweeps(lifetimes: readonly Lifetime[], lowerBound: number): Generator<Float64Array> {
  const starts = startsOf(lifetimes);
  let left = Math.max(5, Math.floor(SWEPT_ITEMS / lifetimes.length));
  for (const fit of ["first", "best"] as const) {
    for (const brief of BRIEF_STEPS) {
      const ranks = Int32Array.from(lifetimes, ({ first, last }) => (last - first < brief ? 0 : -1));
      for (let round = 0; round <= IMPROVEMENTS; round++) {
        const offsets = sweep(lifetimes, starts, ranks, fit);
        yield offsets;
        if (--left === 0) return;
        // Local improvement: what did not fit under the bound is placed earlier in the next round.
        lifetimes.forEach(({ bytes }, i) => {
          if (offsets[i]! + bytes > lowerBound) ranks[i]!--;
        });
      }
    }
  }
}

/** Bound of the search: items placed by all sweeps together (about 10 us each where a thousand are live). */
const SWEPT_ITEMS = 5e4;

/** Items that live for fewer steps than this come last; 2, which takes in tapes that are read at once, is nearly always best. */
const BRIEF_STEPS = [2, 1, 3, 8, 32];

/** Rounds of local improvement of each way. */
const IMPROVEMENTS = 4;

/** [steps] items that take memory, by first step. */
function startsOf(lifetimes: readonly Lifetime[]): number[][] {
  const steps = lifetimes.reduce((count, { last }) => Math.max(count, last + 1), 0);
  const starts = Array.from({ length: steps }, (): number[] => []);
  lifetimes.forEach(({ first, last, bytes }, i) => {
    if (bytes > 0 && last >= first) starts[first]!.push(i);
  });
  return starts;
}

/**
 * Places the items in passes, lowest rank first. A pass goes through the steps in order and puts each item into a gap
 * between the items that share a step with it and have a place already: the lowest that is large enough (`first`) or the smallest
 * (`best`). Brief items come in a late pass, so that they don't cut the room of long-lived ones into pieces.
 */
function sweep(
  lifetimes: readonly Lifetime[],
  starts: readonly (readonly number[])[],
  ranks: Int32Array,
  fit: Fit,
): Float64Array {
  const offsets = new Float64Array(lifetimes.length);
  const byOffset = (i: number, j: number) => offsets[i]! - offsets[j]!;
  for (const rank of [...new Set(ranks)].toSorted((x, y) => x - y)) {
    /** Items with a place that are live at the current step, by offset. */
    let live: number[] = [];
    starts.forEach((made, step) => {
      live = live.filter((i) => lifetimes[i]!.last >= step);
      const placed = made.filter((i) => ranks[i]! < rank);
      if (placed.length > 0) live = live.concat(placed).sort(byOffset);
      const mine = made.filter((i) => ranks[i] === rank);
      // What stays longest goes lowest.
      mine.sort((i, j) => lifetimes[j]!.last - lifetimes[i]!.last || lifetimes[j]!.bytes - lifetimes[i]!.bytes);
      for (const i of mine) {
        const later: number[] = [];
        for (let ahead = step + 1; ahead <= lifetimes[i]!.last; ahead++) {
          for (const j of starts[ahead]!) if (ranks[j]! < rank) later.push(j);
        }
        const around = later.length > 0 ? live.concat(later).sort(byOffset) : live;
        offsets[i] = findGap(lifetimes, offsets, around, lifetimes[i]!.bytes, fit);
        live.splice(lowerIndex(live, offsets, offsets[i]!), 0, i);
      }
    });
  }
  return offsets;
}

function lowerIndex(sorted: readonly number[], offsets: Float64Array, offset: number): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (offsets[sorted[middle]!]! < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / PLACEMENT_ALIGNMENT) * PLACEMENT_ALIGNMENT;
}
