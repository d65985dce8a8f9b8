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
import type { Chain } from "./chain.ts";
import { canonicalIntervals } from "./intervals.ts";
import { B, BR, DA, FA, FC, FN, type Op, type Schedule } from "./ops.ts";
import { makeRecurrence, NONE, type Option, type Recurrence } from "./recurrence.ts";
import { simulate, type Simulation } from "./simulate.ts";
import { leastBytes, makeTable, optionCount, sizeDivisor, type Table, timeAt } from "./table.ts";

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
  /** Memory slots where sizes have to be rounded (default 500; fewer for long chains without equal segments). */
  readonly slots?: number;
  /** Largest number of slots of an exact table (default 4000, fewer likewise); 0 rounds always. */
  readonly exactSlots?: number;
}

/** Largest number of inner steps (about 1 ns each) of one table. */
const WORK_LIMIT = 6e8;

export function makePlanner(chain: Chain, options: PlannerOptions = {}): Planner {
  const recurrence = makeRecurrence(chain, canonicalIntervals(chain));
  const minima = leastBytes(recurrence);
  const root = recurrence.forC(1, chain.n);
  const leastMemory = chain.a[0]! + minima[root]!;
  const divisor = sizeDivisor(chain);
  const mostSlots = Math.max(50, Math.floor(WORK_LIMIT / optionCount(recurrence)));
  const exactSlots = Math.min(options.exactSlots ?? 4000, mostSlots);
  const slots = Math.min(options.slots ?? 500, mostSlots);

  const judge = (schedule: Schedule): Planned => ({ schedule, simulation: simulate(chain, schedule) });
  const read = (table: Table, memory: number) => judge(readSchedule(chain, recurrence, minima, table, memory));
  // With slots of infinite size every subproblem fits in slot 0: the table holds the least times without a limit.
  const fastest = read(makeTable(recurrence, Infinity, 0), Infinity);
  const enough = fastest.simulation.peak;

  let exact: Table | undefined;
  const tableFor = (memory: number): Table => {
    const top = Math.floor(memory / divisor);
    if (!(top <= exactSlots)) return makeTable(recurrence, memory / slots, slots);
    // An exact table does not depend on the limit, so the largest one serves all.
    if (!exact || exact.top < top) exact = makeTable(recurrence, divisor, top);
    return exact;
  };

  return {
    chain,
    leastMemory,
    fastest,
    plan(memory) {
      if (!(memory >= leastMemory)) return null;
      if (memory >= enough) return fastest;
      // All peaks are multiples of the divisor, so nothing is lost by rounding the limit down to one.
      return read(tableFor(memory), divisor > 0 ? Math.floor(memory / divisor) * divisor : memory);
    },
    curve() {
      const table = tableFor(enough);
      const points: Planned[] = [];
      let known = -Infinity;
      for (let slot = 0; slot < table.top; slot++) {
        const memory = Math.max(leastMemory, slot * table.unit);
        const time = timeAt(table, root, memory - chain.a[0]!);
        if (memory >= enough || time === known) continue;
        known = time;
        points.push(read(table, memory));
      }
      return frontier([...points, fastest]);
    },
  };
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

/** A subproblem still to be written out, with the bytes that it may use. */
interface Task {
  readonly s: number;
  readonly t: number;
  /** Variant of the held tape for D, `NONE` for C. */
  readonly k: number;
  readonly memory: number;
}

/** The schedule by the best allowed choice of each subproblem in turn. `memory` must be at least the least memory. */
function readSchedule(chain: Chain, recurrence: Recurrence, minima: Float64Array, table: Table, memory: number): Op[] {
  const ops: Op[] = [];
  // Last in, first out: a subproblem is replaced by its steps in reverse order.
  const stack: (Task | Op)[] = [{ s: 1, t: chain.n, k: NONE, memory: memory - chain.a[0]! }];
  for (let task = stack.pop(); task; task = stack.pop()) {
    if ("kind" in task) ops.push(task);
    else {
      const { s, t, k } = task;
      const choice = bestOption(recurrence, minima, table, task);
      const { q } = choice;
      const deep = (first: number): Task => ({ s: first, t, k, memory: task.memory - choice.deepTaken });
      const sweep = () => {
        for (let i = s; i < q; i++) ops.push(i === s ? FC(i) : FN(i));
      };
      switch (choice.choice) {
        case "single":
          if (k === NONE) ops.push(FA(t, choice.k));
          ops.push(B(t));
          break;
        case "replay":
          ops.push(BR(t));
          break;
        case "tape":
          ops.push(FA(s, choice.k));
          stack.push(B(s), deep(s + 1));
          break;
        case "release":
          ops.push(FN(s));
          stack.push(deep(s + 1));
          break;
        case "checkpoint":
          sweep();
          if (choice.rest !== NONE) stack.push({ s, t: q - 1, k: NONE, memory: task.memory - choice.restTaken });
          stack.push(deep(q));
          break;
        case "retape":
          sweep();
          ops.push(FA(q, choice.k), DA(q - 1));
          stack.push({ s, t: q, k: choice.k, memory: task.memory - choice.restTaken }, deep(q + 1));
          break;
      }
    }
  }
  return ops;
}

function bestOption(recurrence: Recurrence, minima: Float64Array, table: Table, { s, t, k, memory }: Task): Option {
  let best: Option | undefined;
  let least = Infinity;
  recurrence.options(s, t, k, (option) => {
    const { deep, rest } = option;
    if (memory < option.threshold) return;
    let time = option.time;
    if (deep !== NONE) {
      if (memory - option.deepTaken < minima[deep]!) return;
      time += timeAt(table, deep, memory - option.deepTaken);
    }
    if (rest !== NONE) {
      if (memory - option.restTaken < minima[rest]!) return;
      time += timeAt(table, rest, memory - option.restTaken);
    }
    if (time < least || !best) {
      least = time;
      best = { ...option };
    }
  });
  if (!best) throw new Error(`planner: no choice for segments ${s}..${t} with ${memory} bytes`);
  return best;
}
