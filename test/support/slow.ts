import { test } from "bun:test";

/**
 * True if tests that take long or count on chance are run in full: with `REMAT_SLOW=1`, which CI sets. The plain suite has fewer rounds
 * of them, or leaves them out.
 */
export const SLOW = process.env["REMAT_SLOW"] === "1";

/**
 * Threads of executors where the numbers are tested, which do not depend on them: models as small as the fixtures wait for a second thread
 * longer than it saves.
 */
export const THREADS = SLOW ? 2 : 1;

/**
 * Tuples of one value of each list: all of them in the full suite. The plain one has as many as the longest list has values, each value of
 * the others by turns, and not always with the same one of a third.
 */
export function combinations<T extends readonly unknown[]>(...lists: { readonly [K in keyof T]: readonly T[K][] }): T[] {
  if (SLOW)
    return lists.reduce<unknown[][]>(
      (tuples, list) => tuples.flatMap((tuple) => list.map((value) => [...tuple, value])),
      [[]],
    ) as unknown as T[];
  const length = Math.max(...lists.map((list) => list.length));
  return Array.from(
    { length },
    (_, i) => lists.map((list, k) => list[(i + k * Math.floor(i / list.length)) % list.length]) as unknown as T,
  );
}

/** The first `count` of some values; all of them in the full suite. */
export const some = <T>(values: readonly T[], count: number): readonly T[] => (SLOW ? values : values.slice(0, count));

/** Every `step`-th of some values; all of them in the full suite. */
export const everyNth = <T>(values: readonly T[], step: number): readonly T[] =>
  SLOW ? values : values.filter((_, i) => i % step === 0);

/** A test that only the full suite runs. */
export const slowTest = SLOW ? test : test.skip;

/** Seeds that recipes are run with, in full: `REMAT_SEEDS=3` for a campaign. */
export const RECIPE_SEEDS: readonly number[] = Array.from({ length: Number(process.env["REMAT_SEEDS"] ?? 1) }, (_, i) => i + 1);
