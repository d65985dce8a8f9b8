import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { type Chain, type Link, makeChain, parseChain } from "../../src/schedule/chain.ts";
import { offloadKept, plannerOf } from "../../src/schedule/planner/offload.ts";
import { formatSchedule, IA, isComputation, IT, OA, type Op, OT, parseSchedule } from "../../src/schedule/ops.ts";
import { makePlanner } from "../../src/schedule/planner/optimal.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { type Strategy, strategySchedule } from "../../src/schedule/strategies.ts";
import { leastTime } from "./brute-force.ts";
import { languageModel, makeRandom, randomChain } from "./chains.ts";

setDefaultTimeout(120_000);

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

const linked = (chain: Chain, out: number, into: number, more: Partial<Link> = {}): Chain => ({
  ...chain,
  offload: { out, in: into, leastBytes: 0, inFlight: Infinity, ...more },
});

const steps = (text: string): Op[] => parseSchedule(text.split(", "));

/** Two segments: boundaries of 4 bytes, tapes of 10. */
const pair = makeChain({ a: [4, 4, 0], r: [10, 10], uf: [5, 5], ub: [10, 10], of: [1, 1], ob: [2, 2] });

describe("simulation of transfers", () => {
  const run = (chain: Chain, text: string) => simulate(chain, steps(text));

  test("by hand: a drop waits for its copy, a backward for its fetch", () => {
    const { time, waited, peak, steps: each, transfers } = run(linked(pair, 2, 5), "FA 1 0, OT 1, DT 1, FA 2 0, B 2, IT 1, B 1");
    expect(time).toBe(5 + 10 / 2 + 5 + 10 + 10 / 5 + 10);
    expect(waited).toBe(7);
    // A0 4, A1 4, tape 10, workspace 1 | A0, A1, tape | A0, A1 | A0, A1, tape 2, workspace | + G1 4, workspace 2 | A0, G1, tape 1 | + workspace 2
    expect(each.map(({ during }) => during)).toEqual([19, 18, 18, 19, 24, 18, 20]);
    expect(peak).toBe(24);
    expect(transfers).toEqual([
      { step: 1, direction: "out", bytes: 10, start: 5, end: 10 },
      { step: 5, direction: "in", bytes: 10, start: 25, end: 27 },
    ]);
  });

  test("by hand: beside the computation, transfers cost memory instead of time", () => {
    // The copy (5 to 10) lies beside FA 2, the fetch (10 to 12) beside B 2 (10 to 20).
    const { time, waited, peak } = run(linked(pair, 2, 5), "FA 1 0, OT 1, FA 2 0, DT 1, IT 1, B 2, B 1");
    expect({ time, waited, peak }).toEqual({ time: 30, waited: 0, peak: 34 });
    // A copy of 20 is 10 short of hidden; the fetch waits for its end too.
    expect(run(linked(pair, 0.5, 5), "FA 1 0, OT 1, FA 2 0, DT 1, IT 1, B 2, B 1")).toMatchObject({ time: 45, waited: 15 });
  });

  test("copies follow each other; a bound on what is in flight makes a copy wait, but never for itself", () => {
    const chain = makeChain({ a: [4, 4, 4, 0], r: [10, 10, 10], uf: [1, 1, 1], ub: [1, 1, 1] });
    const text = "FA 1 0, OT 1, OA 0, FA 2 0, DT 1, FA 3 0, B 3, B 2, IT 1, B 1";
    const timeOf = (inFlight: number) => run(linked(chain, 1, 1, { inFlight }), text);
    expect(timeOf(Infinity).transfers.map(({ start, end }) => [start, end])).toEqual([
      [1, 11],
      [11, 15],
      [14, 24],
    ]);
    expect(timeOf(13).waited).toBeGreaterThan(timeOf(14).waited);
    expect(timeOf(14)).toEqual(timeOf(Infinity));
    expect(timeOf(1).time).toBeFinite();
  });

  test("what is fetched and dropped without being read is waited for: the fetch writes its memory", () => {
    const { time, items } = run(linked(pair, 10, 1), "FA 1 0, OA 0, DA 0, IA 0, FA 2 0, DA 0, B 2, IA 0, B 1");
    // The first fetch ends at 9.4, the second forward at 10.4; the second fetch takes 4 behind B 2.
    expect(time).toBeCloseTo(5 + 0.4 + 5 + 10 + 4 + 10, 9);
    const fetched = items.filter(({ kind, index }) => kind === "boundary" && index === 0)[1]!;
    expect([fetched.first, fetched.lastUse]).toEqual([3, 4]);
  });

  test("an item that is copied keeps its memory until it is dropped", () => {
    const { items } = run(linked(pair, 2, 5), "FA 1 0, OT 1, FA 2 0, DT 1, B 2, IT 1, B 1");
    const tapes = items.filter(({ kind, index }) => kind === "tape" && index === 1);
    expect(tapes.map(({ first, last, lastUse }) => [first, last, lastUse])).toEqual([
      [0, 2, 2],
      [5, 6, 6],
    ]);
  });

  test.each([
    ["OA 1", "step 0 (OA 1): boundary 1 is not live"],
    ["IT 1", "step 0 (IT 1): the tape of segment 1 has no copy outside"],
    ["OA 0, IA 0", "step 1 (IA 0): boundary 0 is live already"],
    ["FA 1 0, OT 1, FA 2 0, B 2, B 1, IT 1", "step 5 (IT 1): the tape of segment 1 is not read any more"],
    ["FC 1, FA 2 0, B 2", "the schedule ends before backward 1"],
    ["FA 1 0, OT 1, DT 1, FA 2 0, B 2, B 1", "step 5 (B 1): the tape of segment 1 is not live"],
  ])("an invalid step is named: %s", (text, message) => {
    expect(() => run(linked(pair, 1, 1), text)).toThrow(message);
  });

  test("a chain without a link has nowhere to copy to", () => {
    expect(() => run(pair, "FA 1 0, OT 1, FA 2 0, B 2, B 1")).toThrow("step 1 (OT 1): the chain has no offload");
    expect(() => parseChain({ ...pair, offload: { out: 0, in: 1 } })).toThrow("offload.out must be larger than 0");
    expect(parseChain(JSON.parse(JSON.stringify({ ...pair, offload: { out: 2, in: 1 } }))).offload).toEqual(
      linked(pair, 2, 1).offload,
    );
  });

  test("steps are written and read back", () => {
    const schedule = [OA(0), IA(0), OT(12), IT(12)];
    expect(formatSchedule(schedule)).toEqual(["OA 0", "IA 0", "OT 12", "IT 12"]);
    expect(parseSchedule(formatSchedule(schedule))).toEqual(schedule);
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
      const { simulation } = plannerOf(linked(chain, bw_out, bw_in)).plan(M)!;
      expect(simulation.time).toBeLessThanOrEqual(Math.min(sync_time, async_time) + 1e-5);
      expect(simulation.peak).toBeLessThanOrEqual(M);
    },
  );

  test("random chains: as fast as without offload or faster, within the limit, also below its least memory", () => {
    const random = makeRandom(5);
    let below = 0;
    for (let i = 0; i < 40; i++) {
      const plain = randomChain(random, random.whole(2, 7));
      const without = makePlanner(plain);
      const planner = plannerOf(linked(plain, random.whole(1, 4), random.whole(1, 4)));
      expect(planner.leastMemory).toBeLessThanOrEqual(without.leastMemory);
      if (planner.leastMemory < without.leastMemory) below++;
      expect(planner.plan(planner.leastMemory - 1)).toBeNull();
      const enough = without.fastest.simulation.peak;
      // Downwards too: a planner may answer a limit by what it has found for a larger one.
      for (const memory of [planner.leastMemory, without.leastMemory - 1, without.leastMemory, enough - 1, planner.leastMemory]) {
        const planned = planner.plan(memory);
        expect(planned === null).toBe(memory < planner.leastMemory);
        if (!planned) continue;
        expect(planned.simulation.peak).toBeLessThanOrEqual(memory);
        expect(planned.simulation).toEqual(simulate(planner.chain, planned.schedule));
        expect(planned.simulation.time).toBeLessThanOrEqual((without.plan(memory)?.simulation.time ?? Infinity) + 1e-9);
      }
    }
    expect(below).toBeGreaterThan(5);
  });

  test("12 random chains: no limit has a slower plan than a lower one has, whatever was planned before; never slower than without offload", () => {
    const random = makeRandom(31);
    let faster = 0;
    for (let i = 0; i < 12; i++) {
      const plain = randomChain(random, random.whole(3, 6));
      const chain = linked(plain, random.whole(1, 4), random.whole(1, 4));
      const without = makePlanner(plain);
      const least = plannerOf(chain).leastMemory;
      const enough = without.fastest.simulation.peak;
      let before = Infinity;
      for (let step = 0; step <= 8; step++) {
        const memory = least + Math.floor(((enough - least) * step) / 8) + (step % 2 === 0 ? 0 : 0.5);
        const { time, peak } = plannerOf(chain).plan(memory)!.simulation;
        expect(peak).toBeLessThanOrEqual(memory);
        expect(time).toBeLessThanOrEqual(before);
        expect(time).toBeLessThanOrEqual((without.plan(memory)?.simulation.time ?? Infinity) + 1e-9);
        if (time < before) faster++;
        before = time;
      }
    }
    expect(faster).toBeGreaterThan(40);
  });

  test("language models of many limits: monotonic over 12 limits, at three bandwidths", () => {
    const plain = languageModel({ blocks: 10, scale: 1000, selective: true });
    const { simulation } = makePlanner(plain).fastest;
    for (const bandwidth of [1e3, 5e3, 2e4]) {
      let before = Infinity;
      for (let share = 0.15; share < 1; share += 0.07) {
        const { time } = plannerOf(linked(plain, bandwidth, bandwidth)).plan(share * simulation.peak)!.simulation;
        expect(time).toBeLessThanOrEqual(before);
        before = time;
      }
    }
  });

  test("200 blocks on a slow link: planned in less than two seconds of processor time, on a busy machine too", () => {
    const plain = languageModel({ blocks: 200, scale: 1000, selective: true });
    const memory = 0.1 * makePlanner(plain).fastest.simulation.peak;
    const begin = process.cpuUsage();
    const planned = plannerOf(linked(plain, 1e3, 1e3)).plan(memory)!;
    expect(process.cpuUsage(begin).user / 1e6).toBeLessThan(2);
    expect(planned.simulation.time).toBeLessThanOrEqual(makePlanner(plain).plan(memory)!.simulation.time);
  });

  // The planner is not exact for transfers beside the computation; this is what it is measured by.
  test("30 tiny chains against exhaustive search: least memory exact, times between the best with transfers that take no time and (in all but 1 of 90 cases) the best with transfers that stop the computation", () => {
    const random = makeRandom(11);
    let [compared, gaps, worse, tight] = [0, 0, 0, 0];
    for (let trial = 0; trial < 30; trial++) {
      const plain = randomChain(random, random.whole(2, 3));
      const chain = linked(plain, random.whole(1, 4), random.whole(1, 4));
      const free = linked(plain, 1e12, 1e12);
      const planner = plannerOf(chain);
      const least = planner.leastMemory;
      if (leastTime(chain, least - 1) === null) tight++;
      for (const memory of [least, least + 2, least + 5]) {
        const { time } = planner.plan(memory)!.simulation;
        expect(time).toBeGreaterThanOrEqual(leastTime(free, memory)! - 1e-6);
        const stopping = leastTime(chain, memory)!;
        compared++;
        gaps += time / stopping - 1;
        if (time > stopping + 1e-9) worse++;
      }
    }
    expect(gaps / compared).toBeLessThanOrEqual(0);
    expect(worse).toBeLessThanOrEqual(1);
    expect(tight).toBe(30);
  });

  test("an infinitely fast link costs nothing: save-all's time where replays would be needed, also in a deep chain", () => {
    for (const blocks of [12, 120]) {
      const plain = languageModel({ blocks, scale: 4 });
      const without = makePlanner(plain);
      const memory = Math.round(without.fastest.simulation.peak * 0.3);
      const planned = plannerOf(linked(plain, 1e9, 1e9)).plan(memory)!;
      expect(without.plan(memory)!.simulation.time).toBeGreaterThan(1.1 * without.fastest.simulation.time);
      expect(planned.simulation.time).toBeLessThan(1.002 * without.fastest.simulation.time);
      expect(planned.simulation.peak).toBeLessThanOrEqual(memory);
    }
  });

  test("a link that is too slow to be of use changes nothing where anything else fits", () => {
    const plain = languageModel({ blocks: 12, scale: 4 });
    const memory = Math.round(makePlanner(plain).fastest.simulation.peak * 0.4);
    const { schedule, simulation } = plannerOf(linked(plain, 1e-3, 1e-3)).plan(memory)!;
    expect(simulation.transfers).toEqual([]);
    expect(schedule).toEqual(makePlanner(plain).plan(memory)!.schedule);
  });

  test("small items stay in memory", () => {
    const plain = languageModel({ blocks: 12, scale: 4 });
    const memory = Math.round(makePlanner(plain).fastest.simulation.peak * 0.4);
    const { simulation } = plannerOf(linked(plain, 20, 20, { leastBytes: 5 })).plan(memory)!;
    expect(simulation.transfers.length).toBeGreaterThan(0);
    for (const { bytes } of simulation.transfers) expect(bytes).toBeGreaterThanOrEqual(5);
  });

  test("the curve falls from a least memory below the one without offload to the same least time", () => {
    const plain = languageModel({ blocks: 8, scale: 4 });
    const [without, planner] = [makePlanner(plain), plannerOf(linked(plain, 40, 40))];
    const curve = planner.curve().map(({ simulation }) => simulation);
    expect(planner.leastMemory).toBeLessThan(without.leastMemory);
    expect(curve[0]!.peak).toBeLessThan(without.leastMemory);
    expect(curve.at(-1)!.time).toBeCloseTo(without.fastest.simulation.time, 9);
    for (let i = 1; i < curve.length; i++) {
      expect(curve[i]!.peak).toBeGreaterThan(curve[i - 1]!.peak);
      expect(curve[i]!.time).toBeLessThan(curve[i - 1]!.time);
    }
  });
});

