import { expect, setDefaultTimeout, test } from "bun:test";
import { readTrlRuns, SIMPO_RUNS } from "../support/preferences.ts";
import { describeTrl } from "../support/trl.ts";

setDefaultTimeout(120_000);

test("the fixture is of these settings (test/golden/simpo makes it anew); its micro-batches are orpo's", () => {
  expect(readTrlRuns("simpo").map(({ settings }) => settings)).toEqual([...SIMPO_RUNS]);
});

describeTrl("CPOTrainer", { objective: "simpo" });
