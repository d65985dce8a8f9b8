import { createRandom, indices, shuffle } from "../../base/random.ts";
import type { SampleSet } from "./sample-store.ts";

/** A data set and how often an epoch goes through it: 1 once, 3 three times, 0.25 a quarter of it. */
export interface WeightedSet {
  readonly set: SampleSet;
  readonly weight: number;
}

/**
 * Several data sets as one. With a fractional weight the epochs take turns: each gets the next part of a shuffled order,
 * so that after 1 / weight epochs every sample was used once.
 */
export function mixSamples(sources: readonly WeightedSet[]): SampleSet {
  for (const { weight } of sources) {
    if (!(weight > 0 && Number.isFinite(weight))) throw new RangeError(`the weight of a data set must be above 0, got ${weight}`);
  }
  const firsts: number[] = [];
  let count = 0;
  for (const { set } of sources) {
    firsts.push(count);
    count += set.count;
  }
  const lengths = new Int32Array(count);
  for (const [i, { set }] of sources.entries()) lengths.set(set.lengths, firsts[i]);
  const sum = (of: (set: SampleSet) => number) => sources.reduce((total, { set }) => total + of(set), 0);
  return {
    count,
    lengths,
    tokens: sum((set) => set.tokens),
    labelled: sum((set) => set.labelled),
    weighted: sources.some(({ set }) => set.weighted),
    sample(index) {
      const i = firsts.findLastIndex((first) => first <= index);
      return sources[i]!.set.sample(index - firsts[i]!);
    },
    draw(epoch, seed) {
      const drawn = sources.map((source, i) => draw(source, epoch, seed, i, firsts[i]!));
      const all = new Int32Array(drawn.reduce((total, { length }) => total + length, 0));
      let at = 0;
      for (const part of drawn) {
        all.set(part, at);
        at += part.length;
      }
      return all;
    },
  };
}

/** How many samples an epoch takes, which is the same for all epochs. */
export function samplesPerEpoch(sources: readonly WeightedSet[]): number {
  return sources.reduce((sum, source) => sum + shareOf(source).whole * source.set.count + shareOf(source).part, 0);
}

/** Whole passes over a source in an epoch, and samples of another one. */
function shareOf({ set, weight }: WeightedSet): { readonly whole: number; readonly part: number } {
  const whole = Math.floor(weight);
  return { whole, part: Math.round((weight - whole) * set.count) };
}

/** Samples of one source, numbered from `first` on. */
function draw(weighted: WeightedSet, epoch: number, seed: number, source: number, first: number): Int32Array {
  const { set } = weighted;
  const { whole, part } = shareOf(weighted);
  const drawn = indices(whole * set.count + part);
  for (let i = 0; i < drawn.length; i++) drawn[i] = first + (i % set.count);
  if (part === 0) return drawn;
  const order = shuffle(indices(set.count), createRandom(seed, `source ${source}`));
  for (let i = 0; i < part; i++) drawn[whole * set.count + i] = first + order[(epoch * part + i) % set.count]!;
  return drawn;
}
