import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawn, KTO_RUNS, pairsOf, unpairedBatches } from "../../support/preferences.ts";

/** Writes the settings of the runs and their micro-batches, which make.py adds to. */
const batches = drawn(unpairedBatches()).map((batch) =>
  pairsOf(batch).map(({ chosen: text, rejected: mismatched }, i) => ({ text, mismatched, label: batch.targets![i] === 1 })),
);
const runs = KTO_RUNS.map((settings) => ({ settings }));
writeFileSync(join(import.meta.dir, "kto.json"), `${JSON.stringify({ batches, runs })}\n`);
