/**
 * Planning tables: the least time of each subproblem of a recurrence for each number of memory slots.
 *
 * A row covers only the slots where it changes: from the least with which the subproblem can be done to the least with
 * which it is as fast as without a limit. Short intervals have short rows, so that slots may be small.
 */
import { NONE, type Recurrence } from "./recurrence.ts";

/** Describes what is known of each row in exact bytes, before any rounding. */
export interface Extremes {
  /** Least memory with which the subproblem can be done. */
  readonly least: Float64Array;
  /** Least time without a limit, and the least memory with which it is reached. */
  readonly time: Float64Array;
  readonly enough: Float64Array;
}

/** Rounding of sums must not hide that two options take the same time. */
const SAME_TIME = 1 + 1e-12;

export function extremes(recurrence: Recurrence): Extremes {
  const least = new Float64Array(recurrence.rows).fill(Infinity);
  const time = new Float64Array(recurrence.rows).fill(Infinity);
  const enough = new Float64Array(recurrence.rows).fill(Infinity);
  for (const row of recurrence.order) {
    const [s, t, k, copied] = recurrence.subproblem(row);
    recurrence.extremes(s, t, k, copied, ({ threshold, deep, deepTaken, rest, restTaken, time: own }) => {
      let memory = threshold;
      let all = threshold;
      let sum = own;
      if (deep !== NONE) {
        memory = Math.max(memory, least[deep]! + deepTaken);
        all = Math.max(all, enough[deep]! + deepTaken);
        sum += time[deep]!;
      }
      if (rest !== NONE) {
        memory = Math.max(memory, least[rest]! + restTaken);
        all = Math.max(all, enough[rest]! + restTaken);
        sum += time[rest]!;
      }
      if (memory < least[row]!) least[row] = memory;
      if (sum * SAME_TIME < time[row]!) {
        time[row] = sum;
        enough[row] = all;
      } else if (sum <= time[row]! * SAME_TIME && all < enough[row]!) enough[row] = all;
    });
  }
  return { least, time, enough };
}

export interface Layout {
  /** Bytes of a slot. Sizes are rounded to the nearest slot. */
  readonly unit: number;
  /** Slots that a row covers: least..enough, empty when a subproblem needs more than the whole memory. */
  readonly least: Int32Array;
  readonly enough: Int32Array;
  /** Entries of all rows. */
  readonly entries: number;
  /** Inner steps that filling the table takes at most. */
  readonly work: number;
}

/** Far more slots than any table has, and few enough for sums to stay 32-bit integers. */
const FAR = 2 ** 28;

/** Nearest number of slots, always a 32-bit integer: one -0 among the indices of the inner loops makes them up to 40 times as slow. */
function nearestSlot(bytes: number, unit: number): number {
  return Math.min(FAR, Math.round(bytes / unit)) | 0;
}

/** Lays out the rows for up to `memory` bytes. */
export function layoutTable(recurrence: Recurrence, { time }: Extremes, unit: number, memory: number): Layout {
  const top = Math.ceil(memory / unit);
  const least = new Int32Array(recurrence.rows).fill(top + 1);
  const enough = new Int32Array(recurrence.rows).fill(top);
  const slots = (bytes: number) => nearestSlot(bytes, unit);
  let entries = 0;
  let work = 0;
  for (const row of recurrence.order) {
    const [s, t, k, copied] = recurrence.subproblem(row);
    let starts = 0;
    let options = 0;
    let best = top;
    recurrence.extremes(s, t, k, copied, (option) => {
      const { deep, rest } = option;
      let from = Math.max(0, slots(option.threshold));
      let all = from;
      let sum = option.time;
      if (deep !== NONE) {
        const taken = slots(option.deepTaken);
        from = Math.max(from, least[deep]! + taken);
        all = Math.max(all, enough[deep]! + taken);
        sum += time[deep]!;
      }
      if (rest !== NONE) {
        const taken = slots(option.restTaken);
        from = Math.max(from, least[rest]! + taken);
        all = Math.max(all, enough[rest]! + taken);
        sum += time[rest]!;
      }
      if (from > top) return;
      if (from < least[row]!) least[row] = from;
      if (sum <= time[row]! * SAME_TIME && all < best) best = all;
      starts += from;
      options++;
    });
    enough[row] = Math.max(best, least[row]!);
    if (options === 0) continue;
    entries += enough[row]! - least[row]! + 1;
    work += options * enough[row]! - starts;
  }
  return { unit, least, enough, entries, work };
}

