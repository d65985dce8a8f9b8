import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawn, folderOf, ORPO_RUNS, pairsOf, preferenceBatches } from "../../support/preferences.ts";

/** Writes orpo.json without its results: micro-batches and settings, for make.py. */
const batches = drawn(preferenceBatches()).map(pairsOf);
writeFileSync(join(folderOf("orpo"), "orpo.json"), `${JSON.stringify({ batches, runs: ORPO_RUNS.map((settings) => ({ settings })) })}\n`);
