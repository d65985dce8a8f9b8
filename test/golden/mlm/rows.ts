import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawn, maskedBatches, MLM_FOLDER, MLM_RUNS, rowsOf } from "../../support/mlm.ts";

/** Writes mlm.json without its results: micro-batches with their masks, and settings, for make.py. */
const batches = drawn(maskedBatches()).map(rowsOf);
const runs = MLM_RUNS.map((settings) => ({ settings }));
writeFileSync(join(MLM_FOLDER, "mlm.json"), `${JSON.stringify({ batches, runs })}\n`);
