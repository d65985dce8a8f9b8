import { Sgd } from "../ops/sgd.ts";
import { defineOptimizer, type UpdateRule } from "./optimizer.ts";

/**
 * Gradient descent with momentum, as torch.optim.SGD computes it: 4 bytes for each element. Weight decay is added to the
 * gradient. Without second moments the steps are as long as the gradients are, so that the learning rate is a larger one: on the
 * bundled example 100 times AdamW's comes near it, and 500 times diverges.
 */
export const sgd = defineOptimizer({
  learningRate: 0.02,
  defaults: { weightDecay: 0, momentum: 0.9, nesterov: false },
  rules({ momentum, nesterov }) {
    const shares = nesterov ? [1, momentum] : [0, 1];
    const rule: UpdateRule = {
      name: "sgd",
      slots: [{ name: "momentum", dtype: "f32", per: "element", start: 0 }],
      reach: { multipleOf: 1 },
      hyperSize: 6,
      hyper: ({ learningRate, weightDecay, gradientScale }) => [learningRate, momentum, weightDecay, gradientScale, ...shares],
      update(builder) {
        const [param, buffer] = builder.node(Sgd, ["param", "gradient", "momentum", "hyper"], {}, "next");
        return { param: param!, momentum: buffer! };
      },
    };
    return () => rule;
  },
});
