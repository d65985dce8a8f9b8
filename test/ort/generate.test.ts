import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { nextToken } from "../../src/objectives/next-token.ts";
import { createBatches } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { createDecoder } from "../../src/generate/open-decoder.ts";
import { argmax } from "../../src/generate/sampler.ts";
import { openScorer } from "../../src/generate/score.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openAdapter } from "../../src/hf/peft/peft.ts";
import { createRandom } from "../../src/base/random.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { adapterFolder, FAMILIES, type GoldenFamily, isFewer, modelFolder } from "../support/golden.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { boundFor, openOrt } from "../support/provider.ts";

setDefaultTimeout(120_000);

const wasm = await createWasmExecutor({ threads: 1 });
const ort = openOrt(1);
afterAll(() => {
  wasm.close();
  ort.close();
});

function open(family: GoldenFamily) {
  const config = loadConfig(modelFolder(family));
  return { config, source: openModelWeights(modelFolder(family), config), adapter: openAdapter(adapterFolder(family), config) };
}

function randomIds(seed: number, count: number, vocab: number): Int32Array {
  const random = createRandom(seed);
  return Int32Array.from({ length: count }, () => random.below(vocab));
}

describe.each(FAMILIES.filter((family) => !isFewer(family)))("%s with its adapter on ONNX Runtime", (family) => {
  test("greedy decoding with a cache: the tokens of the wasm executor, logits within 1e-5", () => {
    const model = open(family);
    const [expected, actual] = [wasm, ort].map((executor) => createDecoder(executor, { ...model, maxTokens: 48 }));
    for (const count of [1, 20]) {
      let ids = [...randomIds(count, count, model.config.vocabSize)];
      for (let i = 0; i < 16; i++) {
        const [right, logits] = [expected!.feed(ids), actual!.feed(ids)];
        expectWithin(`logits ${i}`, relativeError(logits, right), boundFor(1e-5));
        expect(argmax(logits)).toBe(argmax(right));
        ids = [...ids, argmax(logits)];
      }
    }
  });
});

test("a score: loss within 1e-5, the same number of right tokens", async () => {
  const model = open("qwen3");
  const store = createSampleStore((number) => `d:${number}`);
  for (let i = 0; i < 6; i++) {
    const ids = randomIds(i, 5 + i, model.config.vocabSize);
    store.add({ ids, labels: ids, weights: null }, i + 1);
  }
  const batch = createBatches(store.finish(), { rows: 1, rowLength: 24, packing: true, seed: 0, padId: 0, shuffle: false }).batch(
    0,
    0,
  );
  const options = { ...model, head: nextToken.create({}), tokens: batch.ids.length, weighted: false };
  const scorers = await Promise.all([wasm, ort].map((executor) => openScorer(executor, options)));
  const [expected, actual] = scorers.map((scorer) => scorer.score(batch));
  expectWithin("loss", Math.abs(Number(actual!.loss) / Number(expected!.loss) - 1), boundFor(1e-5));
  expect(actual!.correct!).toBe(expected!.correct!);
});

test.each(["bf16", "f16"] as const)("in %s: logits within 2e-2; on wasm the same weights, computed in f32", (dtype) => {
  const model = open("llama");
  const ids = [...randomIds(3, 20, model.config.vocabSize)];
  const [exact, stored, rounded] = [
    createDecoder(wasm, { ...model, maxTokens: 48 }),
    createDecoder(wasm, { ...model, maxTokens: 48, dtype }),
    createDecoder(ort, { ...model, maxTokens: 48, dtype }),
  ].map((decoder) => decoder.feed(ids));
  expectWithin("stored", relativeError(stored!, exact!), 2e-2);
  expectWithin("computed", relativeError(rounded!, exact!), 2e-2);
  expect(rounded).not.toEqual(stored!);
});
