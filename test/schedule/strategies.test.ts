import { describe, expect, test } from "bun:test";
import { type Chain, idealTime, makeChain, parseChain } from "../../src/schedule/chain.ts";
import { formatSchedule } from "../../src/schedule/ops.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { revolveAdvances, type Strategy, strategySchedule } from "../../src/schedule/strategies.ts";
import { golden, languageModel } from "./chains.ts";

const run = (chain: Chain, strategy: Strategy) => simulate(chain, strategySchedule(chain, strategy));

/** The strategy that a worked case calls by this name, or null where this system has none (replays without need). */
function published(name: string, { k, slots }: { readonly k?: number; readonly slots?: number }): Strategy[] {
  if (name === "none") return [{ name: "off" }];
  if (name === "full") return [{ name: "per-segment" }];
  if (name === "sqrt") return [{ name: "sqrt" }, { name: "sqrt", groups: k! }];
  if (name === "sqrt_minpeak") return [{ name: "sqrt", groups: "least-peak" }];
  if (/^revolve_\d+$/.test(name)) return [{ name: "revolve", slots: slots! }];
  return [];
}

test("worked cases: time (1e-6) and peak (exact) of off, per segment, sqrt and revolve", () => {
  let compared = 0;
  for (const { chain, strategies } of golden.cases) {
    // They are stated for a head that is taped, not fused.
    const taped = parseChain({ ...chain, replay: undefined });
    for (const [name, expected] of Object.entries(strategies)) {
      for (const strategy of published(name, expected)) {
        const { time, peak } = run(taped, strategy);
        expect(time).toBeCloseTo(expected.time, 6);
        expect(peak).toBe(expected.peak);
        compared++;
      }
    }
  }
  expect(compared).toBeGreaterThan(60);
});

describe("revolve", () => {
  test("advances: the closed form and the schedule, equal to the counts worked out beforehand", () => {
    for (const { n, slots, advances } of golden.revolve) {
      expect(revolveAdvances(n, slots)).toBe(advances);
      const ones = Array.from({ length: n }, () => 1);
      const chain = makeChain({ a: [1, ...ones], r: ones, uf: ones, ub: ones });
      expect(run(chain, { name: "revolve", slots }).time).toBe(2 * n + advances);
    }
  });
});

describe("rules", () => {
  const chain = languageModel({ blocks: 10, frozen: true });
  const trainable = chain.n - chain.frozen;
  const ideal = idealTime(chain);
  /** Segments that are computed again. */
  const replayed = (strategy: Strategy) => run(chain, strategy).time - ideal;

  test("off recomputes nothing, and the head is not replayed by any", () => {
    expect(replayed({ name: "off" })).toBeCloseTo(0, 9);
    for (const strategy of [{ name: "per-segment" }, { name: "every", k: 1 }, { name: "first", count: trainable }] as const) {
      expect(replayed(strategy)).toBeCloseTo(10, 9);
    }
  });

  test("every k-th, the first n and a ratio replay that many blocks", () => {
    expect(replayed({ name: "every", k: 2 })).toBeCloseTo(5, 9);
    expect(replayed({ name: "every", k: 3 })).toBeCloseTo(3, 9);
    expect(replayed({ name: "first", count: 4 })).toBeCloseTo(4, 9);
    expect(replayed({ name: "first", count: 0 })).toBeCloseTo(0, 9);
    expect(replayed({ name: "ratio", ratio: 0.5 })).toBeCloseTo(Math.round(trainable / 2), 9);
    expect(replayed({ name: "ratio", ratio: 0 })).toBeCloseTo(0, 9);
  });

  test("uniform groups are taped again as a whole; the last group is saved", () => {
    expect(replayed({ name: "uniform", size: 4 })).toBeCloseTo(8, 9);
    expect(formatSchedule(strategySchedule(chain, { name: "uniform", size: 4 })).slice(0, 5)).toEqual([
      "FN 1",
      "FC 2",
      "FN 3",
      "FN 4",
      "FN 5",
    ]);
  });

  test("more replay never needs more memory, block by block", () => {
    let peak = Infinity;
    for (let count = 0; count <= trainable; count++) {
      const next = run(chain, { name: "first", count }).peak;
      expect(next).toBeLessThanOrEqual(peak);
      peak = next;
    }
  });

  test("a tape variant is used where a segment has it", () => {
    const selective = languageModel({ blocks: 4, scale: 100, selective: true });
    const texts = formatSchedule(strategySchedule(selective, { name: "off", variant: 1 }));
    expect(texts.filter((text) => text.startsWith("FA"))).toEqual(["FA 1 0", "FA 2 1", "FA 3 1", "FA 4 1", "FA 5 1", "FA 6 0"]);
  });

  test("parameters out of range are refused", () => {
    const bad: Strategy[] = [
      { name: "every", k: 0 },
      { name: "first", count: -1 },
      { name: "first", count: 1.5 },
      { name: "ratio", ratio: 1.1 },
      { name: "ratio", ratio: NaN },
      { name: "uniform", size: 0 },
      { name: "sqrt", groups: 0 },
      { name: "revolve", slots: 0 },
    ];
    for (const strategy of bad) expect(() => strategySchedule(chain, strategy)).toThrow(RangeError);
  });
});
