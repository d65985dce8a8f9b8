import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { drawn, RERANK_FOLDER, RERANK_RUNS, rankedBatches, rowsOf } from "../../support/rerank.ts";

/** Writes rerank.json without its results: micro-batches and settings, for make.py. */
const batches = Object.fromEntries(
  (["bce", "softmax", "listnet"] as const).map((loss) => [loss, drawn(rankedBatches(loss, true)).map(rowsOf)]),
);
const runs = RERANK_RUNS.map((settings) => ({ settings }));
writeFileSync(join(RERANK_FOLDER, "rerank.json"), `${JSON.stringify({ batches, runs })}\n`);
