import { Opcode } from "../../assembly/opcodes.ts";
import { ColumnSum } from "./column-sum.ts";
import { expectRows, type NormAttrs, normGrad } from "./norm-grad.ts";
import { defineOp } from "./types.ts";

/**
 * `LayerNormalization(x, scale, bias?) = (x - mean(x)) r scale + bias` over each row, r = 1 / sqrt(mean((x - mean(x))^2) + epsilon), in
 * f32 (Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450).
 */
export const LayerNormalization = defineOp<NormAttrs>({
  name: "LayerNormalization",
  domain: "",
  cost: "memory",
  infer([x, scale, bias], { axis }) {
    expectRows("LayerNormalization", [x, scale, bias], axis);
    return [x!];
  },
  gradient(ctx) {
    const dy = ctx.grad(0)!;
    const wanted = ctx.needs(0) || ctx.needs(1);
    const [dx, dscale] = wanted ? ctx.builder.node(LayerNormGrad, [dy, ctx.input(0), ctx.input(1)], ctx.attrs) : [];
    return [
      ctx.needs(0) ? dx! : null,
      ctx.needs(1) ? dscale! : null,
      ctx.needs(2) ? ctx.builder.value(ColumnSum, [dy], {}) : null,
    ];
  },
  body: "standard",
  lower(e) {
    const [rows, columns] = e.type(e.output(0)).shape as [number, number];
    const operands = [e.input(0), e.input(1), e.input(2), e.output(0)];
    e.emit(Opcode.LayerNorm, operands, [rows, columns, { f32: e.attrs.epsilon }]);
  },
  narrow: [0, 1, 2],
  inPlace: [[0, 0]],
});

/**
 * `LayerNormGrad(dy, x, scale, sum?) -> dx, dscale`. With n = (x - mean(x)) r, the normed row, and g = dy scale:
 * dx = r (g - mean(g) - n mean(g n)), added to `sum` where it is given; dscale = sum over rows of dy n.
 */
export const LayerNormGrad = defineOp<NormAttrs>({
  name: "LayerNormGrad",
  domain: "remat",
  ...normGrad("LayerNormGrad", Opcode.LayerNormGrad),
  body(body, [dy, x, scale, sum], _types, { epsilon }) {
    const mul = (a: string, b: string) => body.op("Mul", [a, b]);
    const sub = (a: string, b: string) => body.op("Sub", [a, b]);
    const mean = (a: string) => body.op("ReduceMean", [a, body.ints([1])], { keepdims: 1 });
    const centred = sub(x!, mean(x!));
    const variance = mean(mul(centred, centred));
    const r = body.op("Reciprocal", [body.op("Sqrt", [body.op("Add", [variance, body.scalar(epsilon)])])]);
    const normed = mul(centred, r);
    const g = mul(dy!, scale!);
    const dx = mul(r, sub(sub(g, mean(g)), mul(normed, mean(mul(g, normed)))));
    const dscale = body.op("ReduceSum", [mul(dy!, normed), body.ints([0])], { keepdims: 0 });
    return [sum ? body.op("Add", [sum, dx]) : dx, dscale];
  },
});
