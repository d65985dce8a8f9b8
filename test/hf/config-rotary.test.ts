import { expect, setDefaultTimeout, test } from "bun:test";
import { loadConfig } from "../../src/hf/config/config.ts";
import { inverseFrequencies } from "../../src/models/rotary-tables.ts";
import { checkContext, contextLimit } from "../../src/models/context.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { batchFile, modelFolder } from "../support/golden.ts";
import { llama } from "../support/model-config.ts";
import { userError } from "./temp.ts";

setDefaultTimeout(120_000);

const llama3 = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};

test("rope_theta with rope_scaling and the newer rope_parameters mean the same", () => {
  const old = llama({ rope_theta: 5e5, rope_scaling: llama3 }).rope;
  expect(old).toEqual(llama({ rope_parameters: { ...llama3, rope_theta: 5e5 } }).rope);
  expect(old.scaling).toEqual({ type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 });
  expect(llama({ rope_scaling: { type: "linear", factor: 2 } }).rope.scaling).toEqual({ type: "linear", factor: 2 });
});

test("a context longer than the model's is refused, a stretched one allowed", () => {
  expect(contextLimit(llama({ max_position_embeddings: 100 }))).toBe(100);
  expect(contextLimit(llama({ max_position_embeddings: 100, rope_scaling: { type: "linear", factor: 2.5 } }))).toBe(250);
  expect(contextLimit(llama({ max_position_embeddings: 100, rope_scaling: llama3 }))).toBe(100);
  checkContext(llama({ max_position_embeddings: 100 }), 100);
  expect(userError(() => checkContext(llama({ max_position_embeddings: 100 }), 101))).toBe(
    "sequence length 101 is longer than the model's context of 100 tokens; choose 100 or less",
  );
});

test("dynamic NTK is the same as none up to the context, and refused beyond", () => {
  const dynamic = llama({ max_position_embeddings: 100, rope_scaling: { rope_type: "dynamic", factor: 4 } });
  expect(contextLimit(dynamic)).toBe(100);
  expect(inverseFrequencies(dynamic)).toEqual(inverseFrequencies(llama({ max_position_embeddings: 100 })));
  checkContext(dynamic, 100);
  expect(userError(() => checkContext(dynamic, 101))).toBe(
    "sequence length 101 is longer than the model's context of 100 tokens (dynamic rotary positions, which would change with every length beyond it, are not supported); choose 100 or less",
  );
  // A batch for `step`: each example by its own length.
  const model = loadConfig(modelFolder("internlm2"));
  const longest = Math.max(...readStepBatch(batchFile("internlm2", "packed"), model).positions) + 1;
  const read = (maxPositions: number) => readStepBatch(batchFile("internlm2", "packed"), { ...model, maxPositions });
  expect(read(longest).positions.length).toBeGreaterThan(longest);
  expect(userError(() => read(longest - 1))).toContain("dynamic rotary positions");
});
