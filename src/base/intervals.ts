/**
 * Offline placement: things of known size and known life get fixed places in one range of addresses, so that no two that live
 * at the same time overlap. The least extent is NP-hard to find (dynamic storage allocation); the most bytes that live at one
 * time are a lower bound, at which every search here stops.
 */

/** Something that takes `bytes` from step `first` to step `last`, both included. `last < first`: never. */
export interface Interval {
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

/** Offsets by interval, in bytes. */
export interface PlacedIntervals {
  readonly offsets: Float64Array;
  /** Bytes of the whole range. */
  readonly extent: number;
  /** No placement can have a smaller extent. */
  readonly lowerBound: number;
}

/** The most bytes that live at one time. */
export function mostLive(intervals: readonly Interval[]): number {
  const change = new Map<number, number>();
  const add = (at: number, bytes: number): void => void change.set(at, (change.get(at) ?? 0) + bytes);
  for (const { first, last, bytes } of intervals) {
    if (last < first) continue;
    add(first, bytes);
    add(last + 1, -bytes);
  }
  let live = 0;
  let most = 0;
  for (const [, bytes] of [...change].sort(([a], [b]) => a - b)) most = Math.max(most, (live += bytes));
  return most;
}

/** The best of several placements; no further one is asked for once the lower bound is reached. */
export function bestPlacement(
  intervals: readonly Interval[],
  candidates: (lowerBound: number) => Iterable<Float64Array>,
): PlacedIntervals {
  const lowerBound = mostLive(intervals);
  let offsets: Float64Array = new Float64Array(intervals.length);
  let extent = Infinity;
  for (const candidate of candidates(lowerBound)) {
    const needed = intervals.reduce((most, { bytes }, i) => Math.max(most, candidate[i]! + bytes), 0);
    if (needed < extent) [offsets, extent] = [candidate, needed];
    if (extent === lowerBound) break;
  }
  return { offsets, extent, lowerBound };
}

/** Which gap is taken: the lowest that is large enough, or the smallest. */
export type Fit = "first" | "best";

/** Offset of a gap of at least `bytes` between intervals that are sorted by offset (they may overlap each other). */
export function findGap(
  intervals: readonly Interval[],
  offsets: Float64Array,
  around: readonly number[],
  bytes: number,
  fit: Fit,
): number {
  let end = 0;
  let chosen = -1;
  let least = Infinity;
  for (const i of around) {
    const room = offsets[i]! - end;
    if (room >= bytes && room < least) {
      chosen = end;
      least = room;
      if (fit === "first") return chosen;
    }
    end = Math.max(end, offsets[i]! + intervals[i]!.bytes);
  }
  return chosen >= 0 ? chosen : end;
}

/**
 * Places intervals one by one in a few fixed orders: greedy by size with best fit first (Pisarchyk & Lee 2020,
 * https://arxiv.org/abs/2001.03288).
 */
export function packIntervals(intervals: readonly Interval[]): PlacedIntervals {
  const life = ({ first, last }: Interval): number => last - first + 1;
  const orders: ((a: Interval, b: Interval) => number)[] = [
    (a, b) => b.bytes - a.bytes || life(b) - life(a),
    (a, b) => b.bytes * life(b) - a.bytes * life(a),
    (a, b) => life(b) - life(a) || b.bytes - a.bytes,
    (a, b) => a.first - b.first || b.bytes - a.bytes,
  ];
  return bestPlacement(intervals, function* () {
    for (const order of orders) {
      yield placeInOrder(
        intervals,
        intervals.map((_, i) => i).sort((a, b) => order(intervals[a]!, intervals[b]!) || a - b),
      );
    }
  });
}

function placeInOrder(intervals: readonly Interval[], order: readonly number[]): Float64Array {
  const offsets = new Float64Array(intervals.length);
  /** Placed intervals by offset. */
  const placed: number[] = [];
  for (const index of order) {
    const { first, last, bytes } = intervals[index]!;
    const around = placed.filter((other) => intervals[other]!.last >= first && intervals[other]!.first <= last);
    const offset = findGap(intervals, offsets, around, bytes, "best");
    offsets[index] = offset;
    const at = placed.findIndex((other) => offsets[other]! > offset);
    placed.splice(at < 0 ? placed.length : at, 0, index);
  }
  return offsets;
}
