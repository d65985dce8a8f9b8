import { expect, test } from "bun:test";
import { compareFingerprints, fingerprint } from "../../src/train/fingerprint.ts";
import { type TrainConfigInput, trainConfigSchema } from "../../src/train/config.ts";
import { bf16Kernel } from "../../src/wasm/machine-code/executable.ts";

const inputs = {
  model: { family: "llama", layers: 2, hiddenSize: 32 },
  date: null,
  start: null,
  identity: { config: "a".repeat(64), weights: "b".repeat(64), tokenizer: "c".repeat(64) },
  train: { count: 3, tokens: 50, content: "d".repeat(64) },
} as const;

const of = (flags: Partial<TrainConfigInput>) =>
  fingerprint(trainConfigSchema.parse({ model: "m", data: "d", ...flags }), inputs);

test("what a schedule, threads, the device and products in f32 are is no part of a run's identity", () => {
  for (const flags of [
    { memory: "1GiB" },
    { strategy: "per-segment" },
    { threads: 1 },
    { matmul: "wasm" },
    { matmul: "native" },
  ] as const)
    expect(of(flags)).toBe(of({}));
});

test.each(["bf16", "int8"] as const)("products in %s are, with what of the processor computes those in bf16", (matmul) => {
  const { other } = compareFingerprints(of({}), of({ matmul }));
  expect(other).toEqual({ had: "", has: `matmul ${matmul} ${bf16Kernel()}` });
});
