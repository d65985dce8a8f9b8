import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { decimate, indexOf } from "../../src/page/charts/decimate.ts";
import { GrowingSeries, type Series } from "../../src/page/charts/series.ts";
import { createSmoothed } from "../../src/page/charts/smooth.ts";

function seriesOf(points: readonly (readonly [step: number, value: number])[]): GrowingSeries {
  const series = new GrowingSeries();
  for (const [step, value] of points) series.add(step, value);
  return series;
}

const line = (length: number, value: (step: number) => number): GrowingSeries =>
  seriesOf(Array.from({ length }, (_, i) => [i + 1, value(i + 1)] as const));

describe("a series", () => {
  test("grows, and passes over steps that are told again", () => {
    const series = line(1000, (step) => step * step);
    series.add(1000, -1);
    series.add(3, -1);
    series.add(1002, 5);
    expect([series.length, series.steps[1000], series.values[1000], series.values[999]]).toEqual([1001, 1002, 5, 1_000_000]);
    expect([indexOf(series, 0), indexOf(series, 500), indexOf(series, 1001), indexOf(series, 5000)]).toEqual([
      0, 499, 1000, 1001,
    ]);
  });
});

describe("what is drawn", () => {
  test("are all points where they have room, of all series at the same steps", () => {
    const a = seriesOf([
      [1, 10],
      [2, 20],
      [4, 40],
    ]);
    const b = seriesOf([
      [2, -2],
      [3, -3],
    ]);
    expect(decimate([a, b], 1, 4, 100)).toEqual([
      [1, 2, 3, 4],
      [10, 20, null, 40],
      [null, -2, -3, null],
    ]);
    // Neighbours of what is in sight.
    expect(decimate([a], 2, 3, 100)).toEqual([
      [1, 2, 4],
      [10, 20, 40],
    ]);
    expect(decimate([seriesOf([])], 0, 1, 100)).toEqual([[], []]);
  });

  test("are the least and the greatest value of each bucket elsewhere, whatever the part and the width", () => {
    const series = line(5000, (step) => Math.sin(step / 7) * step + ((step * 7919) % 101));
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4000 }),
        fc.integer({ min: 700, max: 5000 }),
        fc.integer({ min: 50, max: 300 }),
        (from, width, buckets) => {
          const to = from + width;
          const [steps, values] = decimate([series], from, to, buckets) as [number[], (number | null)[]];
          expect(values.length).toBe(steps.length);
          expect(steps.every((step, i) => i === 0 || step > steps[i - 1]!)).toBe(true);
          const [first, end] = [Math.max(0, indexOf(series, from) - 1), Math.min(5000, indexOf(series, to) + 1)];
          const inside = series.values.subarray(first, end);
          const kept = values.filter((value) => value !== null);
          expect(Math.max(...kept)).toBe(Math.max(...inside));
          expect(Math.min(...kept)).toBe(Math.min(...inside));
          if (steps.length !== 2 * (buckets + 2)) return expect(steps.length).toBe(inside.length);
          for (let bucket = 0; bucket < buckets; bucket++) {
            const [low, high] = [from + (bucket * width) / buckets + 1e-6, from + ((bucket + 1) * width) / buckets - 1e-6];
            const own = series.values.subarray(indexOf(series, low), indexOf(series, high));
            const pair = values.slice(2 * bucket + 2, 2 * bucket + 4) as number[];
            expect(Math.max(...pair)).toBeGreaterThanOrEqual(Math.max(...own));
            expect(Math.min(...pair)).toBeLessThanOrEqual(Math.min(...own));
          }
        },
      ),
      { numRuns: 60, seed: 1 },
    );
  });

  test("takes no longer for a hundred thousand steps than for what can be seen of them", () => {
    const [steps, ...columns] = decimate([line(100_000, (step) => 1 / step), line(100_000, Math.sqrt)], 1, 100_000, 800);
    expect(steps.length).toBe(1604);
    expect(columns.map((column) => column.filter((value) => value === null).length)).toEqual([2, 2]);
  });
});

describe("smoothing", () => {
  const mean = (series: Series, weight: number): number[] => {
    const found: number[] = [];
    for (let t = 0; t < series.length; t++) {
      let [sum, weights] = [0, 0];
      for (let i = 0; i <= t; i++) {
        sum += weight ** (t - i) * series.values[i]!;
        weights += weight ** (t - i);
      }
      found.push(sum / weights);
    }
    return found;
  };

  test("is the mean of what came before, weighted by its age; it goes on where the series grows", () => {
    const series = line(300, (step) => Math.cos(step) + step / 100);
    const smoothed = createSmoothed(() => series, 0.9);
    expect(smoothed().length).toBe(300);
    for (let step = 301; step <= 700; step++) series.add(step, step % 5);
    const { values, length, steps } = smoothed();
    expect([length, steps[699]]).toEqual([700, 700]);
    mean(series, 0.9).forEach((expected, i) => expect(values[i]!).toBeCloseTo(expected, 10));
  });
});
