/** Reads schedules out of planning tables, with offload or without. */
import type { Chain } from "../chain.ts";
import { B, BR, DA, DT, FA, FC, FN, IA, IT, OA, type Op, OT } from "../ops.ts";
import { NONE, type Option, type Recurrence } from "./recurrence.ts";
import { sizeDivisor } from "./slots.ts";
import { type Extremes, type Table, timeAt } from "./table.ts";

/** A subproblem still to be written out, with the bytes that it may use. */
interface Task {
  readonly s: number;
  readonly t: number;
  /** Variant of the held tape for D, `NONE` for C. */
  readonly k: number;
  /** True if A(s-1) has a copy outside. */
  readonly copied: boolean;
  readonly memory: number;
}

/** The share of a limit that sums of sizes may be off by when they are not whole numbers. */
export const ROUNDING = 1e-12;

/**
 * The schedule by the best allowed choice of each subproblem in turn. `memory` must be at least the least memory. With sizes that are
 * not whole numbers its peak may be larger by rounding.
 */
export function readSchedule(chain: Chain, recurrence: Recurrence, bounds: Extremes, table: Table, memory: number): Op[] {
  const ops: Op[] = [];
  const slack = sizeDivisor(chain) > 0 ? 0 : ROUNDING * memory;
  // Last in, first out: a subproblem is replaced by its steps in reverse order.
  const stack: (Task | Op)[] = [{ s: 1, t: chain.n, k: NONE, copied: false, memory: memory - chain.a[0]! }];
  for (let task = stack.pop(); task; task = stack.pop()) {
    if ("kind" in task) {
      ops.push(task);
      continue;
    }
    const { s, t, k, copied } = task;
    const option = bestOption(recurrence, bounds, table, task, slack);
    const { q, pagesInput, pagesTape } = option;
    const deep = (first: number) => stack.push({ s: first, t, k, copied: false, memory: task.memory - option.deepTaken });
    const rest = (last: number, held: number) => {
      if (option.rest === NONE) return;
      stack.push({ s, t: last, k: held, copied: copied || pagesInput, memory: task.memory - option.restTaken });
    };
    const inputOut = () => {
      if (!pagesInput) return;
      if (!copied) ops.push(OA(s - 1));
      ops.push(DA(s - 1));
    };
    const tapeOut = (i: number) => pagesTape && ops.push(OT(i), DT(i));
    /** Brings back, once the deeper subproblem is done, what was outside meanwhile. */
    const fetch = (i: number) => {
      if (pagesInput) stack.push(IA(s - 1));
      if (pagesTape) stack.push(IT(i));
    };
    const sweep = () => {
      ops.push(FC(s));
      inputOut();
      for (let i = s + 1; i < q; i++) ops.push(FN(i));
    };
    switch (option.choice) {
      case "single":
        if (k === NONE) ops.push(FA(t, option.k));
        ops.push(B(t));
        break;
      case "replay":
        ops.push(BR(t));
        break;
      case "tape":
        ops.push(FA(s, option.k));
        inputOut();
        tapeOut(s);
        stack.push(B(s));
        fetch(s);
        deep(s + 1);
        break;
      case "release":
        ops.push(FN(s));
        deep(s + 1);
        break;
      case "checkpoint":
        sweep();
        rest(q - 1, NONE);
        fetch(q);
        deep(q);
        break;
      case "retape":
        sweep();
        ops.push(FA(q, option.k), DA(q - 1));
        tapeOut(q);
        rest(q, option.k);
        fetch(q);
        deep(q + 1);
        break;
    }
  }
  return ops;
}

/** The fastest option by the table among those that fit in exact bytes. */
function bestOption(
  recurrence: Recurrence,
  bounds: Extremes,
  table: Table,
  { s, t, k, copied, memory }: Task,
  slack: number,
): Option {
  let best: Option | undefined;
  let least = Infinity;
  recurrence.options(s, t, k, copied, (option) => {
    const { deep, rest } = option;
    if (memory + slack < option.threshold) return;
    let time = option.time;
    if (deep !== NONE) {
      if (memory - option.deepTaken + slack < bounds.least[deep]!) return;
      time += timeAt(table, deep, memory - option.deepTaken);
    }
    if (rest !== NONE) {
      if (memory - option.restTaken + slack < bounds.least[rest]!) return;
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
