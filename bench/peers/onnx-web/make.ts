import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../../../src/base/files/files.ts";
import { exportOnnx } from "../../../src/library/export-onnx.ts";
import { embed } from "../../../src/library/texts/embed.ts";
import { rerank } from "../../../src/library/texts/rerank.ts";
import { makeEmbedFolders } from "../../../test/support/embed-folders.ts";
import { makeRerankFolders, RERANK_QUERY, RERANK_TEXTS } from "../../../test/support/rerank-folders.ts";

/** Exports text encoders into the folder that is named, with what they make of some texts here, for check.mjs. */
const folder = process.argv[2]!;
const [models, out] = [join(folder, "models"), join(folder, "out")];
for (const path of [join(models, "embed"), join(models, "rerank"), out]) makeFolder(path);
await makeEmbedFolders(join(models, "embed"));
await makeRerankFolders(join(models, "rerank"));
const texts = ["The king near the house", "bread", "the water and the stone and the night"];
const embedders = [];
for (const name of ["bert", "roberta", "modern"]) {
  const model = join(models, "embed", name);
  await exportOnnx({ model, out: join(out, name) });
  // transformers.js wants to be told what a tokenizer is, which these folders do not say.
  const path = join(out, name, "tokenizer_config.json");
  writeFileSync(path, JSON.stringify({ tokenizer_class: "PreTrainedTokenizer", ...JSON.parse(readFileSync(path, "utf8")) }));
  const { texts: found } = await embed({ model, texts, threads: 1, normalize: true });
  embedders.push({ name, embeddings: found.map(({ embedding }) => [...embedding]) });
}
await exportOnnx({ model: join(models, "rerank/full"), out: join(out, "ranker") });
const { queries } = await rerank({
  model: join(models, "rerank/full"),
  query: RERANK_QUERY,
  texts: [...RERANK_TEXTS],
  threads: 1,
});
const scores = queries[0]!.results.toSorted((a, b) => a.index - b.index).map(({ score }) => score);
const expected = { texts, embedders, ranker: { query: RERANK_QUERY, texts: RERANK_TEXTS, scores } };
writeFileSync(join(folder, "expected.json"), JSON.stringify(expected));
