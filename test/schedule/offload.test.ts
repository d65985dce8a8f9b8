import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type Chain, makeChain, parseChain } from "../../src/schedule/chain.ts";
import { planOffload, planSynchronousOffload } from "../../src/schedule/offload.ts";
import { parseSchedule } from "../../src/schedule/ops.ts";
import { makePlanner } from "../../src/schedule/optimal.ts";
import { formatPagedOp, type PagedOp, simulatePaged, simulateStreams } from "../../src/schedule/paging.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { strategySchedule } from "../../src/schedule/strategies.ts";
import { languageModel, makeRandom, randomChain } from "./chains.ts";

interface Published {
  readonly chain: Chain;
  readonly offload?: readonly {
    bw_out: number;
    bw_in: number;
    M: number;
    no_offload: number;
    sync_time: number;
    async_time: number;
  }[];
}

const published = (
  JSON.parse(readFileSync(new URL("../golden/schedule-cases.json", import.meta.url), "utf8")) as { cases: Published[] }
).cases.map(({ chain, offload }) => ({ chain: parseChain(chain), offload: offload ?? [] }));

const OA = (j: number): PagedOp => ({ kind: "OA", j });
const IA = (j: number): PagedOp => ({ kind: "IA", j });
const OT = (i: number): PagedOp => ({ kind: "OT", i });
const IT = (i: number): PagedOp => ({ kind: "IT", i });
const steps = (...parts: (string | PagedOp)[]): PagedOp[] =>
  parts.flatMap((part) => (typeof part === "string" ? parseSchedule(part.split(", ")) : [part]));

/** Two segments: boundaries of 4 bytes, tapes of 10. */
const pair = makeChain({ a: [4, 4, 0], r: [10, 10], uf: [5, 5], ub: [10, 10], of: [1, 1], ob: [2, 2] });

describe("simulators with transfers", () => {
  const paged = steps("FA 1 0", OT(1), "DT 1, FA 2 0, B 2", IT(1), "B 1");

  test("one stream, by hand: transfers stop the computation", () => {
    const { time, peak, during } = simulatePaged(pair, paged, { out: 2, in: 5 });
    expect(time).toBe(5 + 10 / 2 + 5 + 10 + 10 / 5 + 10);
    // A0 4, A1 4, tape 10, workspace 1 | copied | dropped | A0, A1, tape 2, workspace | + G1 4, workspace 2 | A0, G1, tape 1 | + workspace 2
    expect(during).toEqual([19, 18, 8, 19, 24, 18, 20]);
    expect(peak).toBe(24);
  });

  test("three streams, by hand: a copy beside the next forward, a fetch beside the backward", () => {
    // With 29 bytes the tape's copy (5 to 10) lies beside FA 2 (5 to 10), the fetch waits for the end of B 2 (20), 2 more.
    expect(simulateStreams(pair, paged, { out: 2, in: 5 }, 29)).toEqual({ time: 32, peak: 29 });
    // Moved before B 2 the fetch is hidden, if there is room for both tapes.
    const ahead = steps("FA 1 0", OT(1), "DT 1, FA 2 0", IT(1), "B 2, B 1");
    expect(simulateStreams(pair, ahead, { out: 2, in: 5 }, 34)).toEqual({ time: 30, peak: 34 });
    // With less room the second forward waits for the copy to end.
    expect(simulateStreams(pair, paged, { out: 2, in: 5 }, 24)).toEqual({ time: 37, peak: 24 });
    expect(simulateStreams(pair, paged, { out: 2, in: 5 }, 23)).toBeNull();
  });

  test("bytes under way are bounded: copies wait for each other, not for their own", () => {
    const chain = makeChain({ a: [4, 4, 4, 0], r: [10, 10, 10], uf: [1, 1, 1], ub: [1, 1, 1] });
    const schedule = steps("FA 1 0", OT(1), OA(0), "DT 1, FA 2 0, FA 3 0, B 3, B 2", IT(1), "B 1");
    for (const inFlight of [1, 10, 100])
      expect(simulateStreams(chain, schedule, { out: 1, in: 1 }, 1000, inFlight)).not.toBeNull();
  });

  test.each([
    [steps(OA(1)), "step 0 (OA 1): there is nothing to copy"],
    [steps(IT(1)), "step 0 (IT 1): there is no copy outside"],
    [steps(OA(0), IA(0)), "step 1 (IA 0): it is live already"],
    [steps("FC 1, FA 2 0, B 2"), "the schedule ends before backward 1"],
    [steps("FA 1 0, DT 1, FA 2 0, B 2, B 1"), "step 4 (B 1): the tape is not live"],
  ])("an invalid step is named: %#", (schedule, message) => {
    expect(() => simulatePaged(pair, schedule, { out: 1, in: 1 })).toThrow(message);
  });

  test("without transfers both agree with the exact simulator, for 60 random chains", () => {
    const random = makeRandom(3);
    for (let i = 0; i < 60; i++) {
      const chain = randomChain(random, random.whole(1, 8));
      for (const name of ["off", "per-segment", "sqrt"] as const) {
        const schedule = strategySchedule(chain, { name });
        const { time, peak } = simulate(chain, schedule);
        const bandwidth = { out: 1, in: 1 };
        expect(simulatePaged(chain, schedule, bandwidth)).toMatchObject({ time, peak });
        expect(simulateStreams(chain, schedule, bandwidth, peak)).toEqual({ time, peak });
        expect(simulateStreams(chain, schedule, bandwidth, peak - 1)).toBeNull();
      }
    }
  });
});

