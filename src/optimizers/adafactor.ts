import { AdafactorColumns, AdafactorRows, AdafactorSquares, AdafactorStep } from "../ops/adafactor.ts";
import { SumSquares } from "../ops/sum-squares.ts";
import { defineOptimizer, type UpdateRule, type UpdateStep } from "./optimizer.ts";

/** Power of the number of the step that the share of the new squares is: torch.optim.Adafactor's `beta2_decay`. */
const BETA2_DECAY = -0.8;

/**
 * Adafactor (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235) as torch.optim.Adafactor computes it: a matrix has one second moment for
 * each row and one for each column, a vector one for each element, and there is no momentum; 0.01 bytes for each element. Steps are relative to a
 * parameter's root mean square (at least 1e-3): the learning rate is the largest share of it, which falls as 1 / sqrt(step) where that is less.
 * On the bundled example the default comes to AdamW's loss with all weights; adapters, whose B begins at 0, take 10 to 30 times of it.
 */
export const adafactor = defineOptimizer({
  learningRate: 1e-2,
  defaults: { weightDecay: 0 },
  rules() {
    // Of a matrix of one row or column, such as factors of an adapter or a channel's filter, the products of the moments are a vector's.
    return ({ type }) => (type.shape.length === 2 ? factored : plain);
  },
});

const common = {
  reach: "matrix",
  hyperSize: 5,
  hyper: ({ count, learningRate, weightDecay, gradientScale }: UpdateStep) => [
    learningRate,
    weightDecay,
    gradientScale,
    count ** BETA2_DECAY,
    Math.min(learningRate, 1 / Math.sqrt(count)),
  ],
} as const;

const factored: UpdateRule = {
  name: "adafactor",
  slots: [
    { name: "rows", dtype: "f32", per: "row", start: 0 },
    { name: "columns", dtype: "f32", per: "column", start: 0 },
  ],
  ...common,
  update(builder) {
    const [rows, share] = builder.node(AdafactorRows, ["gradient", "rows", "hyper"], {}, "rows.next");
    const columns = builder.value(AdafactorColumns, ["gradient", "columns", "hyper"], {}, "columns.next");
    const size = builder.value(SumSquares, ["param"], {}, "size");
    const squares = builder.value(AdafactorSquares, ["gradient", columns, "hyper", share!], {}, "squares");
    const inputs = ["param", "gradient", columns, "hyper", size, squares, share!];
    return { param: builder.value(AdafactorStep, inputs, {}, "next"), rows: rows!, columns };
  },
};

const plain: UpdateRule = {
  name: "adafactor-vector",
  slots: [{ name: "variance", dtype: "f32", per: "element", start: 0 }],
  ...common,
  update(builder) {
    const variance = builder.value(AdafactorColumns, ["gradient", "variance", "hyper"], {}, "variance.next");
    const size = builder.value(SumSquares, ["param"], {}, "size");
    const squares = builder.value(AdafactorSquares, ["gradient", variance, "hyper"], {}, "squares");
    const inputs = ["param", "gradient", variance, "hyper", size, squares];
    return { param: builder.value(AdafactorStep, inputs, {}, "next"), variance };
  },
};