export interface Table extends Layout {
  /** Rows one behind the other. */
  readonly times: Float64Array;
  /** Index in `times` of slot 0 of each row (rows begin at slot `least`). */
  readonly origin: Int32Array;
}

export function fillTable(recurrence: Recurrence, layout: Layout): Table {
  const { unit, least, enough } = layout;
  const times = new Float64Array(layout.entries).fill(Infinity);
  const origin = new Int32Array(recurrence.rows);
  const slots = (bytes: number) => nearestSlot(bytes, unit);
  let next = 0;
  for (const row of recurrence.order) {
    const [s, t, k, copied] = recurrence.subproblem(row);
    const last = enough[row]!;
    const at = next - least[row]!;
    origin[row] = at;
    if (least[row]! > last) continue;
    next = at + last + 1;
    recurrence.options(s, t, k, copied, (option) => {
      const { deep, rest } = option;
      // An absent subproblem is one that takes no time from any slot on.
      let from = Math.max(0, slots(option.threshold));
      let deepAt = 0;
      let deepEnough = from;
      let deepTime = 0;
      let restAt = 0;
      let restEnough = from;
      let restTime = 0;
      if (deep !== NONE) {
        const taken = slots(option.deepTaken);
        from = Math.max(from, least[deep]! + taken);
        if (least[deep]! > enough[deep]!) return;
        deepEnough = enough[deep]! + taken;
        deepAt = origin[deep]! - taken;
        deepTime = times[deepAt + deepEnough]!;
      }
      if (rest !== NONE) {
        const taken = slots(option.restTaken);
        from = Math.max(from, least[rest]! + taken);
        if (least[rest]! > enough[rest]!) return;
        restEnough = enough[rest]! + taken;
        restAt = origin[rest]! - taken;
        restTime = times[restAt + restEnough]!;
      }
      relax(times, at, from, last, option.time, deepAt, deepEnough, deepTime, restAt, restEnough, restTime);
    });
  }
  return { ...layout, times, origin };
}

/**
 * Lowers a row, slots from..last, by one option: its own time plus those of the deeper subproblem and of the rest, which
 * stay at their last time from slot `deepEnough` and `restEnough` on.
 */
function relax(
  times: Float64Array,
  at: number,
  from: number,
  last: number,
  time: number,
  deepAt: number,
  deepEnough: number,
  deepTime: number,
  restAt: number,
  restEnough: number,
  restTime: number,
): void {
  // Rows fall with m, so that no slot of this option beats its time at the end: it stops where the row is as good.
  const bound = time + deepTime + restTime;
  let m = from;
  for (const both = Math.min(last + 1, deepEnough, restEnough); m < both; m++) {
    const old = times[at + m]!;
    if (old <= bound) return;
    const sum = time + times[deepAt + m]! + times[restAt + m]!;
    if (sum < old) times[at + m] = sum;
  }
  const oneAt = deepEnough > restEnough ? deepAt : restAt;
  const one = time + (deepEnough > restEnough ? restTime : deepTime);
  for (const end = Math.min(last + 1, Math.max(deepEnough, restEnough)); m < end; m++) {
    const old = times[at + m]!;
    if (old <= bound) return;
    const sum = one + times[oneAt + m]!;
    if (sum < old) times[at + m] = sum;
  }
  for (; m <= last && times[at + m]! > bound; m++) times[at + m] = bound;
}

/** Time of a row with `bytes` of memory, by the nearest slot that the row covers; infinite when it covers none. */
export function timeAt(table: Table, row: number, bytes: number): number {
  const least = table.least[row]!;
  const enough = table.enough[row]!;
  if (least > enough) return Infinity;
  return table.times[table.origin[row]! + Math.max(least, Math.min(enough, Math.round(bytes / table.unit)))]!;
}
