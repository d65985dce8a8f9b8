import type { Series } from "./series.ts";

/** Columns of a chart's data: the steps, then the values of each series; null where a series has none at a step. */
export type Columns = [number[], ...(number | null)[][]];

/** The first index of a series whose step is at least so large. */
export function indexOf({ steps, length }: Series, step: number): number {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle]! < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * The part of several series that lies between two steps, as columns with the same steps. Where there are more steps than `buckets` can show, each
 * bucket keeps its least and its greatest value of each series, in their order: what a curve looks like at that width is the same, and drawing it
 * takes as long for a million steps as for a thousand. The neighbours outside are kept too, so that lines reach the edges.
 */
export function decimate(all: readonly Series[], from: number, to: number, buckets: number): Columns {
  const parts = all.map((series) => ({
    steps: series.steps,
    values: series.values,
    begin: Math.max(0, indexOf(series, from) - 1),
    end: Math.min(series.length, indexOf(series, to) + 1),
  }));
  const most = Math.max(0, ...parts.map(({ begin, end }) => end - begin));
  if (most <= 2 * buckets) return joined(parts);
  const width = (to - from) / buckets;
  const places = Array.from({ length: 2 * (buckets + 2) }, (_, i) => from + ((i >> 1) - 1 + (i & 1 ? 0.75 : 0.25)) * width);
  const columns = parts.map(({ steps, values, begin, end }) => {
    const column: (number | null)[] = Array.from({ length: places.length }, () => null);
    const bucketOf = (i: number) => Math.min(buckets, Math.max(-1, Math.floor((steps[i]! - from) / width)));
    for (let i = begin; i < end;) {
      const bucket = bucketOf(i);
      let [least, greatest] = [i, i];
      for (i++; i < end && bucketOf(i) === bucket; i++) {
        if (values[i]! < values[least]!) least = i;
        if (values[i]! > values[greatest]!) greatest = i;
      }
      const at = 2 * (bucket + 1);
      column[at] = values[Math.min(least, greatest)]!;
      column[at + 1] = values[Math.max(least, greatest)]!;
    }
    return column;
  });
  return [places, ...columns];
}

interface Part extends Pick<Series, "steps" | "values"> {
  readonly begin: number;
  readonly end: number;
}

/** All steps that some series has. */
function joined(parts: readonly Part[]): Columns {
  const steps = [...new Set(parts.flatMap((part) => Array.from(part.steps.subarray(part.begin, part.end))))].sort(
    (a, b) => a - b,
  );
  const columns = parts.map((part) => {
    let i = part.begin;
    return steps.map((step) => (i < part.end && part.steps[i] === step ? part.values[i++]! : null));
  });
  return [steps, ...columns];
}
