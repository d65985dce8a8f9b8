import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { folderOf, REWARD_RUNS } from "../../support/preferences.ts";

/** Writes reward.json without its results: settings, for make.py. Its micro-batches are those of orpo.json. */
writeFileSync(
  join(folderOf("reward"), "reward.json"),
  `${JSON.stringify({ runs: REWARD_RUNS.map((settings) => ({ settings })) })}\n`,
);
