import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import { summarise } from "../../src/schedule/summary.ts";
import { createCosts } from "../../src/train/memory/costs.ts";
import { createEngine, type Engine, type EngineOptions } from "../../src/train/step/engine.ts";
import { bandwidthSeen } from "../../src/train/memory/offload.ts";
import { type Checkpointing, LimitError } from "../../src/train/memory/step-plan.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { build, closeExecutors, gradients, llama, lora, packedBatch } from "../support/engine.ts";
import { SLOW, THREADS } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const engines: Engine[] = [];
afterEach(() => engines.splice(0).forEach((engine) => engine.close()));
afterEach(closeExecutors);

const TOKENS = 64;

async function outside(
  config: ModelConfig,
  tuning: Tuning,
  strategy: Checkpointing,
  more: Partial<EngineOptions> = {},
): Promise<Engine> {
  const engine = await build(config, tuning, strategy, TOKENS, THREADS, { offload: { folder, leastBytes: 4096 }, ...more });
  engines.push(engine);
  return engine;
}

const STRATEGIES: Checkpointing[] = [
  { name: "off" },
  { name: "per-segment" },
  { name: "every", k: 2 },
  { name: "first", count: 3 },
  { name: "ratio", ratio: 0.5 },
  { name: "uniform", size: 2 },
  { name: "sqrt" },
  { name: "revolve", slots: 2 },
  { name: "optimal", limit: { share: 0.5 } },
  { name: "optimal", limit: { share: 0.3 } },
];

describe("gradients are the same to the bit with and without offload", () => {
  for (const [title, tuning] of [
    ["LoRA with dropout", lora(0.2)],
    ["full", { method: "full" }],
  ] as const) {
    test(`${title}: for every strategy, with what is fetched compared; counted peak within 2 % of the predicted one`, async () => {
      const config = llama(9);
      const reference = gradients(await build(config, tuning, { name: "off" }, TOKENS), TOKENS);
      let moving = 0;
      for (const strategy of SLOW ? STRATEGIES : STRATEGIES.slice(-4)) {
        const engine = await outside(config, tuning, strategy, { verifyReplay: true });
        expect(gradients(engine, TOKENS)).toEqual(reference);
        expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
        const { out, in: into } = engine.store!.counts();
        if (out > 0 && into > 0) moving++;
      }
      expect(moving).toBeGreaterThanOrEqual(SLOW ? 9 : 4);
    });
  }
});

describe("memory", () => {
  test("at the same limit a schedule with offload takes at most half the overhead of the best one without; the limit is kept", async () => {
    const config = llama(16);
    const tuning = { method: "full" } as const;
    const reference = gradients(await build(config, tuning, { name: "off" }, TOKENS), TOKENS);
    const limit: Checkpointing = { name: "optimal", limit: { share: 0.15 } };
    const without = await build(config, tuning, limit, TOKENS);
    const engine = await outside(config, tuning, limit);
    const overhead = ({ chain, schedule }: Engine) => summarise(chain, schedule).overhead;
    expect(overhead(without)).toBeGreaterThan(0.2);
    expect(overhead(engine)).toBeLessThan(overhead(without) / 2);
    const bytes = Math.floor(0.15 * (engine.withoutCheckpointing.peak - engine.predicted.resident));
    expect(gradients(engine, TOKENS)).toEqual(reference);
    expect(engine.measuredPeak - engine.predicted.resident).toBeLessThanOrEqual(bytes);
    expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
  });

  // A chain whose input takes no memory (token ids are resident) can always run again from its start, with nothing kept.
  test("the least limit is the same with and without offload, up to alignment: no error promises that offload lowers it", async () => {
    const config = llama(6, 128);
    const little: Checkpointing = { name: "optimal", limit: { bytes: 1 } };
    const { least } = await refusal(build(config, { method: "full" }, little, 512));
    const { least: aligned } = await refusal(build(config, { method: "full" }, little, 512, 1, { offload: { folder } }));
    expect(Math.abs(aligned / least - 1)).toBeLessThan(0.02);
  });

  test("save-all of 48 blocks with everything outside: an eighth of the stash", async () => {
    const engine = await outside(llama(48), { method: "full" }, { name: "off" });
    expect(engine.predicted.stash).toBeLessThan(engine.withoutCheckpointing.stash / 8);
    gradients(engine, TOKENS);
    const { out, in: into } = engine.store!.counts();
    // Two micro-batches, each with all tapes but the last few once out and once in.
    expect(out).toBe(into);
    const { a, r } = engine.chain;
    const all = [...a, ...r].reduce((sum, bytes) => sum + bytes, 0);
    expect(out).toBeGreaterThan(2 * 0.85 * all);
    expect(out).toBeLessThan(2 * all);
  });
});

