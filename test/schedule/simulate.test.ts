import { describe, expect, test } from "bun:test";
import { makeChain } from "../../src/schedule/chain.ts";
import { FA, formatSchedule, parseOp, parseSchedule } from "../../src/schedule/ops.ts";
import { liveAt, ScheduleError, simulate } from "../../src/schedule/simulate.ts";
import { strategySchedule } from "../../src/schedule/strategies.ts";
import { golden, languageModel, makeRandom, randomChain } from "./chains.ts";

describe("simulator", () => {
  test("vectors worked out by hand: time and peak exact, the first invalid step found", () => {
    for (const { chain, ops, valid, time, peak, error } of golden.sim_vectors) {
      const schedule = parseSchedule(ops);
      if (valid) {
        const simulation = simulate(chain, schedule);
        expect(simulation.time).toBeCloseTo(time, 9);
        expect(simulation.peak).toBe(peak);
      } else {
        // A schedule that ends too early fails behind its last step.
        const index = Number(/^\d+/.exec(error!)?.[0] ?? ops.length);
        expect(() => simulate(chain, schedule)).toThrow(ScheduleError);
        try {
          simulate(chain, schedule);
        } catch (thrown) {
          expect((thrown as ScheduleError).index).toBe(index);
        }
      }
    }
  });

  test("schedules of the worked cases: their time and peak, which is at most the limit", () => {
    for (const { chain, limits } of golden.cases) {
      for (const { M, opt_time, schedule } of limits) {
        if (!schedule) continue;
        const simulation = simulate(chain, parseSchedule(schedule));
        expect(simulation.time).toBeCloseTo(opt_time!, 6);
        expect(simulation.peak).toBeLessThanOrEqual(M);
      }
    }
  });

  test("items tell the same story as steps: live bytes of each step add up to what it holds", () => {
    const random = makeRandom(3);
    for (let trial = 0; trial < 20; trial++) {
      const chain = randomChain(random, 5);
      const simulation = simulate(chain, strategySchedule(chain, { name: "per-segment" }));
      simulation.steps.forEach(({ during, workspace }, step) => {
        const live = liveAt(simulation, step).reduce((sum, { bytes }) => sum + bytes, 0);
        expect(live + workspace).toBe(during);
      });
    }
  });

  test("each need that is not met is named", () => {
    const chain = makeChain({ a: [1, 1, 1, 0], r: [2, 2, 2], uf: [1, 1, 1], ub: [2, 2, 2], frozen: 1 });
    const cases: [string[], number, string][] = [
      [["FN 2"], 0, "its input, boundary 1, is not live"],
      [["FN 1", "FN 1"], 1, "its input, boundary 0, is not live"],
      [["FC 1", "FC 1"], 1, "its output, boundary 1, is live already"],
      [["FA 1 0"], 0, "frozen prefix"],
      [["FN 1", "FA 2 1"], 1, "no tape variant 1"],
      [["FN 1", "FC 2", "B 3"], 2, "the tape of segment 3 is not live"],
      [["FN 1", "FC 2", "BR 3"], 2, "no fused replay"],
      [["DA 2"], 0, "boundary 2 is not live"],
      [["DT 2"], 0, "the tape of segment 2 is not live"],
      [["FN 4"], 0, "there is no segment 4"],
      [["FN 1", "FA 2 0", "FA 3 0", "B 3"], 4, "ends before backward 2"],
      [["FN 1", "FA 2 0", "FA 3 0", "B 3", "B 2", "B 1"], 5, "every backward has run"],
    ];
    for (const [ops, index, reason] of cases) {
      try {
        simulate(chain, parseSchedule(ops));
        throw new Error(`valid: ${ops.join(", ")}`);
      } catch (error) {
        expect(error).toBeInstanceOf(ScheduleError);
        expect((error as ScheduleError).index).toBe(index);
        expect((error as ScheduleError).message).toContain(reason);
      }
    }
  });

  test("dead items are freed at once: the last boundary and gradients behind the backward", () => {
    const chain = languageModel({ blocks: 2, scale: 8 });
    const simulation = simulate(chain, strategySchedule(chain, { name: "off" }));
    expect(simulation.steps.at(-1)!.after).toBe(chain.g[0]!);
  });
});

test("steps as text: read and written alike, bad ones refused", () => {
  const texts = ["FC 1", "FN 2", "FA 3 1", "B 3", "BR 2", "DA 2", "DT 1"];
  expect(formatSchedule(parseSchedule(texts))).toEqual(texts);
  expect(parseOp("FA 3")).toEqual(FA(3, 0));
  for (const bad of ["", "F 1", "FC", "FC x", "B 3 1", "DA -1", "fc 1"]) expect(() => parseOp(bad)).toThrow("expected a step");
});
