import { describe, expect, test } from "bun:test";
import { createRandom } from "../../../src/base/random.ts";
import { createPrivateSum, secureRandom, seededRandom } from "../../../src/fleet/federated/privacy/noise.ts";

const SIZE = 20_000;

function moments(values: ArrayLike<number>): { readonly mean: number; readonly deviation: number; readonly kurtosis: number } {
  const list = Array.from(values);
  const mean = list.reduce((sum, value) => sum + value, 0) / list.length;
  const power = (k: number) => list.reduce((sum, value) => sum + (value - mean) ** k, 0) / list.length;
  return { mean, deviation: Math.sqrt(power(2)), kurtosis: power(4) / power(2) ** 2 };
}

describe("noise", () => {
  // Bounds of six deviations of what is estimated: one run of a billion fails by chance.
  test.each([
    ["the system's", secureRandom()],
    ["seeded", seededRandom(3, "noise")],
  ])("%s numbers are standard normal", (_, random) => {
    const values = Float64Array.from({ length: 80_000 }, () => random.normal());
    const { mean, deviation, kurtosis } = moments(values);
    expect(Math.abs(mean)).toBeLessThan(6 / Math.sqrt(values.length));
    expect(Math.abs(deviation - 1)).toBeLessThan(6 / Math.sqrt(2 * values.length));
    expect(Math.abs(kurtosis - 3)).toBeLessThan(6 * Math.sqrt(24 / values.length));
    // Kolmogorov and Smirnov's distance at some points of the distribution.
    for (const [at, share] of [
      [-2, 0.02275],
      [-1, 0.158655],
      [0, 0.5],
      [0.5, 0.691462],
      [3, 0.99865],
    ] as const)
      expect(Math.abs(values.filter((value) => value <= at).length / values.length - share)).toBeLessThan(
        6 * Math.sqrt(0.25 / values.length),
      );
    // Neighbours, which come from one pair, know nothing of each other.
    const product = values.reduce((sum, value, i) => sum + value * (values[i + 1] ?? 0), 0) / values.length;
    expect(Math.abs(product)).toBeLessThan(6 / Math.sqrt(values.length));
  });

  test("the system's numbers are others each time, the seeded ones the same", () => {
    expect(secureRandom().uniform()).not.toBe(secureRandom().uniform());
    expect(seededRandom(1, "a").normal()).toBe(seededRandom(1, "a").normal());
    const uniform = Float64Array.from({ length: 50_000 }, secureRandom().uniform);
    expect(uniform.every((value) => value >= 0 && value < 1)).toBe(true);
    expect(Math.abs(moments(uniform).mean - 0.5)).toBeLessThan(6 / Math.sqrt(12 * uniform.length));
  });
});

describe("sums", () => {
  const gradient = (key: string, length: number) => {
    const random = createRandom(2, key);
    const values = Float32Array.from({ length: SIZE }, () => random.normal());
    const norm = Math.hypot(...values);
    return values.map((value) => (length * value) / norm);
  };
  const norm = (values: ArrayLike<number>) => Math.hypot(...Array.from(values));

  test("an example adds its gradient where that is short, and never more than a vector of the greatest norm", () => {
    const random = seededRandom(1, "none");
    const sum = createPrivateSum(SIZE, { clip: 2, noise: 0, random });
    expect(sum.add(gradient("short", 1))).toBeCloseTo(1, 5);
    expect(norm(sum.finish(1))).toBeCloseTo(1, 5);
    for (const length of [2.0001, 5, 1e6]) {
      expect(sum.add(gradient("long", length)) / length).toBeCloseTo(1, 5);
      const clipped = sum.finish(1);
      const wanted = gradient("long", 2);
      expect(norm(clipped)).toBeLessThanOrEqual(2 * (1 + 1e-6));
      expect(norm(clipped.map((value, i) => value - wanted[i]!))).toBeLessThan(1e-5);
    }
    for (const key of ["a", "b", "c"]) sum.add(gradient(key, 10));
    // Over the expected number, whatever was drawn.
    expect(norm(sum.finish(4))).toBeLessThan(1.5);
    expect(norm(sum.finish(4))).toBe(0);
  });

  test("the noise has the deviation that the accountant counts, also in a step without examples", () => {
    const sum = createPrivateSum(SIZE, { clip: 0.5, noise: 3, random: seededRandom(5, "sum") });
    const added = gradient("same", 0.5);
    for (const examples of [0, 2]) {
      for (let i = 0; i < examples; i++) sum.add(added);
      const values = sum.finish(8);
      const rest = values.map((value, i) => value - (examples * added[i]!) / 8);
      const { mean, deviation } = moments(rest);
      const expected = (3 * 0.5) / 8;
      expect(Math.abs(deviation / expected - 1)).toBeLessThan(6 / Math.sqrt(2 * SIZE));
      expect(Math.abs(mean)).toBeLessThan((6 * expected) / Math.sqrt(SIZE));
    }
  });
});
