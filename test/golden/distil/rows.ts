import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DISTIL_FOLDER, DISTIL_RUNS, distilBatches, drawn, rowsOf } from "../../support/distil.ts";

/** Writes distil.json without its results: micro-batches with what their teacher says, and settings, for make.py. */
const batches = drawn(distilBatches()).map(rowsOf);
const runs = DISTIL_RUNS.map((settings) => ({ settings }));
writeFileSync(join(DISTIL_FOLDER, "distil.json"), `${JSON.stringify({ batches, runs })}\n`);
