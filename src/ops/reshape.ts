import { elements } from "../graph/types.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type ReshapeAttrs = { readonly shape: readonly number[] };

/**
 * `Reshape(x)`: the same elements, in row-major order, under another shape; any type. No kernel runs: the output is the input's
 * memory. ONNX takes the shape as a second input: the codec writes the attribute `shape` as a constant i64 tensor there.
 */
export const Reshape: OpDef<ReshapeAttrs> = defineOp({
  name: "Reshape",
  domain: "",
  cost: "memory",
  infer([x], { shape }) {
    const fits = !!x && elements(x.shape) === elements(shape);
    expectShape("Reshape", `as many elements as [${shape.join(", ")}] has`, fits, x);
    return [{ dtype: x!.dtype, shape }];
  },
  gradient(ctx) {
    return [ctx.builder.value(Reshape, [ctx.grad(0)!], { shape: ctx.builder.type(ctx.input(0)).shape })];
  },
  body: "standard",
  lower() {},
  view: true,
  narrow: [0],
});
