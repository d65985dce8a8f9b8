/**
 * Whether text encoders that `remat export onnx` writes give the same numbers in onnxruntime-web and in transformers.js. With Node, in a folder that has
 * onnxruntime-web and @huggingface/transformers installed (150 MB, so they are no dependencies):
 *
 *     bun REPOSITORY/bench/peers/onnx-web/make.ts FOLDER
 *     node REPOSITORY/bench/peers/onnx-web/check.mjs FOLDER
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const BOUND = 1e-4;
const require = createRequire(join(process.cwd(), "package.json"));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const { AutoModelForSequenceClassification, AutoTokenizer, env, pipeline } = await load("@huggingface/transformers");
const ort = await load("onnxruntime-web");
const folder = process.argv[2];
const { texts, embedders, ranker } = JSON.parse(readFileSync(join(folder, "expected.json"), "utf8"));
env.allowRemoteModels = false;
env.localModelPath = join(folder, "out");
ort.env.wasm.numThreads = 1;

let worst = 0;
function compare(what, found, expected) {
  const off = Math.max(...expected.map((value, i) => Math.abs(found[i] - value)));
  worst = Math.max(worst, Number.isNaN(off) ? Infinity : off);
  console.log(`${what}: off by ${off.toExponential(1)} at most`);
}

for (const { name, embeddings } of embedders) {
  const expected = embeddings.flat();
  const extract = await pipeline("feature-extraction", name, { dtype: "fp32" });
  const { data } = await extract(texts, { pooling: "mean", normalize: true });
  compare(`transformers.js, ${name}`, data, expected);

  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const encoded = tokenizer(texts, { padding: true });
  const session = await ort.InferenceSession.create(readFileSync(join(folder, "out", name, "onnx/model.onnx")), {
    executionProviders: ["wasm"],
  });
  const inputs = session.inputNames.map((input) => {
    const { data: values, dims } = encoded[input] ?? {
      data: new BigInt64Array(encoded.input_ids.data.length),
      dims: encoded.input_ids.dims,
    };
    return [input, new ort.Tensor("int64", values, dims)];
  });
  const { sentence_embedding: embedding } = await session.run(Object.fromEntries(inputs));
  const width = embedding.dims[1];
  const units = texts.flatMap((_, i) => {
    const own = [...embedding.data.subarray(i * width, (i + 1) * width)];
    const length = Math.hypot(...own);
    return own.map((value) => value / length);
  });
  compare(`onnxruntime-web, ${name}`, units, expected);
}

const tokenizer = await AutoTokenizer.from_pretrained("ranker");
const model = await AutoModelForSequenceClassification.from_pretrained("ranker", { dtype: "fp32" });
const queries = ranker.texts.map(() => ranker.query);
const { logits } = await model(tokenizer(queries, { text_pair: [...ranker.texts], padding: true }));
compare("transformers.js, ranker", logits.data, ranker.scores);
if (worst > BOUND) {
  console.error(`more than ${BOUND}`);
  process.exit(1);
}
