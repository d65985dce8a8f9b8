import { Opcode } from "../../assembly/opcodes.ts";
import { sameType, type TensorType } from "../graph/types.ts";
import { ColumnSum } from "./column-sum.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type LayerNormAttrs = {
  /** Rows are normalised: -1. */
  readonly axis: number;
  readonly epsilon: number;
};

function expectRows(op: string, [x, scale, bias]: readonly (TensorType | null | undefined)[], axis: number): void {
  if (axis !== -1) throw new Error(`${op}: axis must be -1, got ${axis}`);
  const rows = areFloats(x, scale) && x!.shape.length === 2;
  const fits = rows && scale!.shape.length === 1 && scale!.shape[0] === x!.shape[1] && (!bias || sameType(bias, scale!));
  expectShape(op, "x [rows, columns], scale and bias [columns] of one float type", fits, x, scale, bias);
}

/**
 * `LayerNormalization(x, scale, bias?) = (x - mean(x)) r scale + bias` over each row, r = 1 / sqrt(mean((x - mean(x))^2) + epsilon), in
 * f32 (Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450).
 */
export const LayerNormalization = defineOp<LayerNormAttrs>({
  name: "LayerNormalization",
  domain: "",
  cost: "memory",
  infer(inputs, { axis }) {
    expectRows("LayerNormalization", inputs, axis);
    return [inputs[0]!];
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

/** Rows whose gradients of scale are summed by one thread; the sums of the blocks are then added in order. */
const BLOCK_ROWS = 64;

/**
 * `LayerNormGrad(dy, x, scale, sum?) -> dx, dscale`. With n = (x - mean(x)) r, the normed row, and g = dy scale:
 * dx = r (g - mean(g) - n mean(g n)), added to `sum` where it is given; dscale = sum over rows of dy n.
 */
export const LayerNormGrad = defineOp<LayerNormAttrs>({
  name: "LayerNormGrad",
  domain: "remat",
  cost: "memory",
  infer([dy, x, scale, sum], { axis }) {
    expectRows("LayerNormGrad", [x, scale], axis);
    const fits = x?.dtype === "f32" && !!dy && sameType(dy, x) && (!sum || sameType(sum, x));
    expectShape("LayerNormGrad", "x f32, dy and sum of its type", fits, dy, x, sum);
    return [x!, scale!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
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
  lower(e) {
    const [rows, columns] = e.type(e.input(1)!).shape as [number, number];
    const blocks = Math.ceil(rows / BLOCK_ROWS);
    const partial = e.used(1) ? e.scratch(blocks * columns * 4) : null;
    const dx = e.used(0) ? e.output(0) : null;
    const scalars = [rows, columns, { f32: e.attrs.epsilon }, BLOCK_ROWS];
    e.emit(Opcode.LayerNormGrad, [e.input(0), e.input(1), e.input(2), e.input(3), dx, partial], scalars);
    if (partial) e.emit(Opcode.ColumnSum, [partial, null, e.output(1)], [blocks, columns]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
  accumulates: { output: 0, input: 3 },
});