describe("times", () => {
  test("bandwidth is measured before the first step, kept by target, and taken from the steps when it differs", async () => {
    const costs = createCosts("here");
    const batch = packedBatch(TOKENS, 67);
    const strategy: Checkpointing = { name: "optimal", limit: { share: 0.3 } };
    const engine = await outside(llama(9), { method: "full" }, strategy, { measure: { costs, batch } });
    const target = engine.store!.description;
    const { out, in: into } = costs.bandwidthOf(target)!;
    for (const rate of [out, into]) expect(rate).toBeGreaterThan(1e5);
    expect(engine.chain.offload).toMatchObject({ out, in: into });
    const again = createCosts(
      "here",
      JSON.parse(JSON.stringify(costs)) as { bandwidth: Record<string, { out: number; in: number }> },
    );
    expect(again.bandwidthOf(target)).toEqual({ out, in: into });
    expect(costs.updateBandwidth(target, { out: 1.1 * out }, 0.2)).toBe(false);
    expect(costs.updateBandwidth(target, { out: 2 * out }, 0.2)).toBe(true);
    expect(costs.bandwidthOf(target)).toEqual({ out: 2 * out, in: into });
    expect(costs.updateBandwidth("another", { out: 1 }, 0.2)).toBe(false);
  });

  test("bandwidth that was seen: bytes by busy seconds, only where something moved", () => {
    const none = { out: 0, in: 0, waited: 0, busyOut: 0, busyIn: 0 };
    expect(bandwidthSeen(none, { ...none, out: 100, busyOut: 4 })).toEqual({ out: 25 });
    expect(bandwidthSeen({ ...none, in: 10, busyIn: 1 }, { ...none, in: 30, busyIn: 3 })).toEqual({ in: 10 });
    expect(bandwidthSeen(none, none)).toEqual({});
  });
});

test("the replay check names what comes back changed", async () => {
  const inner = await createWasmExecutor({ threads: 1 });
  const config = llama(9);
  const options = {
    config,
    source: randomCheckpoint(config, "f32"),
    tuning: { method: "full" },
    strategy: { name: "off" },
  } as const;
  const engine = createEngine(inner, {
    ...options,
    tokens: [TOKENS],
    optimizer: null,
    verifyReplay: true,
    offload: { folder, leastBytes: 4096 },
  });
  engines.push(engine);
  const store = engine.store as { -readonly [K in keyof NonNullable<Engine["store"]>]: NonNullable<Engine["store"]>[K] };
  const { fetch } = store;
  // Fetches another tape than the one that was copied.
  const places: number[] = [];
  store.fetch = (address, bytes, place, after) => {
    places.push(place);
    return fetch(address, bytes, places[0]!, after);
  };
  const batch = packedBatch(TOKENS, config.vocabSize);
  expect(() => engine.forwardBackward(batch, 1 / batch.labelled, 1, 0)).toThrow(
    /replay check: (tape|boundary) \d+ did not come back from outside as it was when it was copied/,
  );
});

async function refusal(building: Promise<unknown>): Promise<LimitError> {
  const error: unknown = await building.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(LimitError);
  return error as LimitError;
}
