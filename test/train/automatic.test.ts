import { afterEach, describe, expect, test } from "bun:test";
import { simulate } from "../../src/schedule/simulate.ts";
import { summarise } from "../../src/schedule/summary.ts";
import { fixedTotal } from "../../src/train/memory/forecast.ts";
import { type Checkpointing, plannedTime, planStep } from "../../src/train/memory/step-plan.ts";
import type { Engine } from "../../src/train/step/engine.ts";
import { build, closeExecutors, gradients, llama, lora } from "../support/engine.ts";

afterEach(closeExecutors);

const MODEL = llama(9, 64);
const TOKENS = 64;

const open = (strategy: Checkpointing, tokens = TOKENS) => build(MODEL, lora(0.1), strategy, tokens, 1);
const automatic = (free: number): Checkpointing => ({ name: "auto", free: () => free });
const activations = ({ chain, schedule }: Engine) => simulate(chain, schedule).peak;
const everything = ({ withoutCheckpointing }: Engine) => withoutCheckpointing.stash + withoutCheckpointing.workspace;

describe("without a strategy", () => {
  test("activations take what makes a step faster, from half to three quarters of everything; the same gradients to the bit", async () => {
    const off = await open({ name: "off" });
    const least = await open({ name: "per-segment" });
    const engine = await open(automatic(2 ** 30));
    const { limit, by, leastPeak, ...rest } = engine.plan.automatic!;
    expect({ by, ...rest }).toEqual({ by: "everything", everything: everything(off) });
    expect(limit! / everything(off)).toBeWithin(0.5, 0.75);
    const within = (share: number) => plannedTime(planStep(engine.chain, { name: "optimal", limit: { share } }, 2 ** 30));
    // More would gain next to nothing, and a tenth less of it all costs more than that.
    expect(plannedTime(engine.plan.largest) / within(0.75)).toBeWithin(0.999, 1.006);
    expect(within(limit! / everything(off) - 0.1) / within(0.75)).toBeGreaterThan(1.006);
    expect(leastPeak).toBe(least.predicted.peak);
    expect(activations(engine)).toBeLessThanOrEqual(limit!);
    expect(activations(engine)).toBeGreaterThan(0.8 * limit!);
    const { partial, inputOnly, replayed, overhead } = summarise(engine.chain, engine.schedule);
    expect(partial + inputOnly + replayed).toBeGreaterThan(0);
    expect(overhead).toBeGreaterThan(0);
    expect(plannedTime(engine.plan.largest)).toBeLessThan(0.95 * plannedTime(least.plan.largest));
    const reference = gradients(off, TOKENS);
    for (const each of [engine, least]) expect(gradients(each, TOKENS)).toEqual(reference);
    expect(engine.measuredPeak / engine.predicted.peak).toBeWithin(0.98, 1.02);
  });

  test("of little free memory they take half of what the rest of the plan leaves", async () => {
    const off = await open({ name: "off" });
    const free = fixedTotal(off.plan.fixed) + Math.floor(0.7 * everything(off));
    const { plan, ...engine } = await open(automatic(free));
    expect(plan.automatic).toMatchObject({ limit: Math.floor((free - fixedTotal(plan.fixed)) / 2), by: "free" });
    expect(plan.largest.placement.extent).toBeLessThanOrEqual(plan.automatic!.limit!);
    expect(engine.withoutCheckpointing.peak).toBe(off.withoutCheckpointing.peak);
  });

  test.each([0, 2 ** 16])("with %d bytes of free memory, the least is taken and nothing is refused", async (free) => {
    const least = await open({ name: "per-segment" });
    const { plan, schedule } = await open(automatic(free));
    expect(plan.automatic).toEqual({ limit: null, everything: everything(least), by: "free", leastPeak: least.predicted.peak });
    expect(plan.predicted).toEqual(least.predicted);
    // The same up to the number of the smallest variant.
    expect(schedule.map(({ kind }) => kind)).toEqual(least.schedule.map(({ kind }) => kind));
  });
});
