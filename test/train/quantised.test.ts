import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Strategy } from "../../src/schedule/strategies.ts";
import type { WeightStorage } from "../../src/load/weights.ts";
import { build, closeExecutors, gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { relativeError } from "../support/ops.ts";
import { SLOW, some } from "../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const STORAGES: readonly WeightStorage[] = [{ quantize: "q8" }, { quantize: "nf4", quantizeEmbedding: true }];
const RUNS: readonly (readonly [Strategy, threads: number])[] = [
  [{ name: "off" }, 2],
  [{ name: "per-segment" }, 1],
  ...(SLOW ? ([[{ name: "sqrt" }, 3]] as const) : []),
  [{ name: "revolve", slots: 2 }, 2],
];
/** Hidden sizes with whole blocks: all linear layers are quantised. */
const config = llama(4, 64);

describe.each(STORAGES.map((storage) => [JSON.stringify(storage), storage] as const))("weights %s", (_, storage) => {
  test.each(storage.quantize === "q8" ? some(["native", "wasm"] as const, 1) : some(["wasm", "native"] as const, 1))(
    "%s: the same bits for every strategy and 1 to 3 threads; memory is as planned",
    async (matmul) => {
      const make = (strategy: Strategy, threads: number) => build(config, lora(0.2), strategy, 67, { threads, matmul }, storage);
      const reference = gradients(await make({ name: "off" }, 1), 67);
      for (const values of reference.values.values()) expect(values.some((value) => value !== 0)).toBe(true);
      for (const [strategy, threads] of RUNS) {
        const engine = await make(strategy, threads);
        expect(gradients(engine, 67)).toEqual(reference);
        expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
        expect(engine.executor.reserved).toBeGreaterThanOrEqual(engine.measuredPeak);
      }
    },
  );

  test("a token at a time gives the logits of the whole text within a relative 1e-5", async () => {
    const more = { ...storage, decode: 40, logits: { tokens: [37], rows: 1 } };
    const engine = await build(config, lora(0), { name: "per-segment" }, 37, 2, more);
    const batch = { ...packedBatch(37, 67), starts: new Int32Array(37), positions: Int32Array.from({ length: 37 }, (_, t) => t) };
    const decoder = engine.decoder();
    for (let count = 1; count < 37; count++) decoder.feed([...batch.ids.subarray(0, count)]);
    const decoded = decoder.feed([...batch.ids]);
    expect(relativeError(decoded, engine.logits(batch, Int32Array.of(36)))).toBeLessThan(1e-5);
  });
});
