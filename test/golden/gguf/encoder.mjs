/**
 * Writes encoder.json: the tokens and embeddings that llama.cpp makes of text encoders' GGUF files, and the numbers of heads that judge texts. With Node, in a folder that has
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
const { texts, encoders, judges } = JSON.parse(readFileSync(join(folder, "texts.json"), "utf8"));
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
const others = {};
for (const name of encoders) {
  const model = await llama.loadModel({ modelPath: join(folder, `${name}.gguf`) });
  const context = await model.createEmbeddingContext();
  others[name] = { tokens: texts.map((text) => model.tokenize(text)), embeddings: [] };
  // The package puts no token in front of a Unigram's texts, though llama.cpp's own tokenizer does as the file says.
  const { bos, eos } = model.tokens;
  for (const text of texts) {
    const ids = [bos, ...model.tokenize(text), eos];
    others[name].embeddings.push([...(await context.getEmbeddingFor(ids)).vector]);
  }
}
/** The most numbers of a head. */
const MOST = 3;
for (const name of judges) {
  const model = await llama.loadModel({ modelPath: join(folder, `${name}.gguf`) });
  const context = await model.createRankingContext();
  const { bos, eos } = model.tokens;
  others[name] = { texts: [], pairs: [] };
  // One text has no place in the package's own way of asking, and its numbers become one there.
  const numbersOf = async (ids) => {
    await context._evaluateRankingForInput(ids);
    return [...context._llamaContext._ctx.getEmbedding(ids.length, MOST)];
  };
  for (const text of texts) {
    const ids = model.tokenize(text);
    others[name].texts.push(await numbersOf([bos, ...ids, eos]));
    others[name].pairs.push(await context.rank(texts[0], text));
  }
}
const versions = { "node-llama-cpp": JSON.parse(readFileSync(join(process.cwd(), "node_modules/node-llama-cpp/package.json"), "utf8")).version };
const here = dirname(fileURLToPath(import.meta.url));
writeFileSync(join(here, "encoder.json"), `${JSON.stringify({ texts, tokens, embeddings: found, others, versions })}\n`);
process.exit(0);
