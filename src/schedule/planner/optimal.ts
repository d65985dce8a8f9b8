/**
 * The optimal planner: fills a table with the least times of all subproblems of `recurrence.ts` over memory slots, and
 * reads schedules out of it.
 *
 * Slots. When the greatest common divisor of all sizes is coarse enough, it is the slot, and the table is exact. Otherwise
 * sizes are rounded to the nearest slot (rounding up would lose up to 83 %), which may err either way. A schedule is
 * therefore read out in exact bytes: a choice is allowed only when its own steps and the exact minima of what it leaves
 * fit, and the table only ranks the allowed choices. Such a schedule exists for every limit from the least one on and
 * never exceeds it. Each schedule is simulated before it is given out.
 */
import type { Chain } from "../chain.ts";
import { canonicalIntervals } from "./intervals.ts";
import { bestMixture } from "./mixture.ts";
import type { Schedule } from "../ops.ts";
import { readSchedule } from "./read.ts";
import { makeRecurrence } from "./recurrence.ts";
import { simulate, type Simulation } from "../simulate.ts";
import { fittingUnit, MOST_SLOTS, sizeDivisor } from "./slots.ts";
import { extremes, fillTable, layoutTable, type Table, timeAt } from "./table.ts";

export interface Planned {
  readonly schedule: Schedule;
  readonly simulation: Simulation;
}

export interface Planner {
  readonly chain: Chain;
  /** Least peak of any schedule of the planner's family, in exact bytes. */
  readonly leastMemory: number;
  /** The fastest schedule without a limit. */
  readonly fastest: Planned;
  /** The fastest schedule whose peak is at most `memory` bytes, or null when `memory < leastMemory`. */
  plan(memory: number): Planned | null;
  /** Schedules over the whole range by one table, least memory first; each is faster than the one before it. */
  curve(): Planned[];
}

export interface PlannerOptions {
  /** Rounds sizes to this many slots, for experiments; by default the slots are as small as the work allows. */
  readonly slots?: number;
  /** Inner steps (1 to 2 ns each) that one table may take, by an estimate that ignores what is cut off. */
  readonly work?: number;
  /** Entries of 8 bytes that one table may have. */
  readonly entries?: number;
  /** Called between pieces of work, each of which leaves some hundred KB behind that may be collected. */
  readonly pause?: () => void;
}

const DEFAULT_WORK = 1e8;
const DEFAULT_ENTRIES = 2e7;
/** Slots of the first layout, by which the work of others is foreseen. */
const FIRST_SLOTS = 500;

/**
 * Factors by which memory counts as more or less than it is when a rounded table is read. What the roundings of a
 * schedule add up to is not known beforehand, so the best of several readings loses far less than a single one.
 */
const READINGS = [1, 0.99, 1.01, 0.98, 1.02, 0.97, 1.03, 0.96, 1.04, 0.95, 1.06, 1.08, 1.1];
const LARGEST_READING = 1.1;
/** A table whose slots are larger than this many boundaries misleads; mixtures are better than that. */
const COARSE = 3;
const CURVE_POINTS = 80;
const MOST_CURVE_STEPS = 320;
/** Long chains have fewer readings, because each takes milliseconds. */
const LONG_CHAIN = 64;
const LONG_CHAIN_READINGS = 5;

