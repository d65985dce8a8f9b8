import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Chain } from "../../src/schedule/chain.ts";
import type { Schedule } from "../../src/schedule/ops.ts";
import { makePlanner } from "../../src/schedule/planner/optimal.ts";
import { place, PLACEMENT_ALIGNMENT, type PlacedItem, placeSchedule } from "../../src/schedule/placement.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { type Strategy, strategySchedule } from "../../src/schedule/strategies.ts";
import { languageModel, makeRandom, randomChain } from "./chains.ts";

setDefaultTimeout(120_000);

/** Number of pairs that are live during a common step and share a byte: sweeps over the steps, items sorted by offset. */
function overlaps(items: readonly PlacedItem[]): number {
  const sized = items.filter(({ bytes, first, last }) => bytes > 0 && last >= first);
  const starts = Map.groupBy(sized, ({ first }) => first);
  let live: PlacedItem[] = [];
  let count = 0;
  for (const step of [...starts.keys()].toSorted((x, y) => x - y)) {
    live = [...live.filter(({ last }) => last >= step), ...starts.get(step)!].toSorted((x, y) => x.offset - y.offset);
    let end = 0;
    for (const { offset, bytes } of live) {
      if (offset < end) count++;
      end = Math.max(end, offset + bytes);
    }
  }
  return count;
}

function check(chain: Chain, schedule: Schedule, excess: number): void {
  const { items, extent, lowerBound } = placeSchedule(chain, schedule);
  expect(overlaps(items)).toBe(0);
  expect(items.filter(({ offset, bytes }) => offset % PLACEMENT_ALIGNMENT !== 0 || offset + bytes > extent)).toEqual([]);
  expect(extent).toBeGreaterThanOrEqual(lowerBound);
  expect(extent / lowerBound - 1).toBeLessThanOrEqual(excess);
}

const strategies: Strategy[] = [
  { name: "off" },
  { name: "per-segment" },
  { name: "every", k: 2 },
  { name: "every", k: 3 },
  { name: "first", count: 10 },
  { name: "ratio", ratio: 0.5 },
  { name: "uniform", size: 5 },
  { name: "sqrt" },
  { name: "sqrt", groups: 3 },
  { name: "revolve", slots: 4 },
  { name: "revolve", slots: 16 },
];

describe("language models: nothing overlaps, extent within 1 % of the most live bytes", () => {
  test.each([24, 100, 1000])("%i blocks, every strategy", (blocks) => {
    for (const frozen of [false, true]) {
      const chain = languageModel({ blocks, scale: 65540, frozen });
      // Four slots in a thousand blocks: 16000 steps, in which only the time would be long.
      const tried = strategies.filter((strategy) => blocks < 1000 || strategy.name !== "revolve" || strategy.slots > 4);
      for (const strategy of tried) check(chain, strategySchedule(chain, strategy), 0.01);
    }
  });

  test("24 and 100 blocks with variants, planned for limits from the least memory to save-all", () => {
    for (const blocks of [24, 100]) {
      const planner = makePlanner(languageModel({ blocks, scale: 65536, selective: true }));
      const [least, most] = [planner.leastMemory, planner.fastest.simulation.peak];
      for (const share of [0, 0.05, 0.25, 0.5, 0.8, 1]) {
        check(planner.chain, planner.plan(least + share * (most - least))!.schedule, 0.01);
      }
    }
  });
});

test("random chains: nothing overlaps, extent within 50 % of the most live bytes, each item has the bytes and steps of the simulator", () => {
  const random = makeRandom(5);
  for (let trial = 0; trial < 100; trial++) {
    const chain = randomChain(random, random.whole(2, 12));
    const planner = makePlanner(chain);
    const { schedule } = planner.plan(random.whole(planner.leastMemory, planner.fastest.simulation.peak))!;
    check(chain, schedule, 0.5);
    const placed = placeSchedule(chain, schedule).items.filter(({ kind }) => kind !== "workspace");
    const { items } = simulate(chain, schedule);
    expect(placed.map(({ kind, index, first }) => [kind, index, first])).toEqual(
      items.map(({ kind, index, first }) => [kind, index, first]),
    );
  }
});

test("no items, and items of no bytes, take no room", () => {
  expect(place([]).extent).toBe(0);
  const { extent, lowerBound } = place([{ kind: "tape", index: 1, bytes: 0, first: 0, last: 3 }]);
  expect([extent, lowerBound]).toEqual([0, 0]);
});
