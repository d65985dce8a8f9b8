import { Opcode } from "../../assembly/opcodes.ts";
import { sameType, type TensorType } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type RMSNormAttrs = {
  /** Rows are normalised: -1. */
  readonly axis: number;
  readonly epsilon: number;
};

function expectRows(op: string, x: TensorType | null | undefined, scale: TensorType | null | undefined, axis: number): void {
  if (axis !== -1) throw new Error(`${op}: axis must be -1, got ${axis}`);
  const rows = areFloats(x, scale) && x!.shape.length === 2;
  const fits = rows && scale!.shape.length === 1 && scale!.shape[0] === x!.shape[1];
  expectShape(op, "x [rows, columns] and scale [columns] of one float type", fits, x, scale);
}

/** `RMSNormalization(x, scale) = x * scale / sqrt(mean(x^2) + epsilon)` over each row, summed in f32 (https://arxiv.org/abs/1910.07467). */
export const RMSNormalization = defineOp<RMSNormAttrs>({
  name: "RMSNormalization",
  domain: "",
  cost: "memory",
  infer([x, scale], { axis }) {
    expectRows("RMSNormalization", x, scale, axis);
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

/** Rows whose gradients of scale are summed by one thread; the sums of the blocks are then added in order. */
const BLOCK_ROWS = 64;

/**
 * `RMSNormGrad(dy, x, scale, sum?) -> dx, dscale`. With r = 1 / sqrt(mean(x^2) + epsilon) of a row and g = dy scale:
 * dx = r (g - x r^2 mean(g x)), added to `sum` where it is given; dscale = sum over rows of dy x r.
 */
export const RMSNormGrad = defineOp<RMSNormAttrs>({
  name: "RMSNormGrad",
  domain: "remat",
  cost: "memory",
  infer([dy, x, scale, sum], { axis }) {
    expectRows("RMSNormGrad", x, scale, axis);
    const fits = x?.dtype === "f32" && !!dy && sameType(dy, x) && (!sum || sameType(sum, x));
    expectShape("RMSNormGrad", "x f32, dy and sum of its type", fits, dy, x, sum);
    return [x!, scale!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
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
  lower(e) {
    const [rows, columns] = e.type(e.input(1)!).shape as [number, number];
    const blocks = Math.ceil(rows / BLOCK_ROWS);
    const partial = e.used(1) ? e.scratch(blocks * columns * 4) : null;
    const dx = e.used(0) ? e.output(0) : null;
    const scalars = [rows, columns, { f32: e.attrs.epsilon }, BLOCK_ROWS];
    e.emit(Opcode.RMSNormGrad, [e.input(0), e.input(1), e.input(2), e.input(3), dx, partial], scalars);
    if (partial) e.emit(Opcode.ColumnSum, [partial, null, e.output(1)], [blocks, columns]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
  accumulates: { output: 0, input: 3 },
});
