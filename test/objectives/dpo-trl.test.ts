import { expect, setDefaultTimeout, test } from "bun:test";
import { DPO_RUNS, readTrlRuns } from "../support/preferences.ts";
import { describeTrl } from "../support/trl.ts";

setDefaultTimeout(120_000);

test("the fixture is of these settings (test/golden/dpo makes it anew); its micro-batches are orpo's", () => {
  expect(readTrlRuns("dpo").map(({ settings }) => settings)).toEqual([...DPO_RUNS]);
});

describeTrl("DPOTrainer", { objective: "dpo" });
