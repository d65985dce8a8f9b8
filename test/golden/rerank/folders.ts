import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeRerankFolders, RERANK_QUERY, RERANK_TEXTS } from "../../support/rerank-folders.ts";

/** Makes the folders that folders.py loads, in the folder that is named. */
const folder = process.argv[2]!;
await makeRerankFolders(folder);
writeFileSync(join(folder, "texts.json"), JSON.stringify({ query: RERANK_QUERY, texts: RERANK_TEXTS }));
