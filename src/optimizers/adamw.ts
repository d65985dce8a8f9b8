import { AdamW } from "../ops/adamw.ts";
import type { Hyperparameters } from "./hyperparameters.ts";
import { defineOptimizer, type UpdateRule, type UpdateStep } from "./optimizer.ts";

export type AdamWSettings = Pick<Hyperparameters, "weightDecay" | "beta1" | "beta2" | "epsilon">;

export const ADAMW_DEFAULTS: AdamWSettings = { weightDecay: 0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

/** AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101): two moments in f32, 8 bytes for each element. */
export const adamw = defineOptimizer({
  learningRate: 2e-4,
  defaults: ADAMW_DEFAULTS,
  rules(settings) {
    const rule = adamWRule(settings);
    return () => rule;
  },
});

/** AdamW in f32, which other optimizers take for what they do not update themselves. */
export function adamWRule(settings: AdamWSettings): UpdateRule {
  return {
    name: "adamw",
    slots: ["moment1", "moment2"].map((name) => ({ name, dtype: "f32", per: "element", start: 0 })),
    reach: { multipleOf: 1 },
    hyperSize: 8,
    hyper: (step) => adamWHyper(settings, step),
    update(builder) {
      const [param, moment1, moment2] = builder.node(AdamW, ["param", "gradient", "moment1", "moment2", "hyper"], {}, "next");
      return { param: param!, moment1: moment1!, moment2: moment2! };
    },
  };
}

/** The scalars that AdamW's kernels read. */
export function adamWHyper(
  { beta1, beta2, epsilon }: AdamWSettings,
  { count, learningRate, weightDecay, gradientScale }: UpdateStep,
): number[] {
  // With the betas rounded as the kernel has them, so that the rounding of 1 - 0.999 (5e-5 of it) cancels.
  const corrections = [beta1, beta2].map((beta) => 1 - Math.fround(beta) ** count);
  return [learningRate, beta1, beta2, epsilon, weightDecay, ...corrections, gradientScale];
}
