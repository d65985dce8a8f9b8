import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../../src/base/random.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import { mergeAdapter } from "../../../src/hf/peft/merge.ts";
import { openModelWeights } from "../../../src/gguf/read/open-weights.ts";
import { exportGguf } from "../../../src/library/export-gguf.ts";
import { NO_TUNING } from "../../../src/models/tuning.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { writeRandomAdapter } from "../../support/adapters.ts";
import { fullForward } from "../../support/full-forward.ts";
import { GGUF_DECODERS, writeGgufDecoder } from "../../support/gguf-decoders.ts";

/** Makes the files that decoder.mjs loads, in the folder that is named: those of the models that are named behind it, or of all. */
const [folder, ...names] = process.argv.slice(2) as [string, ...string[]];
const TEXT = 40;
const MORE = 12;

/** Modules that have adapters, where llama.cpp does not take those of all that have them by default. */
const TARGETS: Readonly<Record<string, { readonly targets: readonly string[] }>> = {
  "gemma4-keys": { targets: ["q_proj", "o_proj", "up_proj"] },
  gemma4: { targets: ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "per_layer_input_gate", "per_layer_projection"] },
};

interface Case {
  readonly ids: readonly number[];
  readonly greedy: readonly number[];
  readonly logProbabilities: readonly number[];
  /** The same of the model with an adapter. */
  readonly adapted: readonly number[];
}

const logProbabilities = (logits: Float32Array): number[] => {
  const values = Float64Array.from(logits);
  const greatest = values.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const total = greatest + Math.log(values.reduce((sum, logit) => sum + Math.exp(logit - greatest), 0));
  return [...values].map((logit) => logit - total);
};

/** Runs `use` with a function that gives the logits of a text's next token. */
async function withModel<T>(model: string, use: (logits: (ids: readonly number[]) => Float32Array) => T): Promise<T> {
  const config = loadConfig(model);
  const source = openModelWeights(model, config);
  const executor = await createWasmExecutor({ threads: 1 });
  try {
    return use(fullForward(executor, config, source, NO_TUNING, TEXT + MORE).logits);
  } finally {
    executor.close();
    source.close();
  }
}

const cases: Record<string, Case> = {};
for (const name of names.length > 0 ? names : Object.keys(GGUF_DECODERS)) {
  const model = writeGgufDecoder(join(folder, name), name);
  await exportGguf({ model, out: join(folder, `${name}.gguf`), type: "f32", overwrite: true });
  const [adapter, merged] = [join(folder, `${name}-adapter`), join(folder, `${name}-merged`)];
  for (const path of [adapter, merged]) rmSync(path, { recursive: true, force: true });
  const executor = await createWasmExecutor({ threads: 1 });
  writeRandomAdapter(executor, model, adapter, { rank: 3, ...TARGETS[name] }, 2);
  executor.close();
  mergeAdapter({ base: model, adapter, output: merged });
  await exportGguf({ model, adapter, adapterOnly: true, out: join(folder, `${name}-adapter.gguf`), type: "f32", overwrite: true });
  const random = createRandom(5, name);
  const ids = Array.from({ length: TEXT }, () => 3 + Math.floor(random.uniform() * 430));
  const plain = await withModel(model, (logits) => {
    const text = [...ids];
    while (text.length < TEXT + MORE) {
      const next = logits(text);
      text.push(next.indexOf(next.reduce((most, logit) => Math.max(most, logit), -Infinity)));
    }
    return { greedy: text.slice(TEXT), logProbabilities: logProbabilities(logits(ids)) };
  });
  cases[name] = { ids, ...plain, adapted: await withModel(merged, (logits) => logProbabilities(logits(ids))) };
}
writeFileSync(join(folder, "cases.json"), JSON.stringify(cases));
