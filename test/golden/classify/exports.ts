import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { JUDGED_TEXTS, makeJudgedExports } from "../../support/judged-exports.ts";

/** Makes the folders that exports.py loads, in the folder that is named. */
const folder = process.argv[2]!;
await makeJudgedExports(folder);
writeFileSync(join(folder, "texts.json"), JSON.stringify(JUDGED_TEXTS));
