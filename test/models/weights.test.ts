import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { batchFile, type GoldenFamily, modelFolder, readTensors, relativeError } from "../support/golden.ts";
import { THREADS } from "../support/slow.ts";

setDefaultTimeout(120_000);

const BOUND = 1e-4;
const folder = temporaryFolder();

/** The padded batch of a family with the weights of the fixture in it. */
function weightedBatch(family: GoldenFamily, fixture: string): string {
  const path = join(folder, `${family}.safetensors`);
  const [batch, weights] = [openSafetensors(batchFile(family, "padded")), openSafetensors(fixture)];
  const integers = [...batch.tensors.values()].map((entry): TensorData => ({
    name: entry.name,
    dtype: "i64",
    shape: entry.shape,
    data: new BigInt64Array(readBytes(batch, entry).buffer),
  }));
  const { shape } = weights.tensors.get("weights")!;
  writeSafetensors(path, [...integers, { name: "weights", dtype: "f32", shape, data: readFloat32(weights, "weights", shape) }]);
  batch.close();
  weights.close();
  return path;
}

for (const family of ["llama", "gemma2"] as const) {
  for (const matmul of ["wasm", "native"] as const) {
    test(`${family}, ${matmul}: loss and gradients with weights within 1e-4 of PyTorch`, async () => {
      const fixture = join(import.meta.dir, `../golden/weights/${family}.safetensors`);
      const config = loadConfig(modelFolder(family));
      const batch = readStepBatch(weightedBatch(family, fixture), config);
      const source = openModelWeights(modelFolder(family), config);
      const executor = await createWasmExecutor({ threads: THREADS, matmul });
      const engine = createEngine(executor, {
        config,
        source,
        tuning: { method: "full" },
        strategy: { name: "per-segment" },
        tokens: [batch.ids.length],
        weighted: true,
        optimizer: null,
      });
      source.close();
      const loss = engine.forwardBackward(batch, 1 / batch.weight, 1, 0);
      const { loss: expected, weights: _, ...gradients } = Object.fromEntries(readTensors(fixture));
      expect(Math.abs(loss / expected![0]! - 1)).toBeLessThan(BOUND);
      expect(Math.abs(engine.evaluate(batch).loss / batch.weight / expected![0]! - 1)).toBeLessThan(BOUND);
      const { params, gradient } = engine.resident;
      const errors = Object.entries(gradients).map(([name, values]) => {
        const { type } = params.find((param) => param.name === name)!;
        return relativeError(readTensor(executor, gradient.get(name)!, type), values);
      });
      expect(errors.length).toBeGreaterThan(2);
      expect(Math.max(...errors)).toBeLessThan(BOUND);
      executor.close();
    });
  }
}
