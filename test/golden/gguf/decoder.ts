import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../../src/base/random.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import { openModelWeights } from "../../../src/hf/weights/model-weights.ts";
import { exportGguf } from "../../../src/library/export-gguf.ts";
import { NO_TUNING } from "../../../src/models/tuning.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { fullForward } from "../../support/full-forward.ts";
import { GGUF_DECODERS, writeGgufDecoder } from "../../support/gguf-decoders.ts";

/** Makes the files that decoder.mjs loads, in the folder that is named: those of the models that are named behind it, or of all. */
const [folder, ...names] = process.argv.slice(2) as [string, ...string[]];
const TEXT = 40;
const MORE = 12;

const cases: Record<string, { ids: number[]; greedy: number[]; logProbabilities: number[] }> = {};
for (const name of names.length > 0 ? names : Object.keys(GGUF_DECODERS)) {
  const model = writeGgufDecoder(join(folder, name), name);
  await exportGguf({ model, out: join(folder, `${name}.gguf`), type: "f32", overwrite: true });
  const config = loadConfig(model);
  const source = openModelWeights(model, config);
  const executor = await createWasmExecutor({ threads: 1 });
  const { logits } = fullForward(executor, config, source, NO_TUNING, TEXT + MORE);
  const random = createRandom(5, name);
  const ids = Array.from({ length: TEXT }, () => 3 + Math.floor(random.uniform() * 430));
  const first = Float64Array.from(logits(ids));
  const greatest = first.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const total = greatest + Math.log(first.reduce((sum, logit) => sum + Math.exp(logit - greatest), 0));
  const text = [...ids];
  while (text.length < TEXT + MORE) {
    const next = logits(text);
    text.push(next.indexOf(next.reduce((most, logit) => Math.max(most, logit), -Infinity)));
  }
  cases[name] = { ids, greedy: text.slice(TEXT), logProbabilities: [...first].map((logit) => logit - total) };
  executor.close();
  source.close();
}
writeFileSync(join(folder, "cases.json"), JSON.stringify(cases));
