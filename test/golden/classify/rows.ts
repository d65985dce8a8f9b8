import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { CLASSIFY_FOLDER, CLASSIFY_RUNS, drawn, labelledBatches, textsOf } from "../../support/classify.ts";
import { LABEL_KINDS } from "../../../src/hf/config/classifier.ts";

/** Writes classify.json without its results: micro-batches and settings, for make.py. */
const batches = Object.fromEntries(LABEL_KINDS.map((kind) => [kind, drawn(labelledBatches(kind)).map(textsOf)]));
const runs = CLASSIFY_RUNS.map((settings) => ({ settings, name: `${settings.model}-${settings.kind}` }));
writeFileSync(join(CLASSIFY_FOLDER, "classify.json"), `${JSON.stringify({ batches, runs })}\n`);
