import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { EMBEDDED_TEXTS, makeEmbedFolders } from "../../support/embed-folders.ts";

/** Makes the folders that encode.py loads, in the folder that is named. */
const folder = process.argv[2]!;
await makeEmbedFolders(folder);
writeFileSync(join(folder, "texts.json"), JSON.stringify(EMBEDDED_TEXTS));
