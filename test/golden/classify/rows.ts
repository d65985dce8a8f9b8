import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  askedBatches,
  CLASSIFY_FOLDER,
  CLASSIFY_RUNS,
  drawn,
  ENCODER_RUNS,
  labelledBatches,
  OPTION_RUNS,
  OPTIONS,
  textsOf,
} from "../../support/classify.ts";
import { LABEL_KINDS } from "../../../src/hf/config/classifier.ts";

/** Writes classify.json and encoders.json without their results: micro-batches and settings, for make.py; and options.json, for options.py. */
for (const [file, settingsOf, encoder] of [
  ["classify.json", CLASSIFY_RUNS, false],
  ["encoders.json", ENCODER_RUNS, true],
] as const) {
  const batches = Object.fromEntries(LABEL_KINDS.map((kind) => [kind, drawn(labelledBatches(kind, false, encoder)).map(textsOf)]));
  const runs = settingsOf.map((settings) => ({ settings, name: `${settings.model}-${settings.kind}` }));
  writeFileSync(join(CLASSIFY_FOLDER, file), `${JSON.stringify({ batches, runs })}\n`);
}

const runs = OPTION_RUNS.map((settings) => ({ settings, name: `${settings.model}-options` }));
const batches = drawn(askedBatches()).map(textsOf);
writeFileSync(join(CLASSIFY_FOLDER, "options.json"), `${JSON.stringify({ options: OPTIONS, batches, runs })}\n`);
