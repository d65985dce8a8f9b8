import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { idealTime } from "../../src/schedule/chain.ts";
import { frontier, makePlanner } from "../../src/schedule/planner/optimal.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { leastTime } from "./brute-force.ts";
import { golden, languageModel, makeRandom, randomChain } from "./chains.ts";

setDefaultTimeout(120_000);

const SAME = 1 + 1e-9;

describe("worked cases", () => {
  for (const { id, chain, limits, min_memory, ideal_time } of golden.cases) {
    test(`${id}: least memory exact, infeasible exactly below it, never above the limit or the published times`, () => {
      const planner = makePlanner(chain);
      expect(planner.leastMemory).toBe(min_memory);
      expect(planner.plan(min_memory - 1)).toBeNull();
      expect(planner.plan(min_memory)).not.toBeNull();
      if (!chain.replay.some(Boolean)) expect(idealTime(chain)).toBeCloseTo(ideal_time, 6);
      for (const { M, opt_time, ext_time, opt_time_95 } of limits) {
        const planned = planner.plan(M);
        expect(planned === null).toBe(opt_time === null);
        if (!planned) continue;
        const { time, peak } = simulate(chain, planned.schedule);
        expect(peak).toBeLessThanOrEqual(M);
        expect(time).toBe(planned.simulation.time);
        if (opt_time_95 !== null) expect(time).toBeLessThanOrEqual(opt_time_95 * SAME);
        // The table is exact here: as fast as the optimum of persistent schedules and of those with retape-left.
        expect(time).toBeLessThanOrEqual(opt_time! * SAME);
        expect(time).toBeLessThanOrEqual(ext_time! * SAME);
      }
    });

    test(`${id}: rounded to 500 slots still never above the limit or the optimum at 95 % of it`, () => {
      const planner = makePlanner(chain, { slots: 500 });
      for (const { M, opt_time, opt_time_95 } of limits) {
        const planned = planner.plan(M);
        expect(planned === null).toBe(opt_time === null);
        if (planned) expect(planned.simulation.peak).toBeLessThanOrEqual(M);
        if (planned && opt_time_95 !== null) expect(planned.simulation.time).toBeLessThanOrEqual(opt_time_95 * SAME);
      }
    });
  }

  test("exhaustive search agrees with the times known of it, and the planner never beats it", () => {
    let compared = 0;
    for (const { chain, limits } of golden.cases) {
      for (const { M, global_time } of limits) {
        if (global_time === undefined) continue;
        const best = leastTime(chain, M);
        if (global_time === null) expect(best).toBeNull();
        else {
          expect(best!).toBeCloseTo(global_time, 6);
          expect(makePlanner(chain).plan(M)!.simulation.time * SAME).toBeGreaterThanOrEqual(best!);
        }
        compared++;
      }
    }
    expect(compared).toBeGreaterThan(20);
  });
});

