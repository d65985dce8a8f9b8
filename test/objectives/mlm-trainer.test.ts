import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, expectScheduleFree, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { drawn, maskedBatches, MASKING, MLM_FOLDER, MLM_RUNS, readMlmFixture, rowsOf } from "../support/mlm.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import type { TrainerRun } from "../support/trainer.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readMlmFixture();

test("the fixture is of these micro-batches and settings (test/golden/mlm makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...MLM_RUNS]);
  expect(drawn(maskedBatches()).map(rowsOf)).toEqual(fixture.batches.map((batch) => [...batch]));
  expect(fixture.batches.flat().some(({ ids }) => ids.includes(MASKING.maskId))).toBe(true);
});

const judged = (run: TrainerRun, packing = false): JudgedRun => {
  return { run, objective: { objective: "mlm" }, batches: maskedBatches(packing), padId: 0, start: {} };
};

describe("a whole run with --objective mlm is what Transformers' Trainer makes of a ...ForMaskedLM", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.settings.model, run] as const))(
      "on %s: %s: losses, gradient norms and the last weights within 1e-4",
      async (_, model, { settings, expected }) => {
        const ends = readTensors(join(MLM_FOLDER, `${model}.safetensors`));
        const { steps, weights } = await trainedJudge(judged(settings), await EXECUTORS[on]!(), { name: "per-segment" });
        expectSteps(steps, expected.steps);
        expect(ends.size).toBeGreaterThan(8);
        // Adam makes steps of the rounding that a gradient of 0 is.
        for (const [name, values] of ends) if (!isZero(name)) expectWithin(name, relativeError(weights.get(name)!, values), 1e-4);
      },
    );
  }
});

slowTest(
  "a whole run is the same to the bit for every schedule and for 1 and 2 threads, with texts packed into rows",
  async () => {
    await expectScheduleFree(judged(MLM_RUNS[0]!, true));
  },
);
