import type { ComputedTime } from "../step/tally.ts";

/** Times of so many steps are kept: a run may have millions. */
const KEPT = 1000;

export interface StepTimes {
  add(time: ComputedTime): void;
  /** Medians of what was measured and predicted in the last steps, the first of all left out if there are others; null without any. */
  medians(): ComputedTime | null;
}

/** The first step commits pages and compiles kernels, which no later one does. */
export function createStepTimes(kept = KEPT): StepTimes {
  const times: ComputedTime[] = [];
  let count = 0;
  return {
    add(time) {
      // The second takes the place of the first.
      times[count === 0 ? 0 : (count - 1) % kept] = time;
      count++;
    },
    medians() {
      if (times.length === 0) return null;
      const predicted = times.map((time) => time.predicted);
      return {
        measured: median(times.map(({ measured }) => measured)),
        predicted: predicted.every((seconds) => seconds !== null) ? median(predicted) : null,
      };
    },
  };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2;
}
