import { Opcode } from "../../assembly/opcodes.ts";
import { expectRows, type NormAttrs, normGrad } from "./norm-grad.ts";
import { defineOp } from "./types.ts";

/** `RMSNormalization(x, scale) = x * scale / sqrt(mean(x^2) + epsilon)` over each row, summed in f32 (https://arxiv.org/abs/1910.07467). */
export const RMSNormalization = defineOp<NormAttrs>({
  name: "RMSNormalization",
  domain: "",
  cost: "memory",
  infer([x, scale], { axis }) {
    expectRows("RMSNormalization", [x, scale], axis);
    return [x!];
  },
  gradient(ctx) {
    const [dx, dscale] = ctx.builder.node(RMSNormGrad, [ctx.grad(0)!, ctx.input(0), ctx.input(1)], ctx.attrs);
    return [ctx.needs(0) ? dx! : null, ctx.needs(1) ? dscale! : null];
  },
  body: "standard",
  lower(e) {
    const [rows, columns] = e.type(e.output(0)).shape as [number, number];
    e.emit(Opcode.RMSNorm, [e.input(0), e.input(1), e.output(0)], [rows, columns, { f32: e.attrs.epsilon }]);
  },
  narrow: [0, 1],
  inPlace: [[0, 0]],
});

/**
 * `RMSNormGrad(dy, x, scale, sum?) -> dx, dscale`. With r = 1 / sqrt(mean(x^2) + epsilon) of a row and g = dy scale:
 * dx = r (g - x r^2 mean(g x)), added to `sum` where it is given; dscale = sum over rows of dy x r.
 */
export const RMSNormGrad = defineOp<NormAttrs>({
  name: "RMSNormGrad",
  domain: "remat",
  ...normGrad("RMSNormGrad", Opcode.RMSNormGrad),
  body(body, [dy, x, scale, sum], _types, { epsilon }) {
    const mul = (a: string, b: string) => body.op("Mul", [a, b]);
    const mean = (a: string) => body.op("ReduceMean", [a, body.ints([1])], { keepdims: 1 });
    const r = body.op("Reciprocal", [body.op("Sqrt", [body.op("Add", [mean(mul(x!, x!)), body.scalar(epsilon)])])]);
    const normed = mul(x!, r);
    const g = mul(dy!, scale!);
    const dx = mul(r, body.op("Sub", [g, mul(normed, mean(mul(g, normed)))]));
    const dscale = body.op("ReduceSum", [mul(dy!, normed), body.ints([0])], { keepdims: 0 });
    return [sum ? body.op("Add", [sum, dx]) : dx, dscale];
  },
});
