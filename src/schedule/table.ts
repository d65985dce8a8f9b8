/**
 * Planning tables: the least time of each subproblem of a recurrence for each number of memory slots, and the least
 * memory of each subproblem in exact bytes.
 */
import { NONE, type Recurrence } from "./recurrence.ts";

export interface Table {
  /** Bytes of a slot. */
  readonly unit: number;
  /** Slots 0..top. */
  readonly top: number;
  /** [rows][top + 1] least times; infinite where the slots do not suffice. */
  readonly times: Float64Array;
  /** Least slot of each row with a finite time; top + 1 when there is none. */
  readonly least: Int32Array;
}

/** Sizes are rounded to the nearest slot; the table is exact when all sizes are multiples of `unit`. */
export function makeTable(recurrence: Recurrence, unit: number, top: number): Table {
  const width = top + 1;
  const times = new Float64Array(recurrence.rows * width).fill(Infinity);
  const least = new Int32Array(recurrence.rows).fill(width);
  const slots = (bytes: number) => Math.round(bytes / unit);

  for (const row of recurrence.order) {
    const [s, t, k] = recurrence.subproblem(row);
    const at = row * width;
    recurrence.options(s, t, k, (option) => {
      const { deep, rest, time } = option;
      const deepTaken = slots(option.deepTaken);
      const restTaken = slots(option.restTaken);
      let from = Math.max(0, slots(option.threshold));
      if (deep !== NONE) from = Math.max(from, least[deep]! + deepTaken);
      if (rest !== NONE) from = Math.max(from, least[rest]! + restTaken);
      if (from > top) return;
      if (from < least[row]!) least[row] = from;

      // Rows fall with m, so no slot of this option beats its time at the top: it can stop where the row is as good.
      const deepAt = deep * width - deepTaken;
      const restAt = rest * width - restTaken;
      if (deep === NONE) {
        for (let m = from; m <= top && times[at + m]! > time; m++) times[at + m] = time;
      } else if (deepTaken < 0) {
        for (let m = from; m <= top; m++) {
          const sum = time + times[deep * width + Math.min(m - deepTaken, top)]!;
          if (sum < times[at + m]!) times[at + m] = sum;
        }
      } else if (rest === NONE) {
        const bound = time + times[deepAt + top]!;
        for (let m = from; m <= top; m++) {
          const old = times[at + m]!;
          if (old <= bound) break;
          const sum = time + times[deepAt + m]!;
          if (sum < old) times[at + m] = sum;
        }
      } else {
        const bound = time + times[deepAt + top]! + times[restAt + top]!;
        for (let m = from; m <= top; m++) {
          const old = times[at + m]!;
          if (old <= bound) break;
          const sum = time + times[deepAt + m]! + times[restAt + m]!;
          if (sum < old) times[at + m] = sum;
        }
      }
    });
  }
  return { unit, top, times, least };
}

/** Time of a row with `bytes` of memory, by the nearest slot, but never infinite where any slot of the row is not. */
export function timeAt(table: Table, row: number, bytes: number): number {
  const slot = Math.max(table.least[row]!, Math.min(table.top, Math.round(bytes / table.unit)));
  return slot > table.top ? Infinity : table.times[row * (table.top + 1) + slot]!;
}

/** Least memory of each row in exact bytes: the same recurrence over (min, max). */
export function leastBytes(recurrence: Recurrence): Float64Array {
  const minima = new Float64Array(recurrence.rows).fill(Infinity);
  for (const row of recurrence.order) {
    const [s, t, k] = recurrence.subproblem(row);
    recurrence.options(s, t, k, (option) => {
      let need = option.threshold;
      if (option.deep !== NONE) need = Math.max(need, minima[option.deep]! + option.deepTaken);
      if (option.rest !== NONE) need = Math.max(need, minima[option.rest]! + option.restTaken);
      if (need < minima[row]!) minima[row] = need;
    });
  }
  return minima;
}

/** Number of options of all rows: the inner steps of a table per slot. */
export function optionCount(recurrence: Recurrence): number {
  let count = 0;
  for (const row of recurrence.order) {
    const [s, t, k] = recurrence.subproblem(row);
    recurrence.options(s, t, k, () => count++);
  }
  return count;
}
