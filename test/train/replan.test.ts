import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { createCosts } from "../../src/train/memory/costs.ts";
import { activationLimit, plannedTime, planStep } from "../../src/train/memory/step-plan.ts";
import { createStepTimes } from "../../src/train/run/step-times.ts";
import { languageModel, makeRandom } from "../schedule/chains.ts";
import { build, closeExecutors, gradients, llama, packedBatch } from "../support/engine.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const TOKENS = 64;
const TRIALS = SLOW ? 40 : 6;

test(`with other times, a plan stays unless another one is faster by them; ${TRIALS} random changes, where a table alone would have answered worse`, () => {
  const random = makeRandom(3);
  const chain = languageModel({ blocks: 12, scale: 1000, selective: true });
  const limit = { name: "optimal", limit: { share: 0.4 } } as const;
  const current = planStep(chain, limit, Infinity);
  let [kept, replaced] = [0, 0];
  for (let trial = 0; trial < TRIALS; trial++) {
    const stretch = (times: readonly number[]) => {
      const factor = 0.5 + random.unit();
      return times.map((time) => time * factor);
    };
    const other = {
      ...chain,
      uf: stretch(chain.uf),
      ub: stretch(chain.ub),
      variants: chain.variants.map((list) => list.map((one) => ({ ...one, ub: one.ub * (0.9 + 0.2 * random.unit()) }))),
    };
    // Alternately a fine table and one of hardly any slots.
    const entries = trial % 2 === 0 ? undefined : 1500;
    const next = planStep(other, limit, Infinity, { entries, current });
    expect(next.chain).toBe(other);
    expect(next.placement.extent).toBeLessThanOrEqual(activationLimit(chain, limit, Infinity));
    const stays = plannedTime({ chain: other, schedule: current.schedule });
    const anew = plannedTime(planStep(other, limit, Infinity, { entries }));
    expect(plannedTime(next)).toBe(Math.min(stays, anew));
    if (anew > stays) kept++;
    else if (anew < stays) replaced++;
  }
  expect(kept).toBeGreaterThan(SLOW ? 2 : 0);
  expect(replaced).toBeGreaterThan(SLOW ? 5 : 1);
});

test("times that were far off: the engine plans anew after four micro-batches; gradients stay, and so does the predicted peak of what ran", async () => {
  const config = llama(9);
  const batch = packedBatch(TOKENS, config.vocabSize);
  const probe = createCosts("here");
  const strategy = { name: "optimal", limit: { share: 0.4 } } as const;
  const first = await build(config, { method: "full" }, strategy, TOKENS, 1, { measure: { costs: probe, batch } });
  const reference = gradients(first, TOKENS);
  // Backward passes, with what they compute again, seem to be nearly free.
  const wrong = createCosts("here");
  for (const graph of first.plan.programs.graphs()) {
    const seconds = probe.secondsOf(graph);
    const isBackward = graph.inputs.some(({ role }) => role === "output-grad");
    if (seconds !== undefined) wrong.set(graph, isBackward ? seconds / 1000 : seconds);
  }
  const engine = await build(config, { method: "full" }, strategy, TOKENS, 1, { measure: { costs: wrong, batch } });
  const before = engine.predicted.peak;
  for (let round = 0; round < 3; round++) expect(gradients(engine, TOKENS)).toEqual(reference);
  expect(engine.replans).toBeGreaterThan(0);
  expect(engine.predicted.peak).toBe(engine.measuredPeak);
  expect(engine.predicted.peak).toBeGreaterThanOrEqual(before);
  const { measured, predicted } = engine.computed;
  expect(measured).toBeGreaterThan(0);
  expect(predicted).toBeGreaterThan(0);
});

test("the predicted peak is that of the plans that ran: here of shorter micro-batches alone", async () => {
  const config = llama(3);
  const engine = await build(config, { method: "full" }, { name: "off" }, TOKENS, 1, { tokens: [TOKENS, TOKENS / 2] });
  const largest = engine.predicted.peak;
  gradients(engine, TOKENS / 2);
  expect(engine.predicted.peak).toBe(engine.measuredPeak);
  expect(engine.predicted.peak).toBeLessThan(largest);
  gradients(engine, TOKENS);
  expect(engine.predicted.peak).toBe(largest);
  expect(engine.measuredPeak).toBe(largest);
});

test("without times nothing is predicted, and neither with replay checks", async () => {
  const config = llama(3);
  const batch = packedBatch(TOKENS, config.vocabSize);
  const plain = await build(config, { method: "full" }, { name: "per-segment" }, TOKENS, 1);
  gradients(plain, TOKENS);
  expect(plain.computed.predicted).toBeNull();
  expect(plain.computed.measured).toBeGreaterThan(0);
  const strategy = { name: "optimal", limit: { share: 0.5 } } as const;
  const checked = await build(config, { method: "full" }, strategy, TOKENS, 1, {
    measure: { costs: createCosts("here"), batch },
    verifyReplay: true,
  });
  gradients(checked, TOKENS);
  expect(checked.computed.predicted).toBeNull();
});

test("medians of the last steps, the first of all left out", () => {
  const times = createStepTimes(3);
  expect(times.medians()).toBeNull();
  times.add({ measured: 9, predicted: 8 });
  expect(times.medians()).toEqual({ measured: 9, predicted: 8 });
  for (const seconds of [1, 3]) times.add({ measured: seconds, predicted: 2 * seconds });
  expect(times.medians()).toEqual({ measured: 2, predicted: 4 });
  for (const seconds of [5, 6, 7]) times.add({ measured: seconds, predicted: null });
  expect(times.medians()).toEqual({ measured: 6, predicted: null });
});
