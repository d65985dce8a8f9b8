/**
 * Writes decoder.json: how far the log-probabilities of llama.cpp are from those here, for small random models by family, alone and with an adapter beside
 * them, and whether it goes on with the same tokens. With Node, in a folder that has node-llama-cpp 3.22.1 installed:
 *
 *     bun REPOSITORY/test/golden/gguf/decoder.ts FILES [NAMES]
 *     node REPOSITORY/test/golden/gguf/decoder.mjs FILES
 *
 * With names nothing is written, only printed.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const [folder, ...names] = process.argv.slice(2);
const cases = JSON.parse(readFileSync(join(folder, "cases.json"), "utf8"));
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error" });
const found = {};
for (const [name, { ids, greedy, logProbabilities, adapted }] of Object.entries(cases)) {
  if (names.length > 0 && !names.includes(name)) continue;
  const model = await llama.loadModel({ modelPath: join(folder, `${name}.gguf`) });
  const open = async (more) => {
    const context = await model.createContext({
      contextSize: 128,
      flashAttention: false,
      experimentalKvCacheKeyType: "F32",
      experimentalKvCacheValueType: "F32",
      threads: 1,
      ...more,
    });
    const sequence = context.getSequence();
    const next = { generateNext: { probabilities: true } };
    const evaluate = async (tokens) =>
      (await sequence.controlledEvaluate([...tokens.slice(0, -1), [tokens.at(-1), next]])).at(-1).next.probabilities;
    return { context, evaluate };
  };
  const differenceOf = (probabilities, expected) =>
    Number(Math.max(...[...probabilities].map(([token, probability]) => Math.abs(Math.log(probability) - expected[token]))).toExponential(1));
  const { context, evaluate } = await open({});
  let probabilities = await evaluate(ids);
  const difference = differenceOf(probabilities, logProbabilities);
  const own = [];
  while (own.length < greedy.length) {
    const [best] = [...probabilities].reduce((a, b) => (b[1] > a[1] ? b : a));
    own.push(best);
    probabilities = await evaluate([best]);
  }
  await context.dispose();
  const other = await open({ lora: join(folder, `${name}-adapter.gguf`) });
  const withAdapter = differenceOf(await other.evaluate(ids), adapted);
  found[name] = { difference, sameTokens: JSON.stringify(own) === JSON.stringify(greedy), withAdapter };
  console.log(name, found[name]);
  await other.context.dispose();
  await model.dispose();
}
const versions = { "node-llama-cpp": JSON.parse(readFileSync(join(process.cwd(), "node_modules/node-llama-cpp/package.json"), "utf8")).version };
const lines = Object.entries(found).map(([name, figures]) => `  ${JSON.stringify(name)}: ${JSON.stringify(figures)}`);
const here = dirname(fileURLToPath(import.meta.url));
if (names.length === 0) writeFileSync(join(here, "decoder.json"), `{\n "versions": ${JSON.stringify(versions)},\n "models": {\n${lines.join(",\n")}\n }\n}\n`);
process.exit(0);
