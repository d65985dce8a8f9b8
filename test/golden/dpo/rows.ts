import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DPO_RUNS } from "../../support/preferences.ts";

/** Writes the settings of the runs, which make.py adds to. Their micro-batches are those of orpo.json. */
writeFileSync(join(import.meta.dir, "dpo.json"), `${JSON.stringify({ runs: DPO_RUNS.map((settings) => ({ settings })) })}\n`);
