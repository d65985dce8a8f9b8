import { Opcode } from "../../assembly/opcodes.ts";
import { sameType, type TensorType } from "../graph/types.ts";
import { ColumnSum } from "./column-sum.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable, type OpDef } from "./types.ts";

/**
 * `ScaleColumns(x, magnitude, norm?, c?)`: x times magnitude / norm, one factor for each column, plus c; without a norm, x times
 * magnitude. All f32: x [rows, columns], magnitude and norm [columns], c [rows, columns] or one row [columns] for all. What DoRA
 * (https://arxiv.org/abs/2402.09353) does with the result of an adapted layer; the norm counts as a constant.
 */
export const ScaleColumns: OpDef<NoAttrs> = defineOp<NoAttrs>({
  name: "ScaleColumns",
  domain: "remat",
  cost: "memory",
  infer([x, magnitude, norm, c]) {
    const fits =
      x?.dtype === "f32" &&
      x.shape.length === 2 &&
      isRow(magnitude, x) &&
      (!norm || isRow(norm, x)) &&
      (!c || isRow(c, x) || sameType(c, x));
    expectShape(
      "ScaleColumns",
      "x f32[rows, columns], magnitude and norm f32[columns], and c f32[rows, columns] or f32[columns]",
      fits,
      x,
      magnitude,
      norm,
      c,
    );
    return [x!];
  },
  /** dx = dy magnitude / norm, dmagnitude = sum(dy x) / norm, dc = dy, summed where it is one row. */
  gradient(ctx) {
    const { builder } = ctx;
    const [x, magnitude, norm, c, dy] = [ctx.input(0), ctx.input(1), ctx.input(2), ctx.input(3), ctx.grad(0)!];
    const dc = () => (sameType(builder.type(c), builder.type(dy)) ? dy : builder.value(ColumnSum, [dy], {}));
    const divisor = norm === "" ? [] : [norm];
    return [
      ctx.needs(0) ? builder.value(ScaleColumns, [dy, magnitude, ...divisor], {}) : null,
      ctx.needs(1) ? builder.value(ColumnDot, [dy, x, ...divisor], {}) : null,
      null,
      ctx.needs(3) ? dc() : null,
    ];
  },
  body(body, [x, magnitude, norm, c]) {
    const scaled = body.op("Mul", [x!, norm ? body.op("Div", [magnitude!, norm]) : magnitude!]);
    return [c ? body.op("Add", [scaled, c]) : scaled];
  },
  lower(e) {
    const [x, c] = [e.input(0)!, e.input(3)];
    const [rows, columns] = e.type(x).shape as [number, number];
    const stride = c !== null && e.type(c).shape.length === 2 ? columns : 0;
    e.emit(Opcode.ScaleColumns, [x, e.input(1), e.input(2), c, e.output(0)], [rows, columns, stride]);
  },
  inPlace: [
    [0, 0],
    [0, 3],
  ],
});

/** `ColumnDot(dy, x, norm?, sum?)`: the sum over rows of dy x, divided by norm and added to `sum` where these are given, f32[columns]. */
export const ColumnDot: OpDef<NoAttrs> = defineOp<NoAttrs>({
  name: "ColumnDot",
  domain: "remat",
  cost: "memory",
  infer([dy, x, norm, sum]) {
    const fits =
      dy?.dtype === "f32" &&
      dy.shape.length === 2 &&
      !!x &&
      sameType(dy, x) &&
      [norm, sum].every((row) => !row || isRow(row, dy));
    expectShape("ColumnDot", "dy and x f32[rows, columns], norm and sum f32[columns]", fits, dy, x, norm, sum);
    return [{ dtype: "f32", shape: [dy!.shape[1]!] }];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [dy, x, norm, sum]) {
    const total = body.op("ReduceSum", [body.op("Mul", [dy!, x!]), body.ints([0])], { keepdims: 0 });
    const scaled = norm ? body.op("Div", [total, norm]) : total;
    return [sum ? body.op("Add", [sum, scaled]) : scaled];
  },
  lower(e) {
    const [rows, columns] = e.type(e.input(0)!).shape as [number, number];
    e.emit(Opcode.ColumnDot, [e.input(0), e.input(1), e.input(2), e.input(3), e.output(0)], [rows, columns]);
  },
  accumulates: { output: 0, input: 3 },
});

/** Tells whether a vector has an element for each column of a matrix. */
function isRow(type: TensorType | null | undefined, { shape: [, columns] }: TensorType): boolean {
  return type?.dtype === "f32" && type.shape.length === 1 && type.shape[0] === columns;
}
