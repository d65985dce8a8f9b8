import { Lion } from "../ops/lion.ts";
import { defineOptimizer, type UpdateRule } from "./optimizer.ts";

/**
 * Lion (Chen et al. 2023, https://arxiv.org/abs/2302.06675): every element moves by the learning rate along the sign of its
 * momentum, 4 bytes for each element. Its authors take a learning rate 3 to 10 times smaller than AdamW's.
 */
export const lion = defineOptimizer({
  learningRate: 4e-5,
  defaults: { weightDecay: 0, beta1: 0.9, beta2: 0.99 },
  rules({ beta1, beta2 }) {
    const rule: UpdateRule = {
      name: "lion",
      slots: [{ name: "momentum", dtype: "f32", per: "element", start: 0 }],
      reach: { multipleOf: 1 },
      hyperSize: 5,
      hyper: ({ learningRate, weightDecay, gradientScale }) => [learningRate, beta1, beta2, weightDecay, gradientScale],
      update(builder) {
        const [param, momentum] = builder.node(Lion, ["param", "gradient", "momentum", "hyper"], {}, "next");
        return { param: param!, momentum: momentum! };
      },
    };
    return () => rule;
  },
});
