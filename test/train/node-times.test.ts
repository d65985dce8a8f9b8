import { expect, test } from "bun:test";
import { createTimes } from "../../src/train/nodes/times.ts";
import { simulateSteps } from "../support/node-times.ts";

/** Milliseconds of a micro-batch. */
const T = 1000;
const equal = { ready: 2300, time: (n: number) => (n === 0 ? 6 * T : T) };

test("equal nodes share a step equally as soon as all have learned something, though the first time of each is longer", async () => {
  for (const nodes of [2, 3, 4]) {
    for (const count of [nodes, nodes + 1, 2 * nodes, 2 * nodes + 1, 4 * nodes]) {
      const steps = await simulateSteps(
        8,
        count,
        () => T,
        Array.from({ length: nodes - 1 }, () => equal),
      );
      const joined = steps.findIndex(({ learned }) => learned.every((each) => each > 0));
      expect(joined).toBeLessThan(4);
      for (const { ms, learned } of steps.slice(joined + 2)) {
        expect(ms).toBe(Math.ceil(count / nodes) * T);
        for (const each of learned) expect(each).toBeGreaterThanOrEqual(Math.floor(count / nodes));
      }
    }
  }
});

test("the time of a first micro-batch counts until there is another", () => {
  const times = createTimes();
  expect(times.expected).toBeNull();
  const expected = [5, 1, 2, 2, 3, 4].map((seconds) => {
    times.add(seconds);
    return times.expected;
  });
  expect(expected).toEqual([5, 1, 1, 1, 2, 2]);
});

test("a node that becomes slow keeps what it can do meanwhile; the others do the rest", async () => {
  const slow = { ready: 0, time: (n: number) => (n < 6 ? T : 5 * T) };
  const steps = await simulateSteps(9, 6, () => T, [slow]);
  expect(steps[0]!.ms).toBe(3 * T);
  // It has begun one: the coordinator does the other five beside it.
  for (const { ms, learned } of steps.slice(3)) {
    expect(ms).toBeLessThanOrEqual(6 * T);
    expect(learned[0]).toBeLessThanOrEqual(1);
  }
});

test("a coordinator slower than its worker leaves it more", async () => {
  const steps = await simulateSteps(6, 6, () => 2 * T, [{ ready: 0, time: () => T }]);
  for (const { ms, learned } of steps.slice(2)) {
    expect(learned).toEqual([4]);
    expect(ms).toBe(4 * T);
  }
});
