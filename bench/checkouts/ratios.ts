import { createRandom } from "../../src/base/random.ts";
import { median } from "../report.ts";

/** Describes what one round measured: the older checkout, the newer one, and the older one again. */
export interface Round {
  readonly old: number;
  readonly new: number;
  readonly again: number;
}

export interface Verdict {
  /** Median over the rounds of new / old. */
  readonly ratio: number;
  /** First and third quartile of the same. */
  readonly quartiles: readonly [number, number];
  /** Interval of the medians of as many rounds of the older checkout against itself. */
  readonly self: readonly [number, number];
  /** True if the ratio is within `BOUNDS` or within the spread of the older checkout against itself. */
  readonly same: boolean;
}

/** Ratio of medians that is no change. */
export const BOUNDS: readonly [number, number] = [0.98, 1.02];

/** Share of the medians that are left out at each end of the interval, and medians that are drawn. */
const TAIL = 0.01;
const DRAWN = 4000;

/**
 * Judges rounds. The spread of a checkout against itself is had by the bootstrap (Efron 1979): medians of as many ratios
 * again / old, drawn with replacement. A ratio and its inverse are equally likely there, so both are drawn from.
 */
export function judge(rounds: readonly Round[]): Verdict {
  const ratios = rounds.map((round) => round.new / round.old);
  const selfRatios = rounds.flatMap(({ old, again }) => [again / old, old / again]);
  const random = createRandom(1, "bootstrap");
  const medians = Array.from({ length: DRAWN }, () => median(rounds.map(() => selfRatios[random.below(selfRatios.length)]!)));
  const ratio = median(ratios);
  const self = [quantile(medians, TAIL), quantile(medians, 1 - TAIL)] as const;
  const within = ([low, high]: readonly [number, number]) => low <= ratio && ratio <= high;
  return { ratio, quartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)], self, same: within(BOUNDS) || within(self) };
}

/** The value below which a share of the numbers lies, by linear interpolation. */
export function quantile(numbers: readonly number[], share: number): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (at - Math.floor(at)) * (high - low);
}
