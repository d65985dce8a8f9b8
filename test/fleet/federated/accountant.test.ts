import { expect, test } from "bun:test";
import {
  logExcess,
  ORDERS,
  type PrivateSteps,
  privacySpent,
  rdpOfStep,
} from "../../../src/fleet/federated/privacy/accountant.ts";
import { SLOW } from "../../support/slow.ts";
import fixture from "../../golden/privacy/opacus.json";

interface Case {
  readonly steps: readonly PrivateSteps[];
  readonly delta: number;
  readonly epsilon: number;
  readonly order: number;
}

/** All of the grid in the full suite, each fifth run in the plain one. */
const cases: readonly Case[] = fixture.cases.filter((_, i) => SLOW || i % 5 === 0);
const difference = (actual: number, expected: number) => Math.abs(actual - expected) / Math.abs(expected);

test("a step's RDP is opacus's at whole and fractional orders, to six digits", () => {
  for (const { noise, rate, order, rdp } of fixture.steps)
    expect([noise, rate, order, difference(rdpOfStep({ noise, rate }, order), rdp) < 1e-6]).toEqual([noise, rate, order, true]);
});

test("at whole orders the integral is the binomial sum, however small", () => {
  for (const noise of [0.4, 1, 5])
    for (const rate of [1e-8, 1e-4, 0.03, 0.6])
      for (const order of [2, 3, 7, 40]) {
        const log = rdpOfStep({ noise, rate }, order) * (order - 1);
        const whole = log > 30 ? log : Math.log(Math.expm1(log));
        expect([noise, rate, order, Math.abs(logExcess(rate, noise, order) - whole) < 1e-6]).toEqual([noise, rate, order, true]);
      }
});

test(`epsilon is opacus's within 1 % on a grid of ${cases.length} runs, with its orders, and with ours where its best one is not the last`, () => {
  let inner = 0;
  for (const { steps, delta, epsilon, order } of cases) {
    const about = JSON.stringify({ steps, delta, epsilon });
    const own = privacySpent(steps, delta, fixture.orders).epsilon;
    // opacus lets epsilon be below 0 where a bound says nothing.
    if (epsilon > 0) expect([about, difference(own, epsilon) < 0.01]).toEqual([about, true]);
    const { epsilon: ours } = privacySpent(steps, delta);
    expect([about, ours <= Math.max(0, epsilon) * 1.001 + 1e-12]).toEqual([about, true]);
    if (order === 63 || order === 1.1) continue;
    inner++;
    expect([about, difference(ours, epsilon) < 0.01]).toEqual([about, true]);
  }
  expect(inner).toBeGreaterThan(cases.length / 3);
});

test("no noise is no privacy, no step costs nothing, and all examples in each step is the Gaussian mechanism", () => {
  expect(privacySpent([{ rate: 0.1, noise: 0, steps: 1 }], 1e-5).epsilon).toBe(Infinity);
  expect(privacySpent([{ rate: 0.1, noise: 1, steps: 0 }], 1e-5).epsilon).toBe(0);
  expect(rdpOfStep({ rate: 1, noise: 2 }, 6)).toBe(6 / 8);
  expect(ORDERS.every((order, i) => i === 0 || order > ORDERS[i - 1]!)).toBe(true);
});
