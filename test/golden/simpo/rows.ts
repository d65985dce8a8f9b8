import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { folderOf, SIMPO_RUNS } from "../../support/preferences.ts";

/** Writes simpo.json without its results: settings, for make.py. Its micro-batches are those of orpo.json. */
writeFileSync(
  join(folderOf("simpo"), "simpo.json"),
  `${JSON.stringify({ runs: SIMPO_RUNS.map((settings) => ({ settings })) })}\n`,
);
