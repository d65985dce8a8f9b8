/**
 * Writes encoder.json: the tokens and embeddings that llama.cpp makes of a text encoder's GGUF files. With Node, in a folder that has
 * node-llama-cpp 3.22.1 installed:
 *
 *     bun REPOSITORY/test/golden/gguf/encoder.ts FILES
 *     node REPOSITORY/test/golden/gguf/encoder.mjs FILES
 */
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const folder = process.argv[2];
const texts = JSON.parse(readFileSync(join(folder, "texts.json"), "utf8"));
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error" });
const found = {};
let tokens = [];
for (const type of ["f32", "q8_0"]) {
  const model = await llama.loadModel({ modelPath: join(folder, `${type}.gguf`) });
  const context = await model.createEmbeddingContext();
  tokens = texts.map((text) => model.tokenize(text));
  found[type] = [];
  for (const text of texts) found[type].push([...(await context.getEmbeddingFor(text)).vector]);
}
const versions = { "node-llama-cpp": JSON.parse(readFileSync(join(process.cwd(), "node_modules/node-llama-cpp/package.json"), "utf8")).version };
const here = dirname(fileURLToPath(import.meta.url));
writeFileSync(join(here, "encoder.json"), `${JSON.stringify({ texts, tokens, embeddings: found, versions })}\n`);
process.exit(0);
