import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ModelConfig } from "../../src/models/config.ts";
import { createRandom } from "../../src/base/random.ts";
import { idealTime, variantsOf } from "../../src/schedule/chain.ts";
import { B, BR, FA, type Schedule } from "../../src/schedule/ops.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { type Checkpointing, LimitError } from "../../src/train/memory/step-plan.ts";
import { build, closeExecutors, gradients, llama, lora } from "../support/engine.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

/** Budgets from the least that works to everything. */
const BUDGETS = SLOW ? 10 : 3;

const qwen3 = (layers: number): ModelConfig =>
  llama(layers, 32, { architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", head_dim: 8, attention_bias: true });

const CASES = [
  ["Llama, LoRA with dropout", llama(5), lora(0.2)],
  ["Llama, full", llama(5), { method: "full" }],
  ["Qwen3 (norms of queries and keys, biases), full", qwen3(4), { method: "full" }],
  ["Qwen3, LoRA", qwen3(4), lora(0)],
] as const;

/** Saves each block in the variant that `choose` gives. */
const mixed = (choose: (i: number) => number): Checkpointing => ({
  name: "given",
  schedule: ({ n, variants, frozen }): Schedule => {
    const taped = Array.from({ length: n - 1 - frozen }, (_, at) => frozen + 1 + at);
    const forward = Array.from({ length: frozen }, (_, at) => ({ kind: "FN", i: at + 1 }) as const);
    const backward = taped.toReversed().map(B);
    return [...forward, ...taped.map((i) => FA(i, Math.min(choose(i), variants[i - 1]!.length))), BR(n), ...backward];
  },
});

describe("selective saving", () => {
  for (const [title, config, tuning] of SLOW ? CASES : [CASES[2]]) {
    test(`${title}: gradients are the same to the bit for each variant and for mixes of them`, async () => {
      const reference = gradients(await build(config, tuning, { name: "off" }, 37), 37);
      for (const k of SLOW ? [0, 1, 2, 3, 4] : [1, 4]) {
        const engine = await build(
          config,
          tuning,
          mixed(() => k),
          37,
        );
        expect(engine.chain.variants[2]!.length).toBe(4);
        expect(gradients(engine, 37)).toEqual(reference);
        expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
      }
      const random = createRandom(3, title);
      for (let mix = 0; mix < 4; mix++) {
        const choices = Array.from({ length: config.layers + 2 }, () => random.below(5));
        expect(
          gradients(
            await build(
              config,
              tuning,
              mixed((i) => choices[i]!),
              37,
            ),
            37,
          ),
        ).toEqual(reference);
      }
    });
  }

  test("each variant has a smaller tape and a longer backward than the one before it; the last has no tape", async () => {
    for (const [, config, tuning] of CASES) {
      const { chain } = await build(
        config,
        tuning,
        mixed(() => 0),
        37,
      );
      const variants = variantsOf(chain, 3);
      for (let k = 1; k < variants.length; k++) {
        expect(variants[k]!.r).toBeLessThan(variants[k - 1]!.r);
        expect(variants[k]!.ub).toBeGreaterThan(variants[k - 1]!.ub);
      }
      expect(variants.at(-1)!.r).toBe(0);
    }
  });

  test("without a tape, the backward leaves out what only the output needs: the last product of the block", async () => {
    const engine = await build(llama(3), { method: "full" }, { name: "per-segment" }, 37);
    const { forward, variants } = engine.segments[2]!.model;
    const products = (names: readonly string[]) => names.filter((name) => name.includes("proj"));
    const again = products(variants[0]!.recomputed);
    expect(again).toEqual(products(forward.nodes.map((node) => node.outputs[0]!)).filter((name) => !name.includes("down_proj")));
  });

  test("named values are kept, or recomputed, in every variant", async () => {
    const selective = { keep: ["attention"], recompute: ["RMSNormalization", "up_proj"] };
    const engine = await build(
      llama(3),
      { method: "full" },
      mixed(() => 0),
      37,
      2,
      { selective },
    );
    const { training, variants } = engine.segments[2]!.model;
    for (const { tape, recomputed } of [training!, ...variants]) {
      expect(tape).toContain("attention");
      expect(recomputed).not.toContain("attention");
      expect(recomputed).toContain("input_layernorm");
      expect(recomputed).toContain("mlp.up_proj");
    }
    expect(gradients(engine, 37)).toEqual(gradients(await build(llama(3), { method: "full" }, { name: "off" }, 37), 37));
    const unknown = build(
      llama(3),
      { method: "full" },
      mixed(() => 0),
      37,
      2,
      { selective: { keep: ["atention"], recompute: [] } },
    );
    expect(unknown).rejects.toThrow(/no layer or operator of a block is named "atention"; .*attention/);
  });
});

async function refusal(building: Promise<unknown>): Promise<LimitError> {
  const error: unknown = await building.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(LimitError);
  return error as LimitError;
}

describe("budgets", () => {
  for (const [title, tuning] of [
    ["full", { method: "full" }],
    ["LoRA with dropout", lora(0.1)],
  ] as const) {
    test(`${title}: ${BUDGETS} budgets from the least to everything: kept, predicted within 2 %, monotonic, gradients the same`, async () => {
      const config = llama(24, 16);
      const tokens = 48;
      const off = await build(config, tuning, { name: "off" }, tokens);
      const reference = gradients(off, tokens);
      const { least } = await refusal(build(config, tuning, { name: "budget", bytes: 1 }, tokens));
      const fixed = off.predicted.resident;
      let before = Infinity;
      for (let i = 0; i < BUDGETS; i++) {
        const bytes = fixed + Math.floor(least + (i / (BUDGETS - 1)) * (off.predicted.peak - fixed - least));
        const engine = await build(config, tuning, { name: "budget", bytes }, tokens);
        expect(gradients(engine, tokens)).toEqual(reference);
        expect(engine.measuredPeak).toBeLessThanOrEqual(bytes);
        expect(Math.abs(engine.measuredPeak / engine.predicted.peak - 1)).toBeLessThan(0.02);
        const { time } = simulate(engine.chain, engine.schedule);
        expect(time).toBeLessThanOrEqual(before);
        before = time;
      }
      expect(before).toBeCloseTo(idealTime(off.chain), 12);
      expect(await refusal(build(config, tuning, { name: "budget", bytes: fixed + least - 1 }, tokens))).toMatchObject({ least });
    });
  }
});