describe("fixed strategies with everything outside that they keep", () => {
  const strategies: Strategy[] = [
    { name: "off" },
    { name: "per-segment" },
    { name: "every", k: 2 },
    { name: "sqrt" },
    { name: "uniform", size: 3 },
    { name: "revolve", slots: 3 },
  ];

  test("the same computations in the same order, with a lower peak, for random chains and language models", () => {
    const random = makeRandom(9);
    const chains = Array.from({ length: 40 }, () => randomChain(random, random.whole(2, 12)));
    let lower = 0;
    for (const chain of [...chains, languageModel({ blocks: 16, scale: 4 })]) {
      for (const strategy of strategies) {
        const plain = strategySchedule(chain, strategy);
        const schedule = offloadKept(linked(chain, 1, 1), plain);
        expect(schedule.filter(isComputation)).toEqual(plain.filter(isComputation));
        const { peak, transfers } = simulate(linked(chain, 1, 1), schedule);
        expect(peak).toBeLessThanOrEqual(simulate(chain, plain).peak);
        if (transfers.length > 0) lower++;
      }
    }
    expect(lower).toBeGreaterThan(100);
  });

  test("stash of save-all: a few tapes instead of one for each block; transfers are hidden behind the computation", () => {
    const plain = languageModel({ blocks: 32, scale: 4 });
    const chain = linked(plain, 200, 200);
    const kept = strategySchedule(plain, { name: "off" });
    const [before, after] = [simulate(plain, kept), simulate(chain, offloadKept(chain, kept))];
    expect(after.peak).toBeLessThan(before.peak / 5);
    expect(after.time).toBe(before.time);
    // Every copy is needed, and none is made twice.
    const out = after.transfers.filter(({ direction }) => direction === "out");
    expect(out.length).toBe(after.transfers.length - out.length);
  });

  test("without a link, or with a bound on segments or sizes, the rest stays as it is", () => {
    const chain = languageModel({ blocks: 8, scale: 4 });
    const kept = strategySchedule(chain, { name: "off" });
    expect(offloadKept(chain, kept)).toEqual(kept as Op[]);
    expect(offloadKept(linked(chain, 1, 1, { leastBytes: 1e9 }), kept)).toEqual(kept as Op[]);
    const some = offloadKept(linked(chain, 1, 1), kept, { last: 3 });
    expect(formatSchedule(some.filter(({ kind }) => kind === "OT" || kind === "OA"))).toEqual([
      "OA 0",
      "OA 1",
      "OT 2",
      "OA 2",
      "OT 3",
    ]);
  });
});
