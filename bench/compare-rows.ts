import { median } from "./report.ts";

/** What is compared of a run. */
export interface Measured {
  readonly tokensPerSecond: number;
  readonly stepCpuSeconds: number;
  readonly peakRss: number;
  readonly firstStepSeconds: number;
}

export type Quantity = keyof Measured;

/** The rounds of a system at one shape and number of tokens. */
export interface SystemRuns {
  readonly system: string;
  /** Another system than this one. */
  readonly peer: boolean;
  readonly runs: readonly Measured[];
}

export const medianOf = ({ runs }: Pick<SystemRuns, "runs">, quantity: Quantity): number =>
  median(runs.map((one) => one[quantity]));

/** The greatest distance of a round's rate from the median of its system, as a share. */
export function spreadOf({ runs }: Pick<SystemRuns, "runs">): number {
  const middle = medianOf({ runs }, "tokensPerSecond");
  return Math.max(...runs.map(({ tokensPerSecond }) => Math.abs(tokensPerSecond / middle - 1)));
}

/** The peer with the most tokens a second; null where there is none. */
export function fastestPeer<T extends SystemRuns>(all: readonly T[]): T | null {
  const rate = (one: T) => medianOf(one, "tokensPerSecond");
  return all.filter(({ peer }) => peer).reduce<T | null>((best, one) => (best && rate(best) >= rate(one) ? best : one), null);
}

/** Rounds that medians need, and the greatest spread that they may have, to be written down. */
const LEAST_ROUNDS = 3;
const MOST_SPREAD = 0.1;

/**
 * Finds what is worth to be written down, and says what is not: a system whose rounds differ much, and everything where one that ratios are to is among
 * them or has few rounds.
 */
export function quietOf<T extends SystemRuns>(
  all: readonly T[],
): { readonly rows: readonly T[]; readonly notes: readonly string[] } {
  const few = all.find(({ runs }) => runs.length < LEAST_ROUNDS);
  if (few) return { rows: [], notes: [`${few.system} has ${few.runs.length} of at least ${LEAST_ROUNDS} rounds`] };
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  const noisy = all.filter((one) => spreadOf(one) > MOST_SPREAD);
  const notes = noisy.map(
    (one) =>
      `rounds of ${one.system} differ by ${percent(spreadOf(one))} from their median, more than ${percent(MOST_SPREAD)}: the machine is busy`,
  );
  return { rows: noisy.some(({ peer }) => peer) ? [] : all.filter((one) => !noisy.includes(one)), notes };
}
