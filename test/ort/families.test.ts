import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import {
  batchFile,
  ENCODERS,
  FAMILIES,
  type GoldenFamily,
  type GoldenMethod,
  METHODS,
  modelFolder,
  goldenTuning,
  isZero,
  readAdapter,
} from "../support/golden.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { boundFor, openOrt } from "../support/provider.ts";
import { combinations, everyNth } from "../support/slow.ts";

setDefaultTimeout(120_000);

const executors: Executor[] = [];
afterEach(() => executors.splice(0).forEach((executor) => executor.close()));

/** Loss and the gradient of every trainable parameter, on weights as their checkpoint stores them. */
function gradientsOf(executor: Executor, family: GoldenFamily, method: GoldenMethod) {
  executors.push(executor);
  const config = loadConfig(modelFolder(family));
  const adapter = readAdapter(family);
  const tuning = goldenTuning(family, method);
  const batch = readStepBatch(batchFile(family, "padded"), config);
  const source = openModelWeights(modelFolder(family), config);
  const strategy = { name: "per-segment" } as const;
  const { resident, ...engine } = createEngine(executor, {
    config,
    source,
    tuning,
    strategy,
    tokens: [batch.ids.length],
    optimizer: null,
  });
  source.close();
  if (method === "lora") {
    for (const [name, data] of adapter.tensors) {
      executor.write(resident.param.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  }
  engine.zeroGradients();
  const loss = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
  const trainable = resident.params.filter((param) => param.trainable);
  const gradients = trainable.map(({ name, type }) => [name, readTensor(executor, resident.gradient.get(name)!, type)] as const);
  return { loss, gradients: new Map(gradients) };
}

test.each(combinations(everyNth([...FAMILIES, ...ENCODERS], 3), METHODS))(
  "%s on ONNX Runtime, %s: loss and the gradient of every trainable parameter as on the wasm executor, within 1e-4",
  async (family, method) => {
    const expected = gradientsOf(await createWasmExecutor({ threads: 1 }), family, method);
    const actual = gradientsOf(openOrt(1), family, method);
    expectWithin("loss", Math.abs(actual.loss / expected.loss - 1), boundFor(1e-4));
    expect([...actual.gradients.keys()]).toEqual([...expected.gradients.keys()]);
    for (const [name, gradient] of expected.gradients) {
      if (isZero(name)) continue;
      expectWithin(name, relativeError(actual.gradients.get(name)!, gradient), boundFor(1e-4));
    }
  },
);
