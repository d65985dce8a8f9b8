import { describe, expect, test } from "bun:test";
import { judge, quantile, type Round } from "../../bench/checkouts/ratios.ts";
import { createRandom } from "../../src/base/random.ts";

/** Rounds in which the newer checkout takes `factor` times as long, with noise of a relative deviation. */
function rounds(factor: number, noise: number, count = 12): Round[] {
  const random = createRandom(3, `${factor} ${noise}`);
  const time = (mean: number) => mean * (1 + noise * random.normal());
  return Array.from({ length: count }, () => ({ old: time(1), new: time(factor), again: time(1) }));
}

describe("pairs of two checkouts are judged", () => {
  test("a change of 1 % is none, one of 5 % is, in either direction", () => {
    expect(judge(rounds(1.01, 0.003)).same).toBe(true);
    expect(judge(rounds(1.05, 0.003))).toMatchObject({ same: false, ratio: expect.closeTo(1.05, 2) });
    expect(judge(rounds(0.95, 0.003)).same).toBe(false);
  });

  test("within the spread of a checkout against itself nothing is said; a change beyond it is", () => {
    const noisy = judge(rounds(1.03, 0.15));
    expect(noisy.same).toBe(true);
    expect(noisy.self[1]).toBeGreaterThan(1.03);
    expect(judge(rounds(1.5, 0.1)).same).toBe(false);
  });

  test("exact quantities: no spread, and any change beyond 2 % is one", () => {
    expect(judge(rounds(1, 0))).toEqual({ ratio: 1, quartiles: [1, 1], self: [1, 1], same: true });
    expect(judge(rounds(1.021, 0)).same).toBe(false);
  });

  test("the interval is that of a median: narrower than the ratios of single pairs, and around 1", () => {
    const { self } = judge(rounds(1, 0.05, 60));
    const single = 0.05 * Math.SQRT2;
    expect(self[0]).toBeLessThan(1);
    expect(self[1]).toBeGreaterThan(1);
    // Deviation of the median of n normal numbers: 1.25 sigma / sqrt(n); 2.33 of them on each side hold 98 %.
    const expected = (2.33 * 1.25 * single) / Math.sqrt(60);
    expect(self[1] - 1).toBeGreaterThan(0.6 * expected);
    expect(self[1] - 1).toBeLessThan(1.6 * expected);
  });

  test("quantiles", () => {
    expect([0, 0.25, 0.5, 1].map((share) => quantile([3, 1, 2, 5, 4], share))).toEqual([1, 2, 3, 5]);
    expect(quantile([1, 2], 0.5)).toBe(1.5);
  });
});
