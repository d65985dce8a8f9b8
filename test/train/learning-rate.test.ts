import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { learningRate, warmupSteps } from "../../src/train/step/learning-rate.ts";

setDefaultTimeout(120_000);

// Transformers' get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup and
// get_constant_schedule_with_warmup, 10 warm-up steps of 50, at these steps.
const STEPS = [0, 5, 9, 10, 20, 30, 49];
const FACTORS = {
  constant: [0, 0.5, 0.9, 1, 1, 1, 1],
  linear: [0, 0.5, 0.9, 1, 0.75, 0.5, 0.025],
  cosine: [0, 0.5, 0.9, 1, 0.8535533905932737, 0.5, 0.001541333133436018],
} as const;

describe("learning rate", () => {
  test.each(Object.entries(FACTORS))("%s as in Transformers, within 1e-12", (schedule, factors) => {
    const config = { learningRate: 2, schedule: schedule as keyof typeof FACTORS, warmup: 10 };
    STEPS.forEach((step, i) => expect(learningRate(config, step, 50)).toBeCloseTo(2 * factors[i]!, 12));
  });

  test("a warm-up below 1 is a share of all steps", () => {
    expect(warmupSteps({ warmup: 0.1 }, 50)).toBe(5);
    expect(warmupSteps({ warmup: 7 }, 50)).toBe(7);
    expect(warmupSteps({ warmup: 0 }, 50)).toBe(0);
    expect(learningRate({ learningRate: 1, schedule: "cosine", warmup: 0 }, 0, 50)).toBe(1);
  });
});
