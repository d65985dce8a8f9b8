import { describe, expect, test } from "bun:test";
import { type BudgetResult, fitBudgets } from "../../src/schedule/planner/budget.ts";
import { makePlanner } from "../../src/schedule/planner/optimal.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { golden, languageModel, makeRandom, randomChain } from "./chains.ts";

describe("budget", () => {
  test("the cheapest schedule that fits, as the planner finds it; what does not fit carries the least memory", () => {
    for (const { chain, limits, min_memory } of golden.cases) {
      const planner = makePlanner(chain);
      for (const { M, opt_time } of limits) {
        const [result] = fitBudgets(planner, [M]) as [BudgetResult];
        expect(result.feasible).toBe(opt_time !== null);
        expect(result.leastMemory).toBe(min_memory);
        if (!result.feasible) continue;
        const { time, peak } = simulate(chain, result.schedule);
        expect([time, peak]).toEqual([result.simulation.time, result.simulation.peak]);
        expect(peak).toBeLessThanOrEqual(M);
        expect(time).toBeLessThanOrEqual(opt_time! + 1e-9);
      }
    }
  });

  test("several limits keep their order, and a larger one is never slower, even where sizes are rounded to 40 slots", () => {
    const random = makeRandom(7);
    for (let trial = 0; trial < 30; trial++) {
      const planner = makePlanner(randomChain(random, 10), { slots: 40 });
      const most = planner.fastest.simulation.peak;
      const limits = Array.from({ length: 15 }, () => random.whole(0, most + 5));
      const results = fitBudgets(planner, limits);
      limits.forEach((limit, i) => {
        const result = results[i]!;
        expect(result.feasible).toBe(limit >= planner.leastMemory);
        if (!result.feasible) return;
        expect(result.simulation.peak).toBeLessThanOrEqual(limit);
        limits.forEach((other, j) => {
          const more = results[j]!;
          if (other < limit || !more.feasible) return;
          expect(more.simulation.time).toBeLessThanOrEqual(result.simulation.time);
        });
      });
    }
  });

  test("with room for everything nothing is recomputed; no limit at all is allowed", () => {
    const chain = languageModel({ blocks: 6 });
    const planner = makePlanner(chain);
    const [result, none] = fitBudgets(planner, [Infinity, NaN]) as [BudgetResult, BudgetResult];
    expect(result.feasible && result.simulation.time).toBe(planner.fastest.simulation.time);
    expect(none.feasible).toBe(false);
  });
});
