import { writeFileSync } from "node:fs";
import { drawn, rowsOf, RUNS, TRAINER_FILE, trainerBatches } from "../../support/trainer.ts";

/** Writes trainer.json without its results: micro-batches and settings, for make.py. */
writeFileSync(TRAINER_FILE, `${JSON.stringify({ batches: drawn(trainerBatches()).map(rowsOf), runs: RUNS.map((settings) => ({ settings })) })}\n`);