describe("offload as a choice of the planner", () => {
  test("the published cases are all here", () => {
    expect(published.reduce((count, { offload }) => count + offload.length, 0)).toBe(24);
  });

  test.each(
    published.flatMap(({ chain, offload }) => offload.map((entry) => [chain.n, entry.M, entry.bw_out, chain, entry] as const)),
  )(
    "%d segments, limit %d, bandwidth %d: never slower than the published times, within the limit",
    (_n, M, _bandwidth, chain, { bw_out, bw_in, sync_time, async_time }) => {
      const bandwidth = { out: bw_out, in: bw_in };
      const synchronous = planSynchronousOffload(chain, M, bandwidth)!;
      expect(synchronous.time).toBeLessThanOrEqual(sync_time + 1e-5);
      expect(synchronous.peak).toBeLessThanOrEqual(M);
      const beside = planOffload(chain, M, bandwidth)!;
      expect(beside.time).toBeLessThanOrEqual(async_time + 1e-5);
      expect(beside.peak).toBeLessThanOrEqual(M);
    },
  );

  test("random chains: as fast as the planner without offload or faster, valid, within the limit, also below its least memory", () => {
    const random = makeRandom(5);
    let below = 0;
    for (let i = 0; i < 40; i++) {
      const chain = randomChain(random, random.whole(2, 7));
      const planner = makePlanner(chain);
      for (const memory of [planner.leastMemory - 1, planner.leastMemory, planner.fastest.simulation.peak - 1]) {
        const without = planner.plan(memory)?.simulation.time ?? Infinity;
        const bandwidth = { out: random.whole(1, 4), in: random.whole(1, 4) };
        const plan = planSynchronousOffload(chain, memory, bandwidth);
        if (!plan) continue;
        expect(plan.time).toBeLessThanOrEqual(without + 1e-9);
        expect(plan.peak).toBeLessThanOrEqual(memory);
        if (without === Infinity) below++;
        const beside = planOffload(chain, memory, bandwidth);
        if (beside) expect(beside.peak).toBeLessThanOrEqual(memory);
      }
    }
    expect(below).toBeGreaterThan(0);
  });

  test("an infinitely fast link costs nothing: save-all's time where replays would be needed", () => {
    const chain = languageModel({ blocks: 12, scale: 4 });
    const planner = makePlanner(chain);
    const memory = Math.round(planner.fastest.simulation.peak * 0.4);
    const fast = planOffload(chain, memory, { out: 1e9, in: 1e9 })!;
    expect(planner.plan(memory)!.simulation.time).toBeGreaterThan(1.1 * planner.fastest.simulation.time);
    expect(fast.time).toBeLessThan(1.001 * planner.fastest.simulation.time);
    expect(fast.peak).toBeLessThanOrEqual(memory);
  });

  test("small items stay in memory", () => {
    const chain = languageModel({ blocks: 12, scale: 4 });
    const memory = Math.round(makePlanner(chain).fastest.simulation.peak * 0.4);
    const { schedule } = planOffload(chain, memory, { out: 20, in: 20 }, { leastBytes: 5 })!;
    const copied = schedule.filter(({ kind }) => kind === "OA" || kind === "OT").map(formatPagedOp);
    expect(copied.length).toBeGreaterThan(0);
    expect(copied.filter((text) => text.startsWith("OA"))).toEqual([]);
  });
});
