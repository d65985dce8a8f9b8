import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { tmpdir } from "node:os";
import { isOnDisk } from "../../src/load/streamed-weights.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import type { StreamOptions } from "../../src/train/memory/stream.ts";
import { openEngine } from "../../src/train/step/open-engine.ts";
import { gradients, llama, lora } from "../support/engine.ts";
import { removeStored, storedCheckpoint } from "../support/stored.ts";

setDefaultTimeout(120_000);

const executors: { close(): void }[] = [];
afterAll(() => {
  for (const executor of executors) executor.close();
  removeStored();
});

const TOKENS = 24;

for (const [name, tuning, copies] of [
  ["LoRA", lora(0), false],
  ["LoRA, in memory that is reached by copies alone, as a device's", lora(0), true],
  ["full, with the trained state in a file", { method: "full" }, false],
] as const satisfies [string, Tuning, boolean][]) {
  test(`${name}: streamed weights give the bits of resident ones on ONNX Runtime's CPU provider`, async () => {
    const config = llama(2, 128, { vocab_size: 300, tie_word_embeddings: false });
    const source = storedCheckpoint(config, "f32");
    const train = async (isStreamed: boolean) => {
      const executor = createOrtExecutor({ threads: 1, copies });
      executors.push(executor);
      const stream: StreamOptions = {
        mode: isStreamed ? "all" : "off",
        canStream: (param) => isOnDisk(source, param),
        folder: tmpdir(),
        isTrainedOutside: tuning.method === "full",
        bandwidth: 1e9,
        free: () => Infinity,
      };
      const options = { config, source, tuning, stream, strategy: { name: "per-segment" }, tokens: [TOKENS] } as const;
      const engine = await openEngine(executor, { ...options, optimizer: chooseOptimizer({}) }, (plan) => plan(), {
        cache: false,
      });
      initialiseAdapter(engine, 3);
      const optimizer = createOptimizer(engine, { clip: 1 });
      const told = [];
      for (let step = 1; step <= 2; step++) {
        const { losses, values } = gradients(engine, TOKENS);
        told.push(
          losses,
          [...values].map(([param, value]) => [param, Bun.hash(value)]),
          optimizer.step(step, 0.01),
        );
      }
      return { told, engine };
    };
    const [resident, streamed] = [await train(false), await train(true)];
    expect(resident.engine.streamed).toBeNull();
    expect(streamed.engine.streamed).not.toBeNull();
    expect(streamed.told).toEqual(resident.told);
    streamed.engine.close();
  });
}
