import { expect, setDefaultTimeout, test } from "bun:test";
import { drawn, ORPO_RUNS, pairsOf, preferenceBatches, readTrlBatches, readTrlRuns } from "../support/preferences.ts";
import { describeTrl } from "../support/trl.ts";

setDefaultTimeout(120_000);

test("the fixture is of these micro-batches and settings (test/golden/orpo makes it anew)", () => {
  expect(drawn(preferenceBatches()).map(pairsOf)).toEqual(readTrlBatches());
  expect(readTrlRuns("orpo").map(({ settings }) => settings)).toEqual([...ORPO_RUNS]);
});

describeTrl("ORPOTrainer", { objective: "orpo", orpoNll: "all" });
