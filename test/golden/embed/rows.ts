import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { contrastBatches, drawn, EMBED_FOLDER, EMBED_RUNS, textsOf } from "../../support/embed.ts";

/** Writes embed.json without its results: micro-batches and settings, for make.py. */
const batches = drawn(contrastBatches()).map(textsOf);
const runs = EMBED_RUNS.map((settings) => ({ settings }));
writeFileSync(join(EMBED_FOLDER, "embed.json"), `${JSON.stringify({ batches, runs })}\n`);
