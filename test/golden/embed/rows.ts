import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { contrastBatches, drawn, EMBED_FOLDER, EMBED_RUNS, LOSS_RUNS, pairsOf, textsOf } from "../../support/embed.ts";

/** Writes embed.json and losses.json without their results: micro-batches and settings, for make.py and losses.py. */
const write = (name: string, fixture: object) => writeFileSync(join(EMBED_FOLDER, name), `${JSON.stringify(fixture)}\n`);
const runs = EMBED_RUNS.map((settings) => ({ settings }));
write("embed.json", { batches: drawn(contrastBatches()).map(textsOf), runs });
const pairs = drawn(contrastBatches(false, true)).map(pairsOf);
write("losses.json", { pairs, runs: LOSS_RUNS.map(([name, settings]) => ({ name, settings })) });