describe("random chains against exhaustive search over all schedules", () => {
  // [segments, chains, bounds of the worst and the mean gap]. The planner's family lacks some schedules, such as a second
  // forward of a segment between two tapes; on these chains the gaps measured are at most 14 %, on average 0.25 %.
  const rows: [number, number, number, number][] = [
    [2, 60, 1e-9, 1e-9],
    [3, 60, 1e-9, 1e-9],
    [4, 50, 0.15, 0.005],
    [5, 40, 0.15, 0.005],
    [6, 16, 0.15, 0.005],
  ];
  test.each(rows)("%i segments, %i chains: valid, within the limit, gap at most %d, on average %d", (n, chains, worst, mean) => {
    const random = makeRandom(n);
    let sum = 0;
    let count = 0;
    for (let trial = 0; trial < chains; trial++) {
      const chain = randomChain(random, n);
      const planner = makePlanner(chain);
      const [least, most] = [planner.leastMemory, planner.fastest.simulation.peak];
      for (const memory of [least, random.whole(least, most), most]) {
        const best = leastTime(chain, memory)!;
        const { schedule, simulation } = planner.plan(memory)!;
        expect(simulate(chain, schedule).peak).toBeLessThanOrEqual(memory);
        expect(simulation.time).toBeGreaterThanOrEqual(best);
        expect(simulation.time / best - 1).toBeLessThanOrEqual(worst);
        sum += simulation.time / best - 1;
        count++;
      }
      // Without a limit nothing is faster.
      expect(planner.fastest.simulation.time).toBe(leastTime(chain, Number.MAX_VALUE)!);
      expect(planner.plan(least - 1)).toBeNull();
    }
    expect(sum / count).toBeLessThanOrEqual(mean);
  });

  test("chains like a language model (n = 6): gap at most 3 %, on average 0.1 %; the least memory is the least of all", () => {
    const random = makeRandom(11);
    let sum = 0;
    let count = 0;
    for (let trial = 0; trial < 6; trial++) {
      const chain = languageModel({ blocks: 4, scale: 8, frozen: trial % 2 === 0, spread: trial < 3 ? 0 : 0.3, seed: trial });
      const planner = makePlanner(chain);
      const [least, most] = [planner.leastMemory, planner.fastest.simulation.peak];
      expect(leastTime(chain, least - 1)).toBeNull();
      for (let i = 0; i < 5; i++) {
        const memory = random.whole(least, most);
        const gap = planner.plan(memory)!.simulation.time / leastTime(chain, memory)! - 1;
        expect(gap).toBeGreaterThanOrEqual(-1e-9);
        expect(gap).toBeLessThanOrEqual(0.03);
        sum += gap;
        count++;
      }
    }
    expect(sum / count).toBeLessThanOrEqual(0.001);
  });
});

describe("language models", () => {
  test("24 blocks with variants: time falls as memory grows, peaks are within it, the ends are the known ones", () => {
    const chain = languageModel({ blocks: 24, scale: 1000, selective: true });
    const planner = makePlanner(chain);
    const [least, most] = [planner.leastMemory, planner.fastest.simulation.peak];
    let time = Infinity;
    for (let i = 0; i <= 40; i++) {
      const memory = least + ((most - least) * i) / 40;
      const { simulation } = planner.plan(memory)!;
      expect(simulation.peak).toBeLessThanOrEqual(memory);
      expect(simulation.time).toBeLessThanOrEqual(time * SAME);
      time = simulation.time;
    }
    expect(time).toBeCloseTo(idealTime(chain), 6);
    expect(planner.plan(most)!.schedule).toEqual(planner.fastest.schedule);
  });

  test("overhead of the step without recompute at 25 % and 50 % of its memory: 26 % and 18 % (24 blocks, r/a = 16)", () => {
    const planner = makePlanner(languageModel({ blocks: 24, scale: 1 << 20 }));
    const { time, peak } = planner.fastest.simulation;
    expect(planner.plan(0.25 * peak)!.simulation.time / time).toBeLessThan(1.26);
    expect(planner.plan(0.5 * peak)!.simulation.time / time).toBeLessThan(1.18);
  });

  test("1000 blocks where save-all holds at most 60: at most 35 % more time", () => {
    const sixty = makePlanner(languageModel({ blocks: 60, scale: 65540 })).fastest.simulation.peak;
    const planner = makePlanner(languageModel({ blocks: 1000, scale: 65540 }));
    const { simulation } = planner.plan(sixty)!;
    expect(simulation.peak).toBeLessThanOrEqual(sixty);
    expect(simulation.time / planner.fastest.simulation.time).toBeLessThan(1.35);
  });

  test("the curve is a frontier: by growing memory each point is faster; its ends are the least memory and the fastest", () => {
    const planner = makePlanner(languageModel({ blocks: 12, scale: 4 }));
    const curve = planner.curve();
    expect(curve[0]!.simulation.peak).toBe(planner.leastMemory);
    expect(curve.at(-1)!.simulation.time).toBe(planner.fastest.simulation.time);
    expect(curve.length).toBeGreaterThan(10);
    expect(frontier(curve)).toEqual(curve);
  });
});
