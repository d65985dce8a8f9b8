import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { answersOf, drawn, KTO_RUNS, unpairedBatches } from "../../support/preferences.ts";

/** Writes the settings of the runs and their micro-batches, which make.py adds to. */
const batches = drawn(unpairedBatches()).map(answersOf);
const runs = KTO_RUNS.map((settings) => ({ settings }));
writeFileSync(join(import.meta.dir, "kto.json"), `${JSON.stringify({ batches, runs })}\n`);
