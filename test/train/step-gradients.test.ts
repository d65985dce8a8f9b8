import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import type { TensorData } from "../../src/hf/weights/safetensors-write.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { stepGradients } from "../../src/train/step/step-gradients.ts";
import { llama, packedBatch } from "../support/engine.ts";
import { expectWithin, relativeError } from "../support/ops.ts";

setDefaultTimeout(120_000);

const executors = [createOrtExecutor({ threads: 1 }), createOrtExecutor({ threads: 1 })];
afterAll(() => executors.forEach((executor) => executor.close()));

const TOKENS = 24;
const config = llama(2, 16, { intermediate_size: 24 });
const [exact, half] = (["f32", "f16"] as const).map((dtype, i) =>
  createEngine(executors[i]!, {
    config,
    source: randomCheckpoint(config, "f32"),
    tuning: { method: "full" },
    strategy: { name: "per-segment" },
    dtype,
    tokens: [TOKENS],
    optimizer: null,
  }),
) as [ReturnType<typeof createEngine>, ReturnType<typeof createEngine>];
const packed = packedBatch(TOKENS, config.vocabSize);

const valuesOf = (tensors: readonly TensorData[]): number[] =>
  tensors.flatMap(({ data }) => {
    const pieces = [...(data as { pieces(): Iterable<Uint8Array> }).pieces()].map((piece) => piece.slice());
    return pieces.flatMap(({ buffer }) => [...new Float32Array(buffer)]);
  });

describe("gradients of one batch in f16", () => {
  // A batch that weighs a lot has gradients below the smallest number of f16, 6e-8; one that weighs little, above the largest.
  test.each([
    ["of an ordinary size", packed.labelled, 65536],
    ["below what f16 can hold", 1e6, 65536],
  ])("%s: as in f32 within 2e-2", (_, weight, scale) => {
    const batch = { ...packed, weights: null, weight };
    const { lossScale, gradients, loss } = stepGradients(half, batch, 1);
    const expected = stepGradients(exact, batch, 1);
    expect(lossScale).toBe(scale);
    expect(expected.lossScale).toBe(1);
    expectWithin("loss", Math.abs(loss / expected.loss - 1), 2e-2);
    expectWithin("gradients", relativeError(valuesOf(gradients), valuesOf(expected.gradients)), 2e-2);
  });

  test("that overflow are computed again with a smaller scale", () => {
    const batch = { ...packed, weights: null, weight: packed.labelled / 100 };
    const { lossScale, gradients } = stepGradients(half, batch, 1);
    expect(lossScale).toBeLessThan(65536);
    expect(Math.log2(lossScale) % 1).toBe(0);
    const expected = valuesOf(stepGradients(exact, batch, 1).gradients);
    expectWithin("gradients", relativeError(valuesOf(gradients), expected), 2e-2);
  });

  test("without a scale the small ones are lost, so that this test would fail", () => {
    half.scaleGradients(1);
    half.zeroGradients();
    half.forwardBackward({ ...packed, weights: null }, 1e-6, 1, 0);
    const { gradient, layout } = half.resident.trainable;
    const lost = [...new Float32Array(half.executor.read(gradient, 4 * layout.size).slice().buffer)];
    const batch = { ...packed, weights: null, weight: 1e6 };
    stepGradients(exact, batch, 1);
    const flat = exact.resident.trainable;
    const kept = [...new Float32Array(exact.executor.read(flat.gradient, 4 * layout.size).slice().buffer)];
    expect(relativeError(lost, kept)).toBeGreaterThan(0.2);
  });
});