export function makePlanner(chain: Chain, options: PlannerOptions = {}): Planner {
  const recurrence = makeRecurrence(chain, canonicalIntervals(chain));
  const bounds = extremes(recurrence);
  const root = recurrence.forC(1, chain.n);
  const divisor = sizeDivisor(chain);
  const work = options.work ?? DEFAULT_WORK;
  const entries = options.entries ?? DEFAULT_ENTRIES;
  const pause = options.pause ?? (() => {});
  const readings = chain.n <= LONG_CHAIN ? READINGS : READINGS.slice(0, LONG_CHAIN_READINGS);

  const read = (table: Table, memory: number): Planned => {
    pause();
    const schedule = readSchedule(chain, recurrence, bounds, table, memory);
    return { schedule, simulation: simulate(chain, schedule) };
  };
  // With slots of infinite size every subproblem fits in slot 0: the table holds the least times without a limit.
  const unlimited = fillTable(recurrence, layoutTable(recurrence, bounds, Infinity, 0));
  const fastest = read(unlimited, Number.MAX_VALUE);
  const enough = fastest.simulation.peak;
  const bound = chain.a[0]! + bounds.least[root]!;
  // Sums of sizes that are not whole numbers depend on their order: there the simulator's counts.
  const smallest = divisor > 0 ? null : read(unlimited, bound);
  const leastMemory = Math.max(bound, smallest?.simulation.peak ?? 0);

  const boundary = typical(chain.a);
  let exact: { readonly table: Table; readonly memory: number } | undefined;
  /** A table for limits up to `memory`, or undefined where it would be too coarse to be of use. */
  const tableFor = (memory: number): Table | undefined => {
    if (exact && memory <= exact.memory) return exact.table;
    const layout = (unit: number) => layoutTable(recurrence, bounds, unit, memory * LARGEST_READING);
    if (options.slots) return fillTable(recurrence, layout(fittingUnit(chain, memory / options.slots)));
    const first = layout(Math.max(divisor, memory / FIRST_SLOTS));
    // Work and entries grow as the slots shrink.
    const affordable = first.unit * Math.max(first.work / work, first.entries / entries);
    if (divisor >= affordable) {
      // An exact table does not depend on the limit.
      exact = { table: fillTable(recurrence, layout(divisor)), memory };
      return exact.table;
    }
    if (affordable > COARSE * boundary) return undefined;
    return fillTable(recurrence, layout(fittingUnit(chain, Math.max(affordable, memory / MOST_SLOTS))));
  };
  /** Schedules within a limit, by a table or by mixtures; `memory` is at least the least. */
  const candidates = (table: Table | undefined, memory: number): Planned[] => {
    // All peaks are multiples of the divisor, so nothing is lost by rounding the limit down to one.
    if (table && table === exact?.table) return [read(table, Math.floor(memory / divisor) * divisor)];
    const mixture = bestMixture(chain, memory);
    const tables = table ? readings.map((factor) => ({ ...table, unit: table.unit / factor })) : mixture ? [] : [unlimited];
    const plans = [...(mixture ? [mixture] : []), ...tables.map((view) => read(view, memory))];
    return smallest ? [smallest, ...plans.filter(({ simulation }) => simulation.peak <= memory)] : plans;
  };

  return {
    chain,
    leastMemory,
    fastest,
    plan(memory) {
      if (!(memory >= leastMemory)) return null;
      return memory >= enough ? fastest : cheapest(candidates(tableFor(memory), memory));
    },
    curve() {
      const table = tableFor(enough);
      const limits = table && table === exact?.table ? steps(table, root).map((bytes) => bytes + chain.a[0]!) : [];
      // Each limit is a little larger than the one before: small limits are where time changes fastest.
      for (let i = 0; i < CURVE_POINTS; i++) limits.push(leastMemory * (enough / leastMemory) ** (i / CURVE_POINTS));
      const points = limits.map((memory) => cheapest(candidates(table, memory)));
      return frontier([...points, fastest]);
    },
  };
}

/** Bytes at which the time of a row falls: all of them, or an even choice when there are very many. */
function steps(table: Table, row: number): number[] {
  const found: number[] = [];
  let known = Infinity;
  for (let slot = table.least[row]!; slot < table.enough[row]!; slot++) {
    const time = timeAt(table, row, slot * table.unit);
    if (time < known) found.push(slot * table.unit);
    known = time;
  }
  const stride = Math.ceil(found.length / MOST_CURVE_STEPS);
  return found.filter((_, i) => i % stride === 0);
}

/** The median of the sizes that are not 0. */
function typical(sizes: readonly number[]): number {
  const sorted = sizes.filter((size) => size > 0).toSorted((x, y) => x - y);
  return sorted[sorted.length >> 1] ?? 0;
}

function cheapest(plans: readonly Planned[]): Planned {
  return plans.reduce((best, plan) => (plan.simulation.time < best.simulation.time ? plan : best));
}

/** The points that no other one betters, by growing peak. */
export function frontier(points: readonly Planned[]): Planned[] {
  const sorted = points.toSorted((x, y) => x.simulation.peak - y.simulation.peak || x.simulation.time - y.simulation.time);
  let time = Infinity;
  return sorted.filter(({ simulation }) => {
    const better = simulation.time < time;
    if (better) time = simulation.time;
    return better;
  });
}
