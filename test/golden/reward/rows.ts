import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { folderOf, REWARD_ENCODER_RUNS, REWARD_RUNS } from "../../support/preferences.ts";

/** Writes reward.json and encoders.json without their results: settings, for make.py. Their micro-batches are those of orpo.json. */
for (const [file, runs] of [
  ["reward.json", REWARD_RUNS],
  ["encoders.json", REWARD_ENCODER_RUNS],
] as const)
  writeFileSync(join(folderOf("reward"), file), `${JSON.stringify({ runs: runs.map((settings) => ({ settings })) })}\n`);
