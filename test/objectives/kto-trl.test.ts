import { expect, setDefaultTimeout, test } from "bun:test";
import {
  answersOf,
  drawn,
  KTO_RUNS,
  readUnpairedBatches,
  readTrlRuns,
  unpairedBatches,
  unpairedSamples,
} from "../support/preferences.ts";
import { describeTrl } from "../support/trl.ts";

setDefaultTimeout(120_000);

test("the fixture is of these settings (test/golden/kto makes it anew)", () => {
  expect(readTrlRuns("kto").map(({ settings }) => settings)).toEqual([...KTO_RUNS]);
  expect(drawn(unpairedBatches()).map(answersOf)).toEqual(readUnpairedBatches());
});

describeTrl("KTOTrainer", { objective: "kto" }, { batches: unpairedBatches(), examples: unpairedSamples().count });
