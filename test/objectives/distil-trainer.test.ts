import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import {
  DISTIL_FOLDER,
  DISTIL_RUNS,
  distilBatches,
  type DistilRun,
  drawn,
  readDistilFixture,
  rowsOf,
  TOP,
} from "../support/distil.ts";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, expectScheduleFree, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readDistilFixture();

test("the fixture is of these micro-batches and settings (test/golden/distil makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...DISTIL_RUNS]);
  expect(JSON.parse(JSON.stringify(drawn(distilBatches()).map(rowsOf)))).toEqual(fixture.batches);
});

const judged = (run: DistilRun, packing = false): JudgedRun => {
  const { distilTemperature, distilShare } = run;
  const objective = { objective: "distil", teacher: "-", teacherTop: TOP, distilTemperature, distilShare };
  return { run, objective, batches: distilBatches(packing), padId: 0, start: {} };
};

describe("a whole run with --objective distil is what PyTorch makes of the loss as it is written", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.settings.model, run.settings.distilTemperature, run] as const))(
      "on %s: %s at temperature %d: losses, gradient norms and the last weights within 1e-4",
      async (_, model, _temperature, { settings, expected }) => {
        const ends = readTensors(join(DISTIL_FOLDER, `${model}.safetensors`));
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
  "a whole run is the same to the bit for every schedule and for 1 and 2 threads, with examples packed into rows",
  async () => {
    await expectScheduleFree(judged(DISTIL_RUNS[1]!, true));
  },
);
