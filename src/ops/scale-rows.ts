import { Opcode } from "../../assembly/opcodes.ts";
import type { TensorType } from "../graph/types.ts";
import { sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable, type OpDef } from "./types.ts";

/** `ScaleRows(x, factors) = x * factors`: each row of x f32[rows, columns] times its factor, f32[rows, 1]. */
export const ScaleRows: OpDef<NoAttrs> = defineOp<NoAttrs>({
  name: "ScaleRows",
  domain: "remat",
  cost: "memory",
  infer([x, factors]) {
    const fits = isMatrix(x) && !!factors && sameType(factors, columnOf(x));
    expectShape("ScaleRows", "x f32[rows, columns] and factors f32[rows, 1]", fits, x, factors);
    return [x!];
  },
  gradient(ctx) {
    const dy = ctx.grad(0)!;
    return [
      ctx.needs(0) ? ctx.builder.value(ScaleRows, [dy, ctx.input(1)], {}) : null,
      ctx.needs(1) ? ctx.builder.value(RowDot, [dy, ctx.input(0)], {}) : null,
    ];
  },
  body: (body, [x, factors]) => [body.op("Mul", [x!, factors!])],
  lower(e) {
    const [rows, columns] = e.type(e.input(0)!).shape as [number, number];
    e.emit(Opcode.ScaleRows, [e.input(0), e.input(1), e.output(0)], [rows, columns]);
  },
  inPlace: [[0, 0]],
});

/** `RowDot(a, b)`: the sum of a b over each row, f32[rows, 1]; a and b f32[rows, columns]. */
export const RowDot: OpDef<NoAttrs> = defineOp<NoAttrs>({
  name: "RowDot",
  domain: "remat",
  cost: "memory",
  infer([a, b]) {
    expectShape("RowDot", "two matrices f32[rows, columns]", isMatrix(a) && !!b && sameType(a, b), a, b);
    return [columnOf(a!)];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body: (body, [a, b]) => [body.op("ReduceSum", [body.op("Mul", [a!, b!]), body.ints([1])], { keepdims: 1 })],
  lower(e) {
    const [rows, columns] = e.type(e.input(0)!).shape as [number, number];
    e.emit(Opcode.RowDot, [e.input(0), e.input(1), e.output(0)], [rows, columns]);
  },
});

const isMatrix = (type: TensorType | null | undefined): type is TensorType => type?.dtype === "f32" && type.shape.length === 2;

const columnOf = ({ shape: [rows = 0] }: TensorType): TensorType => ({ dtype: "f32", shape: [rows, 1] });
