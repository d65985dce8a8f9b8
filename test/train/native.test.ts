import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { Strategy } from "../../src/schedule/strategies.ts";
import { build, closeExecutors, gradients, llama, lora } from "../support/engine.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { combinations, SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const STRATEGIES: Strategy[] = [{ name: "per-segment" }, { name: "sqrt" }, { name: "off" }];
/** So many that products, attention and head all go to the native library. */
const TOKENS = 150;
const GEMMA = {
  architectures: ["Gemma2ForCausalLM"],
  model_type: "gemma2",
  vocab_size: 300,
  head_dim: 32,
  query_pre_attn_scalar: 24,
  sliding_window: 40,
  attn_logit_softcapping: 0.5,
  final_logit_softcapping: 2,
};
const MODELS = [
  ["Llama", llama(4, 128, { vocab_size: 300 })],
  ["Gemma 2", llama(4, 128, GEMMA)],
] as const;

describe.each(MODELS)("native products: gradients of %s", (model, config) => {
  const tunings = [
    ["LoRA with dropout", lora(0.2)],
    ["full", { method: "full" }],
  ] as const;
  for (const [title, tuning] of SLOW ? tunings : [tunings[model === "Llama" ? 0 : 1]]) {
    test(`${title}: the same to the bit for every strategy, and for 1, 2 and 3 threads; the kernels' within 1e-5`, async () => {
      const reference = gradients(await build(config, tuning, { name: "off" }, TOKENS, { threads: 1, matmul: "native" }), TOKENS);
      for (const [threads, strategy] of combinations([1, 2, 3], STRATEGIES)) {
        const engine = await build(config, tuning, strategy, TOKENS, { threads, matmul: "native" });
        expect(gradients(engine, TOKENS)).toEqual(reference);
        expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
      }
      const kernels = gradients(await build(config, tuning, { name: "off" }, TOKENS, { threads: 2, matmul: "wasm" }), TOKENS);
      expect(reference.values).not.toEqual(kernels.values);
      for (const [name, values] of kernels.values) expectWithin(name, relativeError(reference.values.get(name)!, values), 1e-5);
      kernels.losses.forEach((loss, i) => expect(Math.abs(reference.losses[i]! / loss - 1)).toBeLessThan(1e-6));
    });
  }
});
