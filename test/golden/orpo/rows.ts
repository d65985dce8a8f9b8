import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawn, orpoBatches, ORPO_FOLDER, pairsOf, RUNS } from "../../support/orpo.ts";

/** Writes orpo.json without its results: micro-batches and settings, for make.py. */
const batches = drawn(orpoBatches()).map(pairsOf);
writeFileSync(join(ORPO_FOLDER, "orpo.json"), `${JSON.stringify({ batches, runs: RUNS.map((settings) => ({ settings })) })}\n`);
