import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { createSampler, GREEDY, type SamplingOptions } from "../../src/generate/sampler.ts";
import { createRandom, type Random } from "../../src/base/random.ts";

setDefaultTimeout(120_000);

/** Share of each token in `draws` draws. */
function shares(
  logits: readonly number[],
  options: Partial<SamplingOptions>,
  text: readonly number[] = [],
  draws = 20_000,
): number[] {
  const sampler = createSampler({ ...GREEDY, temperature: 1, seed: 5, ...options });
  const counts = logits.map(() => 0);
  for (let i = 0; i < draws; i++) counts[sampler(Float32Array.from(logits), text)]!++;
  return counts.map((count) => count / draws);
}

/** 20,000 draws: a standard deviation of at most 0.0036, so 0.018 is five of them. */
function expectShares(actual: readonly number[], expected: readonly number[]): void {
  expected.forEach((share, i) =>
    share === 0 ? expect(actual[i]).toBe(0) : expect(Math.abs(actual[i]! - share)).toBeLessThan(0.018),
  );
}

const logs = (...probabilities: readonly number[]): number[] => probabilities.map(Math.log);

describe("sampling: shares within five standard deviations", () => {
  test("the distribution itself, and at temperature 1/2 its square", () => {
    expectShares(shares(logs(0.5, 0.2, 0.3), {}), [0.5, 0.2, 0.3]);
    expectShares(shares(logs(0.5, 0.2, 0.3), { temperature: 0.5 }), [0.25 / 0.38, 0.04 / 0.38, 0.09 / 0.38]);
  });

  test("top-k keeps k, also among equals", () => {
    expectShares(shares(logs(0.5, 0.2, 0.3), { topK: 2 }), [0.625, 0, 0.375]);
    expectShares(shares([0, 0, 0, 0], { topK: 2 }), [0.5, 0.5, 0, 0]);
    expectShares(shares(logs(0.5, 0.5), { topK: 9 }), [0.5, 0.5]);
  });

  test("top-p keeps the token that crosses the bound", () => {
    expectShares(shares(logs(0.5, 0.2, 0.3), { topP: 0.6 }), [0.625, 0, 0.375]);
    expectShares(shares(logs(0.5, 0.2, 0.3), { topP: 0.01 }), [1, 0, 0]);
  });

  test("min-p is a share of the likeliest", () => {
    expectShares(shares(logs(0.5, 0.2, 0.3), { minP: 0.5 }), [0.625, 0, 0.375]);
    expectShares(shares(logs(0.5, 0.2, 0.3), { minP: 1 }), [1, 0, 0]);
  });

  test("the repetition penalty divides positive logits and multiplies negative ones, once per token", () => {
    const greedy = createSampler({ ...GREEDY, repetitionPenalty: 2 });
    expect(greedy(Float32Array.of(3, 2, 1), [0, 0])).toBe(1);
    expect(greedy(Float32Array.of(-1, -1.5, -3), [0])).toBe(1);
    expect(greedy(Float32Array.of(3, 1, 1.4), [0, 0, 0])).toBe(0);
  });

  test("the same seed draws the same, another seed something else", () => {
    const draw = (seed: number) => {
      const sampler = createSampler({ ...GREEDY, temperature: 1, seed });
      return Array.from({ length: 50 }, () => sampler(new Float32Array(100), []));
    };
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1)).not.toEqual(draw(2));
  });

  test("greedy takes the first of the greatest", () => {
    expect(createSampler(GREEDY)(Float32Array.of(1, 3, 3, -Infinity), [])).toBe(1);
  });
});

/** The definition: all ids sorted, a filter after the other, one draw. */
function drawn(logits: Float32Array, { temperature, topK, topP, minP }: SamplingOptions, random: Random): number {
  let ids = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
  if (topK > 0) ids = ids.slice(0, topK);
  const greatest = logits[ids[0]!]!;
  const weight = (id: number) => Math.exp((logits[id]! - greatest) / temperature);
  const sumOf = (some: readonly number[]) => some.reduce((sum, id) => sum + weight(id), 0);
  const total = sumOf(ids);
  let sum = 0;
  if (topP < 1) ids = ids.filter((_, rank) => rank === 0 || (sum += weight(ids[rank - 1]!)) < topP * total);
  ids = ids.filter((id, rank) => rank === 0 || weight(id) >= minP);
  let left = random.uniform() * sumOf(ids);
  return ids.find((id) => (left -= weight(id)) < 0) ?? ids.at(-1)!;
}

test("tokens are those of sorting them all, for any filters, also among equal and impossible ones", () => {
  const random = createRandom(3);
  const pick = <T>(...values: readonly T[]): T => values[random.below(values.length)]!;
  for (let round = 0; round < 200; round++) {
    const count = pick(1, 2, 50, 3000);
    const [deviation, isCoarse] = [pick(0, 0.1, 1, 3, 10), pick(true, false)];
    const logits = Float32Array.from({ length: count }, (_, id) => {
      const logit = deviation * random.normal();
      return id > 0 && random.below(20) === 0 ? -Infinity : isCoarse ? Math.round(logit) : logit;
    });
    const options: SamplingOptions = {
      temperature: pick(0.01, 0.3, 0.7, 1, 5),
      topK: pick(0, 0, 1, 5, 40, 100_000),
      topP: pick(1, 1, 0.1, 0.5, 0.9, 0.999),
      minP: pick(0, 0, 0.01, 0.1, 1),
      repetitionPenalty: 1,
      seed: round,
    };
    const [sampler, expected] = [createSampler(options), createRandom(round, "sampling")];
    for (let draw = 0; draw < 10; draw++) expect(sampler(logits, [])).toBe(drawn(logits, options, expected));
  }
});
